"""Classes of texts or of pairs of texts, and numbers (regression), by an encoder."""

import collections
import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from absl import logging

from model import heads, layers
from train.common.errors import UserError, choose
from train.data import encoders, labelled, sources
from train.data.tokenizer import Tokenizer
from train.scoring import classes, scores
from train.tasks import requests
from train.tasks.encoder import label_logits, label_loss

POOLS = {"first": "the first token's state, as BERT's", "mean": "the mean of all"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
  """Learns `label` given one or two fields of text."""

  data: Mapping  # train/data/sources.py; examples have the fields and a "label"
  tokenizer: Tokenizer
  source_len: int  # tokens in a row, bos and eos included
  labels: tuple[str, ...] = ()  # () : those of the training split
  fields: tuple[str, ...] = ("text",)  # one, or two for pairs
  regression: bool = False  # labels are numbers
  pool: str = "first"  # first (BERT's), mean
  pool_activation: str = "tanh"  # after the first token's dense layer
  stride: int = 0  # long texts in windows that begin so many tokens apart; 0: cut
  label_smoothing: float = 0.0
  pack: bool = True
  decode_batch: int = 32

  has_score = True
  target_len = 0

  def __post_init__(self):
    choose(POOLS, self.pool, "task.pool")
    choose(layers.ACTIVATIONS, self.pool_activation, "task.pool_activation")
    if not 1 <= len(self.fields) <= 2:
      raise UserError(f"task.fields is {self.fields}: one text, or two")

  label_field = "label"

  @staticmethod
  def labels_of(example) -> list[str]:
    return [example["label"]]

  @property
  def encoder(self) -> encoders.Classes:
    return encoders.Classes(self.tokenizer, self.fields, None if self.regression else self.labels)

  @property
  def loss_key(self) -> tuple:
    head = (self.labels, self.regression, self.pool, self.pool_activation)
    return ("classification", *head, self.label_smoothing)

  @property
  def max_positions(self) -> int:
    return self.source_len

  def head(self, cfg, rngs):
    count = 1 if self.regression else len(self.labels)
    return heads.LabelHead(cfg, count, pool=self.pool, activation=self.pool_activation, rngs=rngs)

  def examples(self, split):
    return sources.open_split(self.data, split, (*self.fields, "label"))

  def items(self, split):
    examples = self.examples(split)
    if not self.regression:
      check_labels(split, (example["label"] for example in examples), self.labels)
    return labelled.Labelled(examples, self.encoder, self.source_len, self.stride)

  def loss(self, model, batch, key):
    if not self.regression:
      return label_loss(model, batch, key, self.label_smoothing)
    weights_BS = batch["weights"]
    error_BS = jnp.square(label_logits(model, batch, key)[..., 0] - batch["labels"])
    return {"loss": ((error_BS * weights_BS).sum(), weights_BS.sum())}

  def settings(self, **changes):
    return requests.changed(requests.Settings(), "classification", changes)

  def example(self, text):
    """A text, or two with a tab between; UserError for another number of texts."""
    texts = text.split("\t") if len(self.fields) > 1 else [text]
    if len(texts) != len(self.fields):
      raise UserError(f"{text!r}: give two texts ({', '.join(self.fields)}) with a tab between")
    return dict(zip(self.fields, texts))

  def requests(self, examples):
    return labelled.Labelled(labelled.Typed(examples), self.encoder, self.source_len, self.stride)

  def predict(self, model, batch, settings):
    del settings
    return {"logits": label_logits(model, batch)[:, 0]}

  def outputs(self, examples, asked, predictions, settings):
    """`text` is the label, `probs` has all, best first; or the number is `value`. Windows are
    averaged."""
    del settings
    windows = [[] for _ in examples]
    for (number, _), prediction in zip(asked.index, predictions):
      windows[number].append(prediction["logits"])
    return [self._output(np.mean(logits, axis=0)) for logits in windows]

  def _output(self, logits):
    if self.regression:
      return dict(text=f"{logits[0]:.4f}", value=float(logits[0]))
    probs = np.exp(logits - logits.max())
    probs = (probs / probs.sum()).tolist()
    best = sorted(zip(self.labels, probs), key=lambda pair: -pair[1])
    return dict(text=best[0][0], score=best[0][1], probs=dict(best))

  def render(self, output, *, scores, colour):
    """The label and its probability, with `scores` all of them; or the number."""
    del colour
    if self.regression:
      if scores:
        raise UserError("--scores: a task of numbers has none")
      return output["text"]
    shown = list(output["probs"].items())[: None if scores else 1]
    return "\t".join(f"{label}\t{prob:.4f}" for label, prob in shown)

  def score(self, outputs, examples):
    if self.regression:
      wanted = [float(example["label"]) for example in examples]
      return scores.numbers([output["value"] for output in outputs], wanted)
    wanted = [example["label"] for example in examples]
    return scores.classes([output["text"] for output in outputs], wanted)

  def report(self, outputs, examples):
    if self.regression:
      return None
    return classes.of_classes([x["text"] for x in outputs], [x["label"] for x in examples])


def check_labels(split: str, labels, known) -> None:
  """Logs which labels of a split are not known, and how often they are there; in training they are
  a UserError."""
  count, told = unknown_labels(labels, known)
  if count:
    if split == "train":
      raise UserError(f"task.labels are {', '.join(known)}; training also has {told}")
    logging.warning(
      "%s: %d labels are none of the training split's %d: they have no loss and count as wrong: %s",
      *(split, count, len(known), told),
    )


def unknown_labels(labels, known) -> tuple[int, str]:
  """How many of `labels` are not among `known`, and the commonest of them with their numbers."""
  unknown = collections.Counter(labels)
  for label in known:
    del unknown[label]
  told = ", ".join(f"{label!r} ({count})" for label, count in unknown.most_common(5))
  return unknown.total(), told
