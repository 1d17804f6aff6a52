"""Predicts several numbers of a text or of a pair of texts (regression with several targets)."""

import dataclasses

import jax.numpy as jnp

from train import losses
from train.common.errors import UserError
from train.data import label_vectors
from train.data.label_layout import parse_number
from train.scoring import scores
from train.tasks.pooled import PooledTask
from train.tasks.windows import check_numbers

FIELD = "label_{}"  # the field with the number of target 0, 1, ..., which no tokenizer learns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers(PooledTask):
  """Learns the numbers in the fields `label_0`, `label_1`, ... given one or two fields of text."""

  targets: tuple[str, ...] = ()  # the name of each number

  hf_problem = "regression"

  def __post_init__(self):
    super().__post_init__()
    if not self.targets or len(set(self.targets)) < len(self.targets):
      raise UserError(f"task.targets is {self.targets}: name each column of numbers once")

  @property
  def columns(self) -> tuple[str, ...]:
    return (*self.fields, *self._columns)

  @property
  def _columns(self) -> tuple[str, ...]:
    return tuple(map(FIELD.format, range(len(self.targets))))

  @property
  def encoder(self) -> label_vectors.Numbers:
    return label_vectors.Numbers(self.tokenizer, self.fields, self._columns)

  @property
  def loss_key(self):
    return ("numbers", self.targets, *self.head_key)

  @property
  def outputs_of_head(self):
    return self.targets

  @classmethod
  def loss_names(cls, section):
    return ("loss",)

  @classmethod
  def score_names(cls, section):
    kinds = scores.NAMES["regression"]
    return (*kinds, *(f"{kind}_{target}" for target in section["targets"] for kind in kinds))

  def items(self, split):
    examples = self.examples(split)
    for column in self._columns:
      check_numbers(self.data, split, (example[column] for example in examples))
    return super().items(split)

  def sums(self, logits_BSC, batch):
    """Returns the mean over examples of the mean squared error of all numbers."""
    labels_BSC = jnp.stack([batch[f"labels_{i}"] for i in range(len(self.targets))], axis=-1)
    return {"loss": losses.squared_error(logits_BSC, labels_BSC, batch["weights"])}

  def soft_loss(self, logits_BSC, teacher_BSC, batch, temperature):
    return losses.squared_error(logits_BSC, teacher_BSC, batch["weights"])

  def output(self, logits, settings):
    """Returns the number of each target in `values` and, with tabs between, as `text`."""
    values = dict(zip(self.targets, logits.tolist()))
    return dict(text="\t".join(f"{value:.4f}" for value in values.values()), values=values)

  def render(self, output, *, scores, colour):
    """Formats each target with its number."""
    if scores:
      raise UserError("--scores: a regression has no probabilities")
    return "\t".join(f"{target}\t{value:.4f}" for target, value in output["values"].items())

  def score(self, outputs, examples):
    """Returns the scores of each target, `pearson_TARGET` and so on, and their means."""
    each = {}
    for target, column in zip(self.targets, self._columns):
      labels = [parse_number(example[column]) for example in examples]
      each[target] = scores.numbers([output["values"][target] for output in outputs], labels)
    return scores.mean_of_columns(each)
