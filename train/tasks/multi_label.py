"""Predicts any number of labels of a text or of a pair of texts, each by itself."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from train import losses
from train.common.errors import UserError
from train.data import label_vectors
from train.data.source import read_all
from train.scoring import classes, scores
from train.tasks import class_weights
from train.tasks.base import Settings, option
from train.tasks.pooled import PooledTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice(Settings):
  """The setting by which labels are chosen."""

  threshold: float = option(0.5, "an output has the labels above this probability", "[0, 1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiLabel(PooledTask):
  """Learns the set of labels in the column `labels`, by a sigmoid for each label.

  A cell of a table has the labels with `separator` between them, .jsonl also a list of texts. An
  empty one has no label.
  """

  labels: tuple[str, ...] = ()  # (): those of the training split
  separator: str = ","
  class_weights: str = ""  # of a label where it holds: LABEL:NUMBER+LABEL:NUMBER, or "balanced"
  choice: Mapping | Choice = Choice()

  label_column = "labels"
  settings_class = Choice
  hf_problem = "multi_label_classification"

  def __post_init__(self):
    super().__post_init__()
    if not self.separator.strip():
      raise UserError(f"task.separator is {self.separator!r}; it must be a mark such as ','")
    if self.data.get("label_names"):
      raise UserError("data.label_names: a multi_label task reads the names themselves; remove it")
    if self.class_weights and self.class_weights != class_weights.BALANCED:
      class_weights.parse(self.class_weights, self.labels)

  @property
  def columns(self) -> tuple[str, ...]:
    return (*self.fields, "labels")

  @property
  def encoder(self) -> label_vectors.LabelSets:
    return label_vectors.LabelSets(self.tokenizer, self.fields, self.labels, self.separator)

  @property
  def loss_key(self):
    return ("multi_label", self.labels, *self.head_key, self.class_weights)

  def labels_of(self, example):
    return label_vectors.split_labels(example["labels"], self.separator)

  @classmethod
  def find_labels(cls, source, section):
    separator = section.get("separator", cls.separator)
    cells = [example["labels"] for example in read_all(source)]
    label_vectors.check_separator(cells, separator)
    return {label for cell in cells for label in label_vectors.split_labels(cell, separator)}

  @classmethod
  def loss_names(cls, section):
    return ("loss",)

  @classmethod
  def score_names(cls, section):
    return scores.NAMES["label sets"]

  @functools.cached_property
  def _label_weights(self) -> list[float]:
    """Returns the weight of each label where it holds; balanced: examples without it over with."""
    if self.class_weights != class_weights.BALANCED:
      return class_weights.parse(self.class_weights, self.labels)
    training = self.examples("train")
    sets = list(map(self.labels_of, read_all(training)))
    counts = [sum(label in labels for labels in sets) for label in self.labels]
    return [(len(sets) - count) / count if 0 < count < len(sets) else 1.0 for count in counts]

  def sums(self, logits_BSC, batch):
    """Returns the mean over examples of the mean binary cross-entropy of all labels."""
    holds_BSC = self._bits(batch)
    loss_BSC = -jax.nn.log_sigmoid(jnp.where(holds_BSC, logits_BSC, -logits_BSC))
    if self.class_weights:
      loss_BSC *= jnp.where(holds_BSC, jnp.asarray(self._label_weights), 1.0)
    weights_BS = batch["weights"]
    return {"loss": ((loss_BSC.mean(-1) * weights_BS).sum(), weights_BS.sum())}

  def soft_loss(self, logits_BSC, teacher_BSC, batch, temperature):
    """Returns the divergence of each label's yes and no, their mean over the labels."""
    both = (jnp.stack([x, -x], axis=-1) / 2 for x in (logits_BSC, teacher_BSC))
    weights_BSC = batch["weights"][..., None] / logits_BSC.shape[-1]
    weights_BSC = jnp.broadcast_to(weights_BSC, logits_BSC.shape)
    return losses.divergence(*both, weights_BSC, temperature)

  def _bits(self, batch):
    """Returns whether each label holds: bool [B, S, C]."""
    count = len(self.labels)
    keys = (f"labels_{number}" for number in range(-(-count // label_vectors.BITS)))
    numbers_BSN = jnp.stack([batch[key] for key in keys], axis=-1)
    bits = (numbers_BSN[..., None] >> jnp.arange(label_vectors.BITS)) & 1
    return bits.reshape(*numbers_BSN.shape[:2], -1)[..., :count] > 0

  def settings(self, **changes):
    return self.choice.changed(changes, self)

  def output(self, logits, settings):
    """Returns the labels above the threshold as `labels` and, with separators, as `text`, and the
    probability of each label in `probs`, the likeliest first."""
    probs = (1 / (1 + np.exp(-logits.astype(np.float64)))).tolist()
    ranked = dict(sorted(zip(self.labels, probs), key=lambda pair: -pair[1]))
    labels = [label for label, prob in ranked.items() if prob > settings.threshold]
    return dict(text=self.separator.join(labels), labels=labels, probs=ranked)

  def render(self, output, *, scores, colour):
    """Formats the labels and their probabilities, with `scores` those of all labels."""
    shown = output["probs"] if scores else output["labels"]
    return "\t".join(f"{label}\t{output['probs'][label]:.4f}" for label in shown) or "(no label)"

  def _sets(self, outputs, examples):
    return [output["labels"] for output in outputs], list(map(self.labels_of, examples))

  def score(self, outputs, examples):
    return scores.label_sets(*self._sets(outputs, examples))

  def report(self, outputs, examples):
    return classes.label_set_report(*self._sets(outputs, examples))
