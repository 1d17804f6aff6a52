"""Predicts classes of texts or of pairs of texts, and numbers (regression), by an encoder."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from train import losses
from train.common.errors import UserError
from train.data import label_layout
from train.data.source import read_all
from train.scoring import classes, scores
from train.tasks import class_weights
from train.tasks.pooled import PooledTask
from train.tasks.windows import check_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(PooledTask):
  """Learns `label` given one or two fields of text."""

  labels: tuple[str, ...] = ()  # (): those of the training split
  regression: bool = False  # labels are numbers
  label_smoothing: float = 0.0
  class_weights: str = ""  # in the loss: LABEL:NUMBER+LABEL:NUMBER, or "balanced"; "": all alike

  label_column = "label"

  def __post_init__(self):
    super().__post_init__()
    if self.class_weights and self.regression:
      raise UserError("task.class_weights: a regression has no classes; set it to ''")
    if self.class_weights and self.class_weights != class_weights.BALANCED:
      class_weights.parse(self.class_weights, self.labels)

  @property
  def columns(self) -> tuple[str, ...]:
    return (*self.fields, "label")

  @property
  def encoder(self) -> label_layout.Classes:
    labels = None if self.regression else self.labels
    return label_layout.Classes(self.tokenizer, self.fields, labels)

  @property
  def loss_key(self):
    head = (self.labels, self.regression, *self.head_key)
    return ("classification", *head, self.label_smoothing, self.class_weights)

  @property
  def outputs_of_head(self):
    return ("value",) if self.regression else self.labels

  @property
  def hf_problem(self):
    return "regression" if self.regression else ""

  @functools.cached_property
  def _label_weights(self) -> list[float]:
    """Returns the weight of each label in the loss."""
    if self.class_weights != class_weights.BALANCED:
      return class_weights.parse(self.class_weights, self.labels)
    labels = (example["label"] for example in read_all(self.examples("train")))
    return class_weights.balance(self.labels, labels)

  @classmethod
  def loss_names(cls, section):
    return ("loss",) if section["regression"] else super().loss_names(section)

  @classmethod
  def score_names(cls, section):
    return scores.NAMES["regression" if section["regression"] else "classes"]

  def items(self, split):
    if self.regression:
      labels = (example["label"] for example in read_all(self.examples(split)))
      check_numbers(self.data, split, labels)
    return super().items(split)

  def sums(self, logits_BSC, batch):
    if self.class_weights:
      return self._weighted_sums(logits_BSC, batch)
    if not self.regression:
      return super().sums(logits_BSC, batch)
    return {"loss": losses.squared_error(logits_BSC, batch["labels"][..., None], batch["weights"])}

  def target_weights(self, batch):
    if not self.class_weights:
      return batch["weights"]
    return batch["weights"] * jnp.asarray(self._label_weights)[batch["labels"]]

  def soft_loss(self, logits_BSC, teacher_BSC, batch, temperature):
    if self.regression:
      return losses.squared_error(logits_BSC, teacher_BSC, batch["weights"])
    return super().soft_loss(logits_BSC, teacher_BSC, batch, temperature)

  def _weighted_sums(self, logits_BSC, batch):
    """Returns the loss in which an example counts as often as its label weighs; `nll` and `right`
    are without these weights."""
    labels_BS = batch["labels"]
    sums = losses.cross_entropy(logits_BSC, labels_BS, batch["weights"])
    weights_BS = self.target_weights(batch)
    weighted = losses.cross_entropy(
      logits_BSC, labels_BS, weights_BS, label_smoothing=self.label_smoothing
    )
    return {"loss": weighted["loss"], "nll": sums["nll"], "right": sums["right"]}

  def output(self, logits, settings):
    """Returns the label as `text` and all of them in `probs`, the best first, or the number as
    `value`."""
    if self.regression:
      return dict(text=f"{logits[0]:.4f}", value=float(logits[0]))
    probs = np.exp(logits - logits.max())
    probs = (probs / probs.sum()).tolist()
    best = sorted(zip(self.labels, probs), key=lambda pair: -pair[1])
    return dict(text=best[0][0], score=best[0][1], probs=dict(best))

  def render(self, output, *, scores, colour):
    """Formats the label and its probability, with `scores` all of them; or the number."""
    if self.regression:
      if scores:
        raise UserError("--scores: a regression has no probabilities")
      return output["text"]
    shown = list(output["probs"].items())[: None if scores else 1]
    return "\t".join(f"{label}\t{prob:.4f}" for label, prob in shown)

  def score(self, outputs, examples):
    labels = [example["label"] for example in examples]
    if self.regression:
      return scores.numbers(
        [output["value"] for output in outputs], list(map(label_layout.parse_number, labels))
      )
    return scores.classes([output["text"] for output in outputs], labels)

  def report(self, outputs, examples):
    if self.regression:
      return None
    return classes.class_report([x["text"] for x in outputs], [x["label"] for x in examples])
