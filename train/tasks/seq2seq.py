"""Defines the base of tasks with a decoder, trained by teacher forcing, predicting by search."""

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
from train.common.intervals import SEEDS
from train.data.roles import Roles
from train.tasks.base import HuggingFace, Rows, Settings, Task, option

LEAST_TEMPERATURE = 1e-4  # logits divided by less leave float32
OF_BEAMS = ("length_penalty", "penalty", "stop")  # settings of a search by several beams
NO_SAMPLING = "does not sample (temperature 0): set --temperature"
SAMPLING = "samples (temperature above 0): leave it out, or set --temperature 0"
GREEDY = "is greedy (one beam): set --beam 2 or more"
MOST_TOKENS = 2**24  # rows x hypotheses x length of one decoding batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding(Settings):
  """The search for outputs: by beams (greedily with one), or by sampling with a temperature."""

  beam: int = option(4, "beams; 1: greedy", "[1, 1000]")
  length_penalty: float = option(
    0.6, "exponent of the length penalty (Wu et al. 2016); 0: none", "[-10, 10]"
  )
  penalty: str = option(
    "wu", f"formula that is raised to length_penalty: {', '.join(decoding.PENALTIES)}"
  )
  stop: str = option("exact", f"when beam search ends: {', '.join(decoding.STOPS)}")
  temperature: float = option(0.0, "above 0: sampling in place of beams", "[0, 1000]")
  top_k: int = option(0, "sampling from so many of the likeliest tokens; 0: from all", "[0, inf)")
  top_p: float = option(
    1.0, "sampling from the likeliest tokens of this total probability", "(0, 1]"
  )
  nbest: int = option(1, "outputs for each input", "[1, 1000]")
  max_len_ratio: float = option(
    1.0, "tokens of an output for each token of its source, at most", "[0, 1000]"
  )
  max_len_extra: int = option(50, "additional tokens of an output, eos included", "[0, 1000000]")
  seed: int = option(0, "seed of sampling", SEEDS)

  def __post_init__(self):
    super().__post_init__()
    if not self.temperature and self.nbest > self.beam:
      raise UserError(
        f"nbest is {self.nbest} and beam {self.beam}: a search returns at most as many outputs as"
        f" it has beams; set beam to {self.nbest} or more"
      )
    if 0 < self.temperature < LEAST_TEMPERATURE:
      raise UserError(
        f"temperature is {self.temperature}: expects 0, or {LEAST_TEMPERATURE} or more; beam=1"
        " takes the likeliest token"
      )
    if not self.max_len_ratio and not self.max_len_extra:
      raise UserError("max_len_ratio and max_len_extra are 0: no output would have a token")
    choose(decoding.PENALTIES, self.penalty, "decoding.penalty")
    choose(dict.fromkeys(decoding.STOPS), self.stop, "decoding.stop")

  def tag(self):
    return ["sampled"] if self.temperature else [f"beam{self.beam}"]

  def check_size(self, rows: int, source_len: int) -> None:
    """Raises UserError where a batch of `rows` requests would hold more than MOST_TOKENS."""
    tokens = rows * max(self.beam, self.nbest) * self.longest(source_len)
    if tokens > MOST_TOKENS:
      raise UserError(
        f"decoding {rows} rows with beam {self.beam}, nbest {self.nbest} and outputs of up to"
        f" {self.longest(source_len):,} tokens takes {tokens:,} tokens at a time, more than"
        f" {MOST_TOKENS:,}: lower max_len_ratio, max_len_extra, beam or the rows (--batch_size,"
        " task.decode_batch)"
      )

  def longest(self, source_len: int) -> int:
    """Returns the most tokens of an output for a source of `source_len` tokens."""
    return math.ceil(self.max_len_ratio * source_len + self.max_len_extra)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderTask(Task):
  """A task whose decoder writes tokens, with an encoder unless source_len is 0. A subclass adds
  `items` and `requests`. The methods here suit tasks whose output is the target alone."""

  label_smoothing: float = 0.0
  z_loss: float = 0.0
  loss_chunks: int = 1  # parts of a row whose logits are computed one by one, to save memory
  decoding: Mapping | Decoding = Decoding()

  settings_class = Decoding
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
    encoder_key, decoder_key = layers.split(key, 2)
    memory_BSD = self.encode(model, batch, encoder_key) if "source" in batch else None
    x_BTD = model.decode(
      batch["inputs"],
      memory_BSD,
      batch.get("source_segments"),
      batch["segments"],
      batch["positions"],
      decoder_key,
      prefix=batch.get("prefix"),
    )
    options = dict(label_smoothing=self.label_smoothing, z_loss=self.z_loss)
    return losses.chunked(
      model.logits, x_BTD, batch["labels"], batch["weights"], self.loss_chunks, **options
    )

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

  def predict(self, model, batch, settings):
    """Returns what follows each source [B, S]: tokens [B, N, T], scores [B, N], lengths [B, N]."""
    roles, segments_BS = self.tokenizer.roles, batch["source_segments"]
    rows, source_len = segments_BS.shape
    forced = [roles.start, *roles.target_first] if roles.force else [roles.start]
    length = len(forced) - 1 + settings.longest(source_len)
    cache, first_B = model.init_cache(rows, length, self.encode(model, batch), segments_BS), None
    if len(forced) > 1:
      prompt_BT = jnp.tile(np.asarray(forced, np.int32), (rows, 1))
      cache, first_B = model.prefill(prompt_BT, jnp.full(rows, len(forced), jnp.int32), cache)
    return search(model, cache, batch, settings, segments_BS.sum(1), roles, first_B)

  def outputs(self, examples, requests, predictions, settings):
    """Returns the best output as `text` with its `score`, and `nbest`."""
    return [output(prediction, self.tokenizer.decode) for prediction in predictions]

  def continuations(self, examples, predictions) -> list[dict]:
    """Returns `output` of the examples' texts, each followed by its continuation."""
    starts = self.tokenizer.encode_batch([example["text"] for example in examples])
    return [
      output(prediction, lambda ids, start=start: self.tokenizer.decode([*start, *ids]))
      for start, prediction in zip(starts, predictions)
    ]

  def render(self, output, *, scores, colour):
    """Formats a line for each of the n best, after its log-probability (length-penalized for beams)
    if `scores`."""
    lines = output["nbest"]
    return "\n".join(f"{x['score']:.4f}\t{x['text']}" if scores else x["text"] for x in lines)

  def hugging_face(self):
    return HuggingFace(self.hf_kind, decoding=self.decoding)


def truncated(rows: Sequence[Sequence[int]], longest: int, roles: Roles) -> Rows:
  """Returns sources with their special tokens, of at most `longest` tokens each; the log reports
  how many are longer."""
  framed = [roles.source(ids, longest) for ids in rows]
  if losing := sum(len(roles.source(ids, 2**31)) > longest for ids in rows):
    logging.warning(f"of {len(rows)} inputs, {losing} are truncated to task.source_len={longest}")
  return Rows(framed)


def search(model, cache, batch, settings: Decoding, length_B, roles: Roles, first_B=None) -> dict:
  """Returns the outputs by `settings` for requests of `length_B` tokens, from a cache and the token
  before the outputs (None: the start)."""
  row_B, max_len = batch["row"], settings.longest(batch["source"].shape[1])
  limit_B = (settings.max_len_ratio * length_B + settings.max_len_extra).astype(np.int32)
  limits = decoding.Limits(max_len, limit_B, roles.start, roles.eos, roles.pad, first_B)
  if settings.temperature:
    outputs = decoding.sample(
      model.decode_step,
      cache,
      limits,
      jax.random.key(settings.seed),
      ids_B=row_B,
      num_samples=settings.nbest,
      temperature=settings.temperature,
      top_k=settings.top_k or None,
      top_p=settings.top_p,
    )
  elif settings.beam == 1:
    outputs = decoding.greedy(model.decode_step, cache, limits)
  else:
    outputs = decoding.beam_search(
      model.decode_step,
      cache,
      limits,
      num_beams=settings.beam,
      num_return=settings.nbest,
      length_penalty=settings.length_penalty,
      penalty=settings.penalty,
      stop=settings.stop,
      before=len(roles.target_first) if roles.force else 0,
    )
  return dict(tokens=outputs.tokens, scores=outputs.scores, lengths=outputs.lengths, row=row_B)


def output(prediction: Mapping, text_of: Callable[[list[int]], str]) -> dict:
  """Returns a row of `search` as `text`, `score` and `nbest`, the best first."""
  pairs = zip(prediction["tokens"].tolist(), prediction["scores"].tolist())
  nbest = [dict(text=text_of(ids), score=score) for ids, score in pairs if math.isfinite(score)]
  if not nbest:
    raise UserError("no output has a finite score: the weights are nan, training has diverged")
  return nbest[0] | dict(nbest=nbest)
