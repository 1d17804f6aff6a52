"""Defines tasks, each an objective and a predictor, and the batch keys they share with models.

Values are int32 unless the table names another type:

| key              | shape  | value                                                            |
|------------------|--------|------------------------------------------------------------------|
| source           | [B, S] | tokens that the encoder reads                                    |
| source_segments  | [B, S] | 1, 2, ... for the items of a packed row, 0 for padding           |
| source_positions | [B, S] | position in the segment, from 0                                  |
| source_types     | [B, S] | 0 in a first text, 1 in a second; only for models with types     |
| inputs           | [B, T] | tokens that the decoder reads: a start token, then the labels    |
| segments         | [B, T] | like source_segments                                             |
| positions        | [B, T] | like source_positions                                            |
| prefix           | [B, T] | 1 on tokens to which their whole segment attends                 |
| labels           | [B, T] | tokens to predict; [B, S] where there is no decoder              |
| weights          | [B, T] | float32 weight of each label, 0 on padding; [B, S] likewise      |
| labels_0, ...    | [B, S] | bits of 31 labels each, or float32 numbers, on a text's first    |
|                  |        | token (tasks multi_label and numbers)                            |
| starts, ends     | [B, S] | 1 on the first and on the last token of the answer               |
| answerable       | [B, S] | 1 where an answer may lie                                        |
| prompt           | [B, S] | what the decoder reads before its output, of models with         |
|                  |        | languages; in requests only                                      |
| row              | [B]    | number of the request, -1 for a row of padding; in requests only |
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from train import losses
from train.common import intervals
from train.common.errors import UserError, choose, did_you_mean
from train.data import sources
from train.data.items import Items
from train.data.tokenizer import Tokenizer
from train.scoring.classes import Report
from train.tasks import states

BPE = types.MappingProxyType(dict(name="bpe", vocab_size=8000))
BPE_WITH_MASK = types.MappingProxyType(BPE | dict(special=("<mask>",)))


class HuggingFace(NamedTuple):
  """The facts about a task that a Hugging Face directory of its model records."""

  kind: str  # of train.interop.families.base.KINDS; "": the model has no counterpart there
  labels: tuple[str, ...] = ()
  pool_activation: str = "tanh"  # after the dense layer of a head
  decoding: Any = None  # a Decoding, where outputs are generated
  problem: str = ""  # a classifier's problem_type; "": one class a text
  pool: str = "first"  # of a classifier
  transform: str = "none"  # see model/heads.py; of a head for tokens
  global_attention: str = "first"  # one of states.GLOBALS
  head_bias: bool = True  # of a classifier's logits


def option(default, text: str, interval: str = "(-inf, inf)"):
  """Returns a field of settings with its default, the help text of its flag, and its interval."""
  return dataclasses.field(default=default, metadata={"help": text, "interval": interval})


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of prediction, none for most tasks. Subclasses add fields by `option`."""

  def __post_init__(self):
    """Raises UserError for a value of another type or outside its interval."""
    for field in dataclasses.fields(self):
      self._check(field, getattr(self, field.name), "")

  @staticmethod
  def _check(field, value, prefix):
    intervals.check(prefix + field.name, value, field.type, field.metadata["interval"])

  def tag(self) -> list[str]:
    """Returns the parts that the settings add to the name of a file of outputs."""
    return []

  def changed(self, changes: Mapping, task: "Task", prefix: str = "--"):
    """Returns the settings with `changes`; raises UserError, with `prefix` before the key, for a
    key that is no field and for a value that the field does not take."""
    known = {field.name: field for field in dataclasses.fields(self)}
    for key, value in changes.items():
      if key not in known:
        there = f"it has {', '.join(known)}" if known else "it has none"
        name = (task if isinstance(task, type) else type(task)).__name__
        raise UserError(
          f"{prefix}{key}: a {name} task has no such setting of prediction ({there})"
          + did_you_mean(key, known)
        )
      self._check(known[key], value, prefix)
    return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """Defines what is learned: data as items of batches, and a loss."""

  data: Mapping  # see train/data/sources.py
  tokenizer: Tokenizer
  pack: bool = True  # a row holds several items
  global_attention: str = "first"  # one of states.GLOBALS

  default_tokenizer = BPE  # the spec in a config that names no other
  columns = ("text",)  # keys that the data's examples must have
  label_column = ""  # the one with labels, which are collected before training; "": there are none
  source_len = 0  # tokens in a row of the encoder; 0: there is no encoder
  target_len = 0  # tokens in a row of the decoder; 0: there is no decoder
  most_hidden = 0  # tokens that a row of an encoder without targets predicts at most; 0: all
  prefix = False  # batches have a `prefix`
  streams = False  # large training data are read as they come; else they are listed first
  any_stack = False  # the model may have an encoder, a decoder, or both
  loss_key: ClassVar[tuple]  # what the loss depends on; only tasks with equal keys can be mixed

  @property
  def max_positions(self) -> tuple[int, int]:
    """Returns the most positions that an encoder and a decoder distinguish, in prediction too."""
    return self.source_len, self.target_len

  def examples(self, split: str) -> Sequence[Mapping[str, Any]]:
    """Returns the examples of a split, mostly texts; raises NoSplit for a missing split."""
    data = self.data if self.streams else {**self.data, "stream": False}
    return sources.open_split(data, split, self.columns)

  def encode(self, model, batch, key=None):
    """Returns the encoder's states [B, S, D] for a batch; no key means no dropout."""
    return states.encode(model, batch, key, self.global_mask(batch))

  def global_mask(self, batch):
    """Returns 1 for the tokens [B, S] that `global_attention` admits, None for all."""
    return states.global_mask(self.global_attention, batch["source"], self.tokenizer)

  def items(self, split: str) -> Items:
    """Returns the split as the items that batches are made of."""
    raise NotImplementedError

  def loss(self, model, batch, key) -> dict[str, tuple[Any, Any]]:
    """Returns name -> (sum, weight), with the sum to minimise under "loss". Runs under jit.

    `key` draws dropout and other noise: one key, or one for each row [B]. None means evaluation:
    no dropout, and equal batches have equal losses.
    """
    raise NotImplementedError

  def logits(self, model, batch, key=None):
    """Returns the logits that the loss of a batch reads, of which `sums` makes the loss, for a
    model and its teacher (train/compression). No key means no dropout."""
    raise NotImplementedError

  def sums(self, logits, batch) -> dict[str, tuple]:
    """Returns what `loss` does, for logits."""
    raise NotImplementedError

  def target_weights(self, batch) -> Any:
    """Returns the weight of each target in `loss`, [B, T] or [B, S]."""
    return batch["weights"]

  def soft_loss(self, logits, teacher, batch, temperature: float) -> tuple:
    """Returns (sum, weight) of how far the logits are from a teacher's, each target with its weight
    in `loss`; 0, as its gradient, where they are equal."""
    return losses.divergence(logits, teacher, self.target_weights(batch), temperature)

  @classmethod
  def loss_names(cls, section: Mapping) -> Sequence[str]:
    """Returns the names under which an evaluation reports `loss` for a section of a config."""
    return losses.REPORTED

  def head(self, cfg, rngs) -> Any:
    """Returns the module that becomes the model's `head`, or None where the model needs none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictor:
  """Defines how a trained model is used: requests, predictions, outputs and scores."""

  decode_batch: int = 32  # rows of requests that are predicted at a time

  search_tokens = 0  # of sources that one search reads, in more requests than rows; 0: no more
  has_score = False  # whether `score` can rate outputs; otherwise the loss is the only measure
  settings_class = Settings  # of what `settings` returns; the commands have a flag for each field
  hf_kind = ""  # see HuggingFace
  one_pass = False  # whether the forward pass of the loss predicts too, see `loss_and_predictions`
  per_token = False  # with one_pass: a prediction has values at each token, else at the first alone

  def example(self, text: str) -> Mapping[str, Any]:
    """Returns a text from a person as an example without its answer; raises UserError for a text
    that cannot be one."""
    return {"text": text}

  def requests(self, examples: Sequence[Mapping[str, Any]]) -> Items:
    """Returns the inputs of the examples as items to predict from, one or several each."""
    raise NotImplementedError

  def settings(self, **changes) -> Settings:
    """Returns the settings of prediction with `changes`: hashable, as they are static under jit."""
    return self.settings_class().changed(changes, self)

  def rows_at_a_time(self, settings: Settings, platform: str) -> int:
    """Returns the requests to predict from at a time, at most decode_batch."""
    return self.decode_batch

  def configured(self, rows: int | None = None, **changes) -> "Task":
    """Returns the task with `settings(**changes)` as its own where it has a field for them, and
    with requests of `rows` at a time (None: decode_batch)."""
    self.settings(**changes)
    return dataclasses.replace(self, decode_batch=self.decode_batch if rows is None else rows)

  def directed(self, source_lang: str = "", target_lang: str = "") -> "Task":
    """Returns the task for texts of these languages; raises UserError for a task without any."""
    if source_lang or target_lang:
      name = "source_lang" if source_lang else "target_lang"
      raise UserError(f"--{name}: a {type(self).__name__} task has no languages")
    return self

  def predict(self, model, batch, settings) -> dict[str, Any]:
    """Returns the predictions for a batch of requests, each array [B, ...]. Runs under jit."""
    raise NotImplementedError

  def loss_and_predictions(self, model, batch) -> tuple[dict, dict[str, Any]]:
    """Returns `loss` without dropout and, by the same forward pass, predictions at each token of
    the packed rows, each array [B, S, ...]. Runs under jit."""
    raise NotImplementedError

  def outputs(self, examples, requests: Items, predictions, settings) -> list[dict]:
    """Returns a dict for each example that JSON can hold, from the predictions for its requests (in
    the order of `requests`). The key `text` holds the answer in short."""
    raise NotImplementedError

  def render(self, output: dict, *, scores: bool, colour: bool) -> str:
    """Formats an output for display, in one or more lines: with probabilities if `scores`, with
    ANSI colours if `colour`."""
    return output["text"]

  def score(self, outputs: Sequence[dict], examples: Sequence[Mapping[str, Any]]) -> dict:
    """Returns metrics of the outputs against the examples; raises UserError without `has_score`."""
    require_score(self)

  @classmethod
  def score_names(cls, section: Mapping) -> Sequence[str]:
    """Returns the names of all metrics that `score` may return for a section of a config."""
    return ()

  def check_metric(self, metric: str) -> None:
    """Raises UserError if `score` would not have this metric for the labels that are known."""

  def report(self, outputs, examples) -> Report | None:
    """Returns precision, recall and confusion of each class, or None where there are no classes."""

  def scored_parts(self, split: str) -> Mapping[str, "Task"]:
    """Returns the tasks whose outputs for the split are scored, by the prefix of their metrics: ""
    for a task by itself, several for a mixture."""
    return {"": self}

  def hugging_face(self) -> HuggingFace:
    """Returns what an export records; raises UserError for a setting without a counterpart."""
    return HuggingFace(self.hf_kind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Predictor, Objective):
  """An objective and a predictor in one dataclass, whose fields are the config's section.

  A subclass adds its settings as fields, `loss_key`, and the methods that raise NotImplementedError
  in its bases; `loss_names` where its loss has other names. A subclass without `has_score`, `score`
  and `score_names` has a loss alone.
  """

  def __post_init__(self):
    """Completes fields of settings, which a config gives as a section with what differs."""
    choose(dict.fromkeys(states.GLOBALS), self.global_attention, "task.global_attention")
    if self.decode_batch < 1:
      raise UserError(f"{self.decode_batch} rows cannot be decoded at a time: set 1 or more")
    for field in dataclasses.fields(self):
      given = getattr(self, field.name)
      if isinstance(field.default, Settings) and isinstance(given, Mapping):
        settings = field.default.changed(given, self, f"task.{field.name}.")
        object.__setattr__(self, field.name, settings)


def require_score(task: Task) -> None:
  """Raises UserError where the task has no score, so that decoding would be for nothing."""
  if not task.has_score:
    name = type(task).__name__
    raise UserError(f"a {name} task has a loss and no score: set evaluate.decode_every=0")
