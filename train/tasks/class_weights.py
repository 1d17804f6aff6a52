"""Reads the weights that classes have in the loss from a setting."""

import collections
import math
from collections.abc import Iterable, Sequence

from train.common.errors import UserError, did_you_mean

BALANCED = "balanced"


def parse(setting: str, labels: Sequence[str]) -> list[float]:
  """Returns the weight of each label by a setting such as "spam:3+ham:0.5"; others weigh 1.

  Raises UserError for a label that is none of `labels`, and for a weight that is not a positive
  number.
  """
  weights = dict.fromkeys(labels, 1.0)
  for part in setting.split("+"):
    label, colon, text = part.rpartition(":")
    if not colon:
      raise _error(setting, f"{part!r} is no label with its weight")
    if label not in weights:
      known = ", ".join(labels[:10])
      raise _error(setting, f"no label is {label!r}{did_you_mean(label, labels)} (known: {known})")
    try:
      weights[label] = float(text)
    except ValueError:
      weights[label] = math.nan
    if not 0 < weights[label] < math.inf:
      raise _error(setting, f"the weight of {label!r} is {text!r}, no number above 0")
  return list(weights.values())


def balance(labels: Sequence[str], examples: Iterable[str]) -> list[float]:
  """Returns weights by which all labels that occur have the same share of the loss: the number of
  examples over the number of labels and of the label's examples (scikit-learn's "balanced")."""
  counts = collections.Counter(examples)
  total, kinds = counts.total(), len(counts)
  return [total / (kinds * counts[label]) if counts[label] else 1.0 for label in labels]


def _error(setting, problem) -> UserError:
  return UserError(
    f"task.class_weights is {setting!r}: {problem}; write LABEL:NUMBER, several with + between, or"
    f" {BALANCED!r}"
  )
