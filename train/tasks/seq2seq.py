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
from model.constraints import Constraints
from train import losses
from train.common.errors import UserError, choose
from train.common.intervals import SEEDS
from train.data import languages
from train.data.roles import Roles
from train.tasks.base import HuggingFace, Rows, Settings, Task, option

LEAST_TEMPERATURE = 1e-4  # logits divided by less leave float32
OF_BEAMS = ("length_penalty", "penalty", "stop")  # settings of a search by several beams
NO_SAMPLING = "does not sample (temperature 0): set --temperature"
SAMPLING = "samples (temperature above 0): leave it out, or set --temperature 0"
GREEDY = "is greedy (one beam): set --beam 2 or more"
GENERATIONS = ("ours", "transformers")
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
  max_len_total: int = option(
    0, "tokens of a prompt and its output together, at most; 0: any", "[0, 1000000]"
  )
  min_len: int = option(0, "tokens of an output before it may end", "[0, 1000000]")
  no_repeat_ngram: int = option(
    0, "no so many tokens in a row occur twice in an output; 0: they may", "[0, 1000]"
  )
  repetition_penalty: float = option(
    1.0, "above 1: makes tokens that an output has less likely (Keskar et al. 2019)", "(0, 1000]"
  )
  banned: tuple = option((), "sequences of ids that no output has")
  begin_banned: tuple = option((), "ids that no output begins with")
  forced_last: tuple = option(
    (), "ids one of which ends a longest output (generation=transformers)"
  )
  generation: str = option(
    "ours",
    "whose search it is; transformers: token for token that of its generate, where an output of the"
    " greatest length just ends",
  )
  seed: int = option(0, "seed of sampling", SEEDS)

  def __post_init__(self):
    super().__post_init__()
    choose(dict.fromkeys(GENERATIONS), self.generation, "decoding.generation")
    if self.strict and not self.temperature and self.beam > 1 and self.penalty != "length":
      raise UserError(
        f"generation is transformers and penalty {self.penalty}: there is only penalty=length"
      )
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

  @property
  def strict(self) -> bool:
    """Returns whether outputs are those of transformers' generate."""
    return self.generation == "transformers"

  @property
  def rules(self) -> Constraints:
    """Returns which tokens the search may not choose."""
    last = self.forced_last if self.strict else ()
    return Constraints(
      self.min_len,
      self.no_repeat_ngram,
      self.repetition_penalty,
      self.banned,
      self.begin_banned,
      last,
    )

  def tag(self):
    search = ["sampled"] if self.temperature else [f"beam{self.beam}"]
    return [*search, self.generation] if self.strict else search

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
    """Returns the most tokens of an output for a source of at most `source_len` tokens."""
    longest = math.ceil(self.max_len_ratio * source_len + self.max_len_extra)
    return min(longest, max(self.max_len_total - 1, 1)) if self.max_len_total else longest


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderTask(Task):
  """A task whose decoder writes tokens, with an encoder unless source_len is 0. A subclass adds
  `items` and `requests`. The methods here suit tasks whose output is the target alone."""

  label_smoothing: float = 0.0
  z_loss: float = 0.0
  loss_chunks: int = 1  # parts of a row whose logits are computed one by one, to save memory
  decoding: Mapping | Decoding = Decoding()

  settings_class = Decoding
  search_tokens = 2**14
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
  rows = len(batch["row"])
  depth = batch["row"].size // rows
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
