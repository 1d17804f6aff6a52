"""Defines the base of tasks with a decoder, trained by teacher forcing, predicting by search."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from model import decoding, layers, strict_beams
from train import losses
from train.common.errors import UserError
from train.data import languages
from train.data.roles import Roles
from train.tasks.base import HuggingFace, Task
from train.tasks.decoding_settings import Decoding
from train.tasks.requests import Rows

OF_BEAMS = ("length_penalty", "penalty", "stop")  # settings of a search by several beams
NO_SAMPLING = "does not sample (temperature 0): set --temperature"
SAMPLING = "samples (temperature above 0): leave it out, or set --temperature 0"
GREEDY = "is greedy (one beam): set --beam 2 or more"
DEFAULT = Decoding()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderTask(Task):
  """A task whose decoder writes tokens, with an encoder unless source_len is 0. A subclass adds
  `items` and `requests`. The methods here suit tasks whose output is the target alone."""

  label_smoothing: float = 0.0
  z_loss: float = 0.0
  loss_chunks: int = 1  # parts of a row whose logits are computed one by one, to save memory
  decoding: Mapping | Decoding = DEFAULT

  settings_class = Decoding
  search_tokens = 2**13
  hf_kind = "translation"
  loss_name = "text to text"  # tasks with another loss have another name

  @property
  def loss_key(self):
    return (self.loss_name, self.label_smoothing, self.z_loss, self.loss_chunks)

  @property
  def max_positions(self):
    output = len(self.tokenizer.roles.target_first) + self.decoding.longest(self.source_len)
    return self.source_len, max(self.target_len, output)

  def loss(self, model, batch, key):
    """Returns the cross-entropy of `labels` given `inputs` and `source`, if there is one."""
    x_BTD = self.states(model, batch, key)
    return self._loss_of(model.logits, x_BTD, batch, self.loss_chunks)

  def logits(self, model, batch, key=None):
    return model.logits(self.states(model, batch, key))

  def sums(self, logits_BTV, batch):
    return self._loss_of(lambda x: x, logits_BTV, batch, 1)

  def states(self, model, batch, key=None):
    """Returns the decoder's states [B, T, D] of a batch; no key means no dropout."""
    encoder_key, decoder_key = layers.split(key, 2)
    memory_BSD = self.encode(model, batch, encoder_key) if "source" in batch else None
    return model.decode(
      batch["inputs"],
      memory_BSD,
      batch.get("source_segments"),
      batch["segments"],
      batch["positions"],
      decoder_key,
      prefix=batch.get("prefix"),
    )

  def _loss_of(self, logits_of, x_BTD, batch, chunks: int):
    options = dict(label_smoothing=self.label_smoothing, z_loss=self.z_loss)
    return losses.chunked(logits_of, x_BTD, batch["labels"], batch["weights"], chunks, **options)

  def settings(self, **changes) -> Decoding:
    """Returns the config's decoding with `changes`, where beams exclude sampling; raises UserError
    for a change that has no effect."""
    if "beam" in changes and "temperature" not in changes:
      changes = {**changes, "temperature": 0.0}
    settings = self.decoding.changed(changes, self)
    useless = dict.fromkeys(("top_k", "top_p", "seed"), NO_SAMPLING)
    if settings.temperature:
      useless = dict.fromkeys(("beam", *OF_BEAMS), SAMPLING)
    elif settings.beam == 1:
      useless |= dict.fromkeys(OF_BEAMS, GREEDY)
    for key in changes:
      if key in useless:
        raise UserError(f"--{key} has no effect, as decoding {useless[key]}")
    return settings

  def configured(self, rows=None, **changes):
    task = dataclasses.replace(super().configured(rows), decoding=self.settings(**changes))
    task.decoding.check_size(task.decode_batch, task.source_len or task.target_len)
    return task

  def rows_at_a_time(self, settings, platform):
    rows = self.decode_batch
    return min(rows, settings.rows_on_cpu()) if platform == "cpu" else rows

  def begin(self, model, batch, roles):
    """Returns what a search begins with: a cache, the token before each output (None: the start),
    the lengths of the requests, and the texts before the outputs (None: that token)."""
    segments_BS = batch["source_segments"]
    rows, forced = len(segments_BS), languages.prompt(roles)
    prompt_BT = jnp.tile(np.asarray(forced, np.int32), (rows, 1))
    prompt_BT = batch.get("prompt", prompt_BT)[:, : len(forced)]  # a row may have its own language
    prompted = len(forced) > 1 or "prompt" in batch
    memory_BSD, length = self.encode(model, batch), len(forced) if prompted else 0
    cache, first_B = model.init_cache(rows, length, memory_BSD, segments_BS), None
    if prompted:
      cache, first_B = model.prefill(prompt_BT, jnp.full(rows, len(forced), jnp.int32), cache)
    return cache, first_B, segments_BS.sum(1), prompt_BT

  def predict(self, model, batch, settings):
    """Returns what follows each source [B, S]: tokens [B, N, T], scores [B, N], lengths [B, N]."""
    roles = languages.filled(self.tokenizer.roles, batch)
    begun = in_turn(lambda batch: self.begin(model, batch, roles), batch)
    return search(model, *begun, batch, settings, roles)

  def outputs(self, examples, requests, predictions, settings):
    """Returns the best output as `text` with its `score`, and `nbest`."""
    return [output(prediction, self.tokenizer.decode) for prediction in predictions]

  def continuations(self, examples, predictions) -> list[dict]:
    """Returns `output` of the examples' texts, each followed by its continuation."""
    starts = self.tokenizer.encode_batch([example["text"] for example in examples])
    return [
      output(prediction, lambda ids, start=start: self.tokenizer.decode(ids, after=start))
      for start, prediction in zip(starts, predictions)
    ]

  def render(self, output, *, scores, colour):
    """Formats a line for each of the n best, after its log-probability (length-penalized for beams)
    if `scores`."""
    lines = output["nbest"]
    return "\n".join(f"{x['score']:.4f}\t{x['text']}" if scores else x["text"] for x in lines)

  def hugging_face(self):
    return HuggingFace(self.hf_kind, decoding=self.decoding)


def truncated(rows: Sequence[Sequence[int]], longest: int, frames: Sequence[Roles]) -> Rows:
  """Returns sources in their frames, of at most `longest` tokens each; the log reports how many are
  longer."""
  framed = [roles.source(ids, longest) for roles, ids in zip(frames, rows)]
  if losing := sum(len(x.source(ids, 2**31)) > longest for x, ids in zip(frames, rows)):
    logging.warning(f"of {len(rows)} inputs, {losing} are truncated to task.source_len={longest}")
  return Rows(framed, languages.prompts(frames))


def in_turn(function: Callable, batch):
  """Returns the function of a batch, computed for as many requests at a time as there are rows, so
  that its numbers do not depend on how many requests there are."""
  rows, depth = batch["row"].shape
  if depth == 1:
    return function(batch)

  def turns(x):
    return x.reshape(rows, depth, *x.shape[1:]).swapaxes(0, 1)

  flat = {**batch, "row": batch["row"].reshape(-1)}
  parts = jax.lax.map(function, jax.tree.map(turns, flat))
  return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(rows * depth, *x.shape[2:]), parts)


def search(model, cache, first_B, length_B, prompt_BT, batch, settings, roles: Roles) -> dict:
  """Returns the outputs by `settings` for requests of `length_B` tokens, from what
  `DecoderTask.begin` returned; -1 begins the shorter ones of `prompt_BT`."""
  row_B, max_len = batch["row"].reshape(-1), settings.longest(batch["source"].shape[1])
  limit_B = (settings.max_len_ratio * length_B + settings.max_len_extra).astype(np.int32)
  if settings.max_len_total:
    limit_B = jnp.minimum(limit_B, settings.max_len_total - length_B)
  limit_B = jnp.where(row_B < 0, -1, limit_B)  # requests that fill up the batch
  tokens = roles.start, roles.output_ends, roles.pad
  rules = settings.rules, prompt_BT, settings.strict
  limits = decoding.Limits(max_len, limit_B, *tokens, first_B, *rules)
  method, options = decoding.greedy, dict(rows=len(batch["row"]))
  if settings.temperature:
    method = functools.partial(decoding.sample, key=jax.random.key(settings.seed))
    options |= dict(ids_B=row_B, num_samples=settings.nbest, temperature=settings.temperature)
    options |= dict(top_k=settings.top_k or None, top_p=settings.top_p)
  elif settings.beam > 1:
    method = strict_beams.beam_search if settings.strict else decoding.beam_search
    before = len(roles.target_first) if roles.force else 0
    options |= dict(num_beams=settings.beam, num_return=settings.nbest, before=before)
    options |= dict(length_penalty=settings.length_penalty, stop=settings.stop)
    options |= {} if settings.strict else dict(penalty=settings.penalty)
  outputs = method(model.decode_step, cache, limits, **options)
  return dict(tokens=outputs.tokens, scores=outputs.scores, lengths=outputs.lengths, row=row_B)


def output(prediction: Mapping, text_of: Callable[[list[int]], str]) -> dict:
  """Returns a row of `search` as `text`, `score` and `nbest`, the best first."""
  pairs = zip(prediction["tokens"].tolist(), prediction["scores"].tolist())
  nbest = [dict(text=text_of(ids), score=score) for ids, score in pairs if math.isfinite(score)]
  if not nbest:
    raise UserError("no output has a finite score: the weights are nan, training has diverged")
  return nbest[0] | dict(nbest=nbest)
