"""Answers as spans of a text, by an encoder that points at their ends (Devlin et al. 2019)."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from model import heads
from train import losses
from train.common.errors import UserError
from train.data import encoders, labelled, sources
from train.data.tokenizer import Tokenizer
from train.scoring import scores
from train.tasks import requests
from train.tasks.encoder import label_logits

CANDIDATES = 20  # starts and ends of a window that are combined


@dataclasses.dataclass(frozen=True)
class Reading(requests.Settings):
  """no_answer: "" may be the answer, if it scores more than the best span by `threshold`."""

  no_answer: bool = False
  threshold: float = 0.0
  max_answer: int = 30  # tokens
  nbest: int = 1  # answers to tell

  def __post_init__(self):
    if not 1 <= self.nbest <= CANDIDATES or self.max_answer < 1:
      raise UserError(
        f"nbest {self.nbest} must be 1 to {CANDIDATES}, and max_answer {self.max_answer} 1 or more"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qa:
  """Learns where in `context` the first of `answers` to `question` begins and ends."""

  data: Mapping  # train/data/sources.py; SQuAD's fields
  tokenizer: Tokenizer
  source_len: int  # tokens in a window: question, part of the context, bos and two eos
  stride: int = 128  # tokens from one window's beginning to the next's; 0: cut
  reading: Mapping = dataclasses.field(default_factory=dict)
  pack: bool = True
  decode_batch: int = 32

  has_score = True
  target_len = 0

  @property
  def encoder(self) -> encoders.Answers:
    return encoders.Answers(self.tokenizer)

  @property
  def loss_key(self) -> tuple:
    return ("qa",)

  @property
  def max_positions(self) -> int:
    return self.source_len

  def head(self, cfg, rngs):
    return heads.LabelHead(cfg, 2, pool="token", rngs=rngs)

  def examples(self, split):
    return sources.open_split(self.data, split, ("question", "context", "answers"))

  def items(self, split):
    return labelled.Labelled(self.examples(split), self.encoder, self.source_len, self.stride)

  def loss(self, model, batch, key):
    """Mean of the two ends' losses, each over the answerable places of its window."""
    logits_BSC, segments_BS = self._logits(model, batch, key), batch["source_segments"]
    sums = [
      losses.pointer(logits_BSC[..., end], batch[name], segments_BS)
      for end, name in enumerate(("starts", "ends"))
    ]
    count = batch["weights"].sum()
    loss, right = (sum(parts) / 2 for parts in zip(*sums))
    return {"loss": (loss, count), "right": (right, count)}

  def _logits(self, model, batch, key=None):
    logits_BSC = label_logits(model, batch, key)
    return jnp.where(batch["answerable"][..., None] > 0, logits_BSC, -1e9)

  def settings(self, **changes):
    return requests.changed(Reading(**self.reading), "qa", changes)

  def example(self, text):
    """A question, a tab and a text."""
    question, tab, context = text.partition("\t")
    if not tab:
      raise UserError(f"{text!r}: give a question, a tab and the text that answers it")
    return {"question": question, "context": context}

  def requests(self, examples):
    return labelled.Labelled(labelled.Typed(examples), self.encoder, self.source_len, self.stride)

  def predict(self, model, batch, settings):
    del settings
    logits_BSC = self._logits(model, batch)
    return {"starts": logits_BSC[..., 0], "ends": logits_BSC[..., 1]}

  def outputs(self, examples, asked, predictions, settings):
    """The best span of all windows: `text`, its characters `start` to `end`, `score` (its share
    among the best few), `nbest`. No answer is ""."""
    spans, none = [[] for _ in examples], [np.inf] * len(examples)
    encoded = self.encoder.encode(examples)
    for (number, window), found in zip(asked.index, predictions):
      shift = window.start - asked.head_length(number)
      none[number] = min(none[number], float(found["starts"][0] + found["ends"][0]))
      spans[number] += _spans(found["starts"], found["ends"], shift, settings.max_answer)
    return [
      _answer(example, one.label[0], found, empty, settings)
      for example, one, found, empty in zip(examples, encoded, spans, none)
    ]

  def render(self, output, *, scores, colour):
    """The n best answers, with `scores` their probability and characters before them."""
    del colour
    lines = []
    for one in output["nbest"]:
      head = f"{one['score']:.4f}\t{one['start']}-{one['end']}\t" if scores else ""
      lines.append(head + (" ".join(one["text"].split()) or "(no answer)"))
    return "\n".join(lines)

  def score(self, outputs, examples):
    wanted = [[answer["text"] for answer in example["answers"]] for example in examples]
    return scores.answers([output["text"] for output in outputs], wanted)

  def report(self, outputs, examples):
    del outputs, examples


def _spans(starts, ends, shift, longest):
  """(score, first, last) in body tokens of a window's likeliest spans."""
  first, last = (np.argsort(-x[1:])[:CANDIDATES] + 1 for x in (starts, ends))
  return [
    (float(starts[a] + ends[b]), int(a) + shift, int(b) + shift)
    for a in first
    for b in last
    if a <= b < a + longest and starts[a] > -1e8 and ends[b] > -1e8
  ]


def _answer(example, characters, spans, empty, how):
  best, seen = [], set()
  for score, first, last in sorted(spans, reverse=True):
    place = characters[first][0], characters[last][1]
    if place not in seen:
      seen.add(place)
      best.append(
        dict(text=example["context"][slice(*place)], start=place[0], end=place[1], raw=score)
      )
    if len(best) == CANDIDATES:
      break
  nothing = dict(text="", start=0, end=0, raw=empty)
  if not best:
    best = [nothing]
  elif how.no_answer:
    # the threshold decides on the first place, the score on those behind it
    first = empty > best[0]["raw"] + how.threshold
    place = 0 if first else max(1, sum(one["raw"] >= empty for one in best))
    best.insert(place, nothing)
  share = np.exp(np.asarray([one["raw"] for one in best]) - max(one["raw"] for one in best))
  for one, p in zip(best, (share / share.sum()).tolist()):
    one["score"] = p
    del one["raw"]
  return best[0] | dict(nbest=best[: how.nbest])
