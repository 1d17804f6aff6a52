"""What tasks of an encoder-decoder (or a decoder alone) share: loss, decoding, outputs."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from model import decoding, layers
from train import losses
from train.common.errors import UserError, choose
from train.data.tokenizer import Tokenizer
from train.data.vocabulary import Roles
from train.tasks.encoder import encode
from train.tasks.requests import Rows, changed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
  """How outputs are searched; static under jit. temperature 0: beam search (greedy with 1 beam)."""

  beam: int = 4
  length_penalty: float = 0.6
  penalty: str = "wu"  # what its power is of: see model/decoding.py's PENALTIES
  stop: str = "exact"  # when beams end: see `beam_search` there
  temperature: float = 0.0  # above 0: sampling
  top_k: int = 0  # 0: all
  top_p: float = 1.0
  nbest: int = 1
  max_len_ratio: float = 1.0  # an output has at most ratio * source + extra tokens, eos included
  max_len_extra: int = 50
  seed: int = 0

  def __post_init__(self):
    if self.beam < 1 or self.nbest < 1 or (not self.temperature and self.nbest > self.beam):
      raise UserError(f"nbest {self.nbest} and beam {self.beam}: 1 <= nbest <= beam")
    choose(decoding.PENALTIES, self.penalty, "decoding.penalty")
    choose(dict.fromkeys(decoding.STOPS), self.stop, "decoding.stop")
    if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
      raise UserError("temperature and top_k must be at least 0, top_p in (0, 1]")

  def tag(self) -> list[str]:
    """What to name a file of outputs by."""
    return ["sampled"] if self.temperature else [f"beam{self.beam}"]


def loss(task, model, batch, key):
  """Cross-entropy of `labels` given `inputs` and, if there is one, `source`, with the task's
  label_smoothing, z_loss and loss_chunks."""
  encoder_key, decoder_key = layers.split(key, 2)
  memory_BSD = encode(model, batch, encoder_key) if "source" in batch else None
  x_BTD = model.decode(
    batch["inputs"],
    memory_BSD,
    batch.get("source_segments"),
    batch["segments"],
    batch["positions"],
    decoder_key,
    prefix=batch.get("prefix"),
  )
  return losses.chunked(
    model.logits,
    x_BTD,
    batch["labels"],
    batch["weights"],
    task.loss_chunks,
    label_smoothing=task.label_smoothing,
    z_loss=task.z_loss,
  )


def loss_key(task, name: str) -> tuple:
  """What tasks that share a loss have alike."""
  return (name, task.label_smoothing, task.z_loss, task.loss_chunks)


def settings(config: Mapping, task: str, changes: Mapping) -> Decoding:
  """The config's way of decoding with `changes`; to ask for beams is not to sample.

  UserError for a change that has no use.
  """
  if "beam" in changes and "temperature" not in changes:
    changes = {**changes, "temperature": 0.0}
  made = changed(Decoding(**config), task, changes)
  useless = (
    ("beam", "length_penalty", "penalty", "stop")
    if made.temperature
    else ("top_k", "top_p", "seed")
  )
  for key in changes:
    if key in useless:
      how = (
        "samples (temperature above 0)" if made.temperature else "does not sample (temperature 0)"
      )
      raise UserError(f"--{key} has no use, as decoding {how}: change that with --temperature")
  return made


def cut(rows: Sequence[Sequence[int]], longest: int, roles: Roles) -> Rows:
  """Sources with what frames them, of at most `longest` tokens; how many lose something is
  logged."""
  framed = [roles.source(ids, longest) for ids in rows]
  if losing := sum(len(roles.source(ids, 2**31)) > longest for ids in rows):
    logging.warning(
      "of %d inputs, %d are truncated to task.source_len=%d", len(rows), losing, longest
    )
  return Rows(framed)


def predict(model, batch, settings: Decoding, roles: Roles):
  """What follows each source [B, S]: tokens [B, N, T], scores [B, N], lengths [B, N]."""
  source_BS, segments_BS = batch["source"], batch["source_segments"]
  limit_B = settings.max_len_ratio * segments_BS.sum(1) + settings.max_len_extra
  max_len = math.ceil(settings.max_len_ratio * source_BS.shape[1] + settings.max_len_extra)
  first = roles.target_first if roles.force else ()
  forced, rows = np.asarray([roles.start, *first], np.int32), len(source_BS)
  room = len(forced) - 1 + max_len
  cache = model.init_cache(rows, room, encode(model, batch), segments_BS)
  first_B = None
  if first:
    length_B = jnp.full(rows, len(forced), jnp.int32)
    cache, first_B = model.prefill(jnp.tile(forced, (rows, 1)), length_B, cache)
  return search(model, cache, batch["row"], settings, max_len, limit_B, roles, first_B)


def search(
  model, cache, row_B, settings: Decoding, max_len: int, limit_B, roles: Roles, first_B=None
) -> dict:
  """The outputs that `settings` ask for, from a cache and the token before them (None: start)."""
  limit_B = limit_B.astype(np.int32)
  common = dict(bos=roles.start, eos=roles.eos, pad=roles.pad, first_B=first_B)
  common |= dict(max_len=max_len, limit_B=limit_B)
  if settings.temperature:
    found = decoding.sample(
      model.decode_step,
      cache,
      jax.random.key(settings.seed),
      ids_B=row_B,
      num_samples=settings.nbest,
      temperature=settings.temperature,
      top_k=settings.top_k or None,
      top_p=settings.top_p,
      **common,
    )
  elif settings.beam == 1:
    found = decoding.greedy(model.decode_step, cache, **common)
  else:
    found = decoding.beam_search(
      model.decode_step,
      cache,
      num_beams=settings.beam,
      num_return=settings.nbest,
      length_penalty=settings.length_penalty,
      penalty=settings.penalty,
      stop=settings.stop,
      before=len(roles.target_first) if roles.force else 0,
      **common,
    )
  return dict(tokens=found.tokens, scores=found.scores, lengths=found.lengths, row=row_B)


def output(prediction: Mapping, text_of: Callable[[list[int]], str]) -> dict:
  """A row of `search` as `text`, `score` and `nbest`, best first."""
  texts = [text_of(ids) for ids in prediction["tokens"].tolist()]
  found = [
    dict(text=text, score=score)
    for text, score in zip(texts, prediction["scores"].tolist())
    if math.isfinite(score)
  ]
  if not found:
    raise UserError("no output has a finite score: the weights are nan, training has diverged")
  return dict(text=found[0]["text"], score=found[0]["score"], nbest=found)


def continued(prediction: Mapping, tokenizer: Tokenizer, before: str) -> dict:
  """`output` of what goes on from a text, behind that text."""
  (start,) = tokenizer.encode_batch([before])
  return output(prediction, lambda ids: tokenizer.decode([*start, *ids]))


def render(output: Mapping, *, scores: bool, colour: bool) -> str:
  """A line for each of the n best; `scores` puts log-probabilities first (length-penalised if they
  are beams')."""
  del colour
  lines = output["nbest"]
  return "\n".join(f"{x['score']:.4f}\t{x['text']}" if scores else x["text"] for x in lines)


def longest_output(settings: Decoding, source_len: int) -> int:
  """The most tokens that decoding may give for a source of that length."""
  return math.ceil(settings.max_len_ratio * source_len + settings.max_len_extra)
