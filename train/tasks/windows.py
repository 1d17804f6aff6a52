"""Defines the base of tasks with an encoder and labels, for texts read in overlapping windows."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from absl import logging

from model import heads, layers
from train import losses
from train.common.decimals import parse_decimal
from train.common.errors import UserError, choose
from train.data import labelled, sources
from train.data.source import read_all
from train.tasks.base import BPE_WITH_MASK, Task
from train.tasks.states import label_states


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderTask(Task):
  """A task that predicts labels by a head on the states of an encoder, or of a decoder if the model
  has one (states.label_states). A subclass adds `encoder`, which lays labels along tokens
  (train/data/labelled.py), `head`, `predictions`, `outputs` and `score`, and with labels also
  `labels` and `label_smoothing`, else `sums` and `loss_names`."""

  source_len: int = 128  # tokens in a row, special ones included
  stride: int = 0  # tokens from one window's start to the next's; 0: long texts are truncated

  labels = ()
  default_tokenizer = BPE_WITH_MASK
  has_score = True
  one_pass = True
  any_stack = True

  @property
  def max_positions(self):
    return self.source_len, self.source_len

  def token_head(self, cfg, count: int, rngs) -> heads.LabelHead:
    """Builds the head that scores `count` labels at each token, by the fields `transform` and
    `head_activation`."""
    choose(dict.fromkeys(heads.TRANSFORMS), self.transform, "task.transform")
    choose(layers.ACTIVATIONS, self.head_activation, "task.head_activation")
    options = dict(transform=self.transform, activation=self.head_activation, rngs=rngs)
    return heads.LabelHead(cfg, count, pool="token", **options)

  def labels_of(self, example) -> Sequence[str]:
    """Returns the labels that an example has under `label_column`."""
    return _list_labels(example[self.label_column])

  @classmethod
  def find_labels(cls, source, section: Mapping) -> set[str]:
    """Returns the labels of a source's examples for the task of a section."""
    return {
      label for example in read_all(source) for label in _list_labels(example[cls.label_column])
    }

  def items(self, split):
    examples = self.examples(split)
    if self.labels:
      labels = (label for example in read_all(examples) for label in self.labels_of(example))
      check_labels(split, labels, self.labels)
    return labelled.Labelled(examples, self.encoder, self.source_len, self.stride)

  def requests(self, examples):
    source = labelled.ListSource(examples)
    return labelled.Labelled(source, self.encoder, self.source_len, self.stride)

  def logits(self, model, batch, key=None):
    """Returns the head's logits at every token [B, S, C]; no key means no dropout."""
    body_key, head_key = layers.split(key, 2)
    segments_BS, behind = batch["source_segments"], self.tokenizer.roles.source_last
    if behind:  # a text ends with eos
      segments_BS = jnp.where(jnp.isin(batch["source"], jnp.asarray(behind)), 0, segments_BS)
    states_BSD = label_states(model, batch, self.tokenizer.roles, body_key, self.global_mask(batch))
    return model.head(states_BSD, segments_BS, head_key)

  def sums(self, logits_BSC, batch) -> dict[str, tuple]:
    """Returns the loss, as `loss` does, for the logits of a batch: that of labels with weight."""
    return losses.cross_entropy(
      logits_BSC, batch["labels"], batch["weights"], label_smoothing=self.label_smoothing
    )

  def predictions(self, logits_BSC) -> dict[str, Any]:
    """Returns the predictions at each token, [B, S, ...], for the logits of a batch."""
    raise NotImplementedError

  def loss(self, model, batch, key):
    return self.sums(self.logits(model, batch, key), batch)

  def predict(self, model, batch, settings):
    return self.predictions(self.logits(model, batch))

  def loss_and_predictions(self, model, batch):
    logits_BSC = self.logits(model, batch)
    return self.sums(logits_BSC, batch), self.predictions(logits_BSC)


def _list_labels(labels: str | Sequence[str]) -> Sequence[str]:
  return [labels] if isinstance(labels, str) else labels


def check_labels(split: str, labels: Iterable[str], known: Sequence[str]) -> None:
  """Logs the unknown labels of a split with counts; raises UserError for the training split."""
  count, commonest = unknown_labels(labels, known)
  if count:
    if split == "train":
      raise UserError(f"task.labels are {', '.join(known)}; training also has {commonest}")
    logging.warning(
      f"{split}: labels that are none of the training split's {len(known)}: {count}, which have no"
      f" loss (nor part in token_accuracy) and are wrong in the scores: {commonest}"
    )


def check_any_known(task, split: str, file: str) -> None:
  """Raises UserError where the model knows none of the labels in a file."""
  known = getattr(task, "labels", ())
  if not known:
    return
  labels = [
    label for example in read_all(task.examples(split)) for label in task.labels_of(example)
  ]
  count, commonest = unknown_labels(labels, known)
  if labels and count == len(labels):
    raise UserError(
      f"{file}: the model knows none of the labels, {commonest}; it has {', '.join(known)[:500]}."
      " Name the columns, --columns TEXT+LABEL, or correct the labels"
    )


def check_numbers(data: Mapping, split: str, labels: Iterable[str]) -> None:
  """Raises UserError, with file and line, for a label that is no finite decimal number."""
  for number, label in enumerate(labels, 1):
    if parse_decimal(label) is None:
      place = sources.find_line(data, split, label) or f"{split}, example {number}"
      raise UserError(
        f"{place}: the label {label!r} is no decimal number, such as -0.5; correct it or leave the"
        " example out"
      )


def unknown_labels(labels: Iterable[str], known: Iterable[str]) -> tuple[int, str]:
  """Returns how many of `labels` are not among `known`, and the commonest of those with counts."""
  known = set(known)
  unknown = collections.Counter(label for label in labels if label not in known)
  commonest = ", ".join(f"{label!r} ({count})" for label, count in unknown.most_common(5))
  return unknown.total(), commonest
