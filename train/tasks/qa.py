"""Finds answers as spans of a text by an encoder that marks their ends (Devlin et al. 2019)."""

import dataclasses
import itertools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from train import losses
from train.common.errors import UserError
from train.data import label_layout
from train.scoring import scores
from train.tasks.base import HuggingFace, Settings, option
from train.tasks.windows import EncoderTask

CANDIDATES = 20  # starts and ends of a window that are combined


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading(Settings):
  """The settings by which answers are chosen."""

  no_answer: bool = option(False, "a question may have no answer")
  threshold: float = option(
    0.0, "the answer is empty if its score exceeds the best span's by more than this"
  )
  max_answer: int = option(30, "tokens of an answer, at most", "[1, inf)")
  nbest: int = option(1, "answers to each question", f"[1, {CANDIDATES}]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qa(EncoderTask):
  """Learns where in `context` the first of `answers` to `question` begins and ends."""

  source_len: int = 256  # tokens in a window: question, part of the context, bos and two eos
  stride: int = 128
  reading: Mapping | Reading = Reading()
  transform: str = "none"  # layers before the marks, see heads.LabelHead
  head_activation: str = "gelu"  # of the transform

  columns = ("question", "context")
  settings_class = Reading
  hf_kind = "qa"
  per_token = True

  @property
  def loss_key(self):
    return ("qa", self.transform, self.head_activation)

  @property
  def encoder(self) -> label_layout.Answers:
    return label_layout.Answers(self.tokenizer)

  @classmethod
  def loss_names(cls, section):
    return ("loss", "token_accuracy")

  @classmethod
  def score_names(cls, section):
    return scores.NAMES["answers"]

  def items(self, split):
    check_answers(self.examples(split), f"the split {split!r}")
    return super().items(split)

  def head(self, cfg, rngs):
    return self.token_head(cfg, 2, rngs)

  def hugging_face(self):
    return HuggingFace("qa", (), self.head_activation, transform=self.transform)

  def sums(self, logits_BSC, batch):
    """Returns the mean of the two ends' losses, each over the answerable tokens of its window."""
    segments_BS = batch["source_segments"]
    sums = [
      losses.pointer(logits_BSC[..., end], batch[name], segments_BS)
      for end, name in enumerate(("starts", "ends"))
    ]
    count = batch["weights"].sum()
    loss, right = (sum(parts) / 2 for parts in zip(*sums))
    return {"loss": (loss, count), "right": (right, count)}

  def soft_loss(self, logits_BSC, teacher_BSC, batch, temperature):
    """Returns the mean divergence of the two ends' distributions over the tokens of each window."""
    segments_BS = batch["source_segments"]
    same_BTS = segments_BS[:, :, None] == segments_BS[:, None, :]
    sums = []
    for end, name in enumerate(("starts", "ends")):
      both = (jnp.where(same_BTS, x[:, None, :, end], -1e9) for x in (logits_BSC, teacher_BSC))
      marks_BT = batch[name].astype(jnp.float32)  # once in a window
      sums.append(losses.divergence(*both, marks_BT, temperature)[0])
    return sum(sums) / 2, batch["weights"].sum()

  def logits(self, model, batch, key=None):
    logits_BSC = super().logits(model, batch, key)
    return jnp.where(batch["answerable"][..., None] > 0, logits_BSC, -1e9)

  def settings(self, **changes):
    settings = self.reading.changed(changes, self)
    if "threshold" in changes and not settings.no_answer:
      raise UserError("--threshold has no effect, as each question has an answer: set --no_answer")
    return settings

  def example(self, text):
    """Returns a question and the text behind a tab as an example; raises UserError without one."""
    question, tab, context = text.partition("\t")
    if not tab:
      raise UserError(f"{text!r}: give a question, a tab and the text that answers it")
    return {"question": question, "context": context}

  def predictions(self, logits_BSC):
    return {"starts": logits_BSC[..., 0], "ends": logits_BSC[..., 1]}

  def outputs(self, examples, requests, predictions, settings):
    """Returns the best span of all windows: `text` ("" for no answer), its characters `start` to
    `end`, `score` (its share among the best few), and `nbest`."""
    spans, none = [[] for _ in examples], [np.inf] * len(examples)
    encoded = self.encoder.encode(examples)
    for (number, window), prediction in zip(requests.index, predictions):
      starts, ends = prediction["starts"], prediction["ends"]
      shift = window.start - requests.head_length(number)
      none[number] = min(none[number], float(starts[0] + ends[0]))
      spans[number] += _spans(starts, ends, shift, settings.max_answer)
    return [
      _answer(example, encoding.label[0], best, empty, settings)
      for example, encoding, best, empty in zip(examples, encoded, spans, none)
    ]

  def render(self, output, *, scores, colour):
    """Formats the n best answers, with `scores` each behind its probability and its characters."""
    lines = []
    for answer in output["nbest"]:
      head = f"{answer['score']:.4f}\t{answer['start']}-{answer['end']}\t" if scores else ""
      lines.append(head + (" ".join(answer["text"].split()) or "(no answer)"))
    return "\n".join(lines)

  def score(self, outputs, examples):
    check_answers(examples, "the data")
    references = [[answer["text"] for answer in example["answers"]] for example in examples]
    return scores.answers([output["text"] for output in outputs], references)


def check_answers(examples, where: str) -> None:
  """Raises UserError if an example has no `answers` to learn from or to compare with."""
  if count := sum("answers" not in example for example in examples):
    raise UserError(
      f"{where} has no references: {count} of {len(examples)} questions have no 'answers'; give a"
      " file with answers (an empty list for a question that has none), or use train.predict"
    )


def _spans(starts, ends, shift, longest):
  """Returns (score, first, last) of a window's likeliest spans, in tokens of the body."""
  first, last = (np.argsort(-x[1:])[:CANDIDATES] + 1 for x in (starts, ends))
  return [
    (float(starts[a] + ends[b]), int(a) + shift, int(b) + shift)
    for a in first
    for b in last
    if a <= b < a + longest and starts[a] > -1e8 and ends[b] > -1e8
  ]


def _answer(example, characters, spans, empty, settings):
  """Returns the best answer with the n best; `empty` is the score of no answer."""
  raw = {}  # the best score of each place, best first
  for score, first, last in sorted(spans, reverse=True):
    raw.setdefault((characters[first][0], characters[last][1]), score)
  best = [
    dict(text=example["context"][start:end], start=start, end=end, raw=score)
    for (start, end), score in itertools.islice(raw.items(), CANDIDATES)
  ]
  nothing = dict(text="", start=0, end=0, raw=empty)
  if not best:
    best = [nothing]
  elif settings.no_answer:
    # The threshold decides about the first place, the score about those behind it.
    first = empty > best[0]["raw"] + settings.threshold
    place = 0 if first else max(1, sum(answer["raw"] >= empty for answer in best))
    best.insert(place, nothing)
  raw = np.asarray([answer.pop("raw") for answer in best])
  shares = np.exp(raw - raw.max())
  for answer, share in zip(best, (shares / shares.sum()).tolist()):
    answer["score"] = share
  return best[0] | dict(nbest=best[: settings.nbest])
