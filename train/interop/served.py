"""Opens an export with the library that it was written for, to predict as a task's step does."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import tokenizers


@dataclasses.dataclass(frozen=True)
class Served:
  """An export as others serve it: `step` predicts as a task's step does, `encode` returns the ids
  of a text with its special tokens (None: unknown)."""

  step: Callable
  encode: Callable | None


class _Encoder:
  """An export's states and head, in the place of a task's model, of which they are an encoder's."""

  decoder = None

  def __init__(self, compute: Callable):
    self.compute = compute

  def encode(self, source, segments, positions, key=None, types=None, global_mask=None):
    """Returns what the export computes for each row, [B, S, ...]."""
    del positions, key, global_mask
    rows = []
    for number, (ids, seen) in enumerate(zip(np.asarray(source), np.asarray(segments) > 0)):
      kinds = None if types is None else np.asarray(types)[number][seen].tolist()
      x_SC = self.compute(ids[seen].tolist(), kinds) if seen.any() else None
      rows.append(x_SC)
    width = next(x.shape[-1] for x in rows if x is not None)
    whole = np.zeros((len(rows), np.shape(source)[1], width), np.float32)
    for row, x_SC in zip(whole, rows):
      if x_SC is not None:
        row[: len(x_SC)] = x_SC
    return jnp.asarray(whole)

  @staticmethod
  def head(x_BSC, *_):
    """Returns what `encode` returned: the export's head is in it."""
    return x_BSC

  logits = head


def _by_tokens(generate: Callable, task, length: int) -> Callable:
  """Returns a step that generates the ids after each row's tokens."""

  def step(params, batch, settings):
    del params, settings
    source, segments = np.asarray(batch["source"]), np.asarray(batch["source_segments"])
    tokens = np.full((len(source), 1, length + 1), task.tokenizer.roles.pad, np.int32)
    numbers = np.asarray(batch["row"]).reshape(-1)
    for row, number, ids, seen in zip(tokens, numbers, source, segments > 0):
      if number >= 0:
        output = generate(ids[seen].tolist())[: length - 1]  # the last is eos
        row[0, : len(output) + 1] = [*output, task.tokenizer.roles.eos]
    zeros = np.zeros((len(source), 1), np.float32)
    return dict(tokens=tokens, scores=zeros, lengths=zeros, row=numbers)

  return step


def _without(ids: Sequence[int], first: Sequence[int], eos: int) -> list[int]:
  """Returns the ids behind the tokens `first`, up to the first eos."""
  ids = list(ids)[len(first) :] if list(ids[: len(first)]) == list(first) else list(ids)
  return ids[: ids.index(eos)] if eos in ids else ids


def open_ctranslate2(folder: pathlib.Path, task, settings) -> Served:
  """Opens a CTranslate2 model; `settings` are those of generation, {} for an encoder."""
  import ctranslate2 as library

  names, roles = json.loads(_vocabulary(folder).read_text("utf-8")), task.tokenizer.roles
  ids_of = {name: i for i, name in enumerate(names)}
  file = folder / "tokenizer.json"
  encode = None
  if file.exists():
    inner = tokenizers.Tokenizer.from_file(str(file))
    encode = lambda *texts: inner.encode(*texts).ids  # noqa: E731
  if not settings:
    encoder = library.Encoder(str(folder), device="cpu")

    def compute(ids, kinds):
      options = {} if kinds is None else dict(token_type_ids=[kinds])
      states = encoder.forward_batch([[names[i] for i in ids]], **options).last_hidden_state
      return np.array(states)[0]

    return Served(functools.partial(_predict, task, _Encoder(compute)), encode)
  options = json.loads((folder / "generation.json").read_text("utf-8"))
  # all but the search: greedy outputs are compared
  search = ("beam_size", "length_penalty", "patience", "num_hypotheses", "max_length")
  search += ("max_decoding_length", "sampling_temperature", "sampling_topk", "sampling_topp")
  options = {key: value for key, value in options.items() if key not in search}
  limit = settings["max_len_extra"] - 1 or 1
  first = roles.target_first if roles.force else ()

  def generate(ids):
    words = [[names[i] for i in ids]]
    if task.hf_kind == "causal":
      (result,) = model.generate_batch(words, beam_size=1, max_length=limit, **options)
      return _without([ids_of[name] for name in result.sequences[0]], (), roles.eos)
    prefix = [[names[i] for i in first]] if first else None
    (result,) = model.translate_batch(
      words,
      prefix,
      beam_size=1,
      max_decoding_length=limit + len(first),
      **options,
    )
    return _without([ids_of[name] for name in result.hypotheses[0]], first, roles.eos)

  loaded = library.Generator if task.hf_kind == "causal" else library.Translator
  model = loaded(str(folder), device="cpu")
  return Served(_by_tokens(generate, task, settings["max_len_extra"]), encode)


def _vocabulary(folder: pathlib.Path) -> pathlib.Path:
  names = ("shared_vocabulary.json", "vocabulary.json", "target_vocabulary.json")
  return next(folder / name for name in names if (folder / name).exists())


def _predict(task, model, params, batch, settings):
  del params
  return task.predict(model, batch, settings)


def open_transformers(folder: pathlib.Path, task, settings) -> Served:
  """Opens a Hugging Face directory by transformers; `settings` as in `open_ctranslate2`."""
  os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
  os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch is slow on a shared machine without
  import transformers

  config = transformers.AutoConfig.from_pretrained(folder)
  loaded = getattr(transformers, config.architectures[0])
  model, roles = loaded.from_pretrained(folder).eval(), task.tokenizer.roles
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  encode = lambda *texts: tokenizer(*texts)["input_ids"]  # noqa: E731

  def tensors(ids, **more):
    fields = dict(input_ids=[ids], attention_mask=[[1] * len(ids)], **more)
    if config.is_encoder_decoder and hasattr(config, "attention_window"):  # none is global there
      fields["global_attention_mask"] = [[1] + [0] * (len(ids) - 1)]
    return transformers.BatchEncoding(fields, tensor_type="pt")

  if not settings:

    def compute(ids, kinds):
      types = {} if kinds is None else dict(token_type_ids=[kinds])
      output = model(**tensors(ids, **types))
      names = ("start_logits", "end_logits") if "start_logits" in output else ("logits",)
      names = names if names[0] in output else ("last_hidden_state",)
      parts = [output[name][0].detach().numpy() for name in names]
      return np.stack(parts, axis=-1) if len(parts) > 1 else parts[0]

    def rows(ids, kinds):
      x = compute(ids, kinds)
      if task.hf_kind == "replaced":
        return x.reshape(-1, 1)
      return x[None] if x.ndim == 1 else x  # a classifier's logits are its first token's

    return Served(functools.partial(_predict, task, _Encoder(rows)), encode)
  limit = settings["max_len_extra"]
  first = roles.target_first if roles.force else ()

  def generate(ids):
    options = dict(num_beams=1, num_return_sequences=1, do_sample=False)
    options |= dict(max_new_tokens=limit + len(first))
    output = model.generate(**tensors(ids), **options)[0].tolist()
    before = len(ids) if task.hf_kind == "causal" else 1
    return _without(output[before:], first, roles.eos)

  return Served(_by_tokens(generate, task, limit), encode)


OPENED = dict(hf=open_transformers, ctranslate2=open_ctranslate2)
