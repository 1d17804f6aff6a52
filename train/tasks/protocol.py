"""The interface of a task in two halves, and the batch keys that all tasks and models share.

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
| starts, ends     | [B, S] | 1 on the first and on the last token of the answer               |
| answerable       | [B, S] | 1 where an answer may lie                                        |
| row              | [B]    | number of the request, -1 for a row of padding; in requests only |
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from train.common.errors import UserError
from train.data.items import Items
from train.data.tokenizer import Tokenizer
from train.scoring.classes import Report


class HuggingFace(NamedTuple):
  """The facts about a task that a Hugging Face directory of its model records."""

  kind: str  # of train.interop.families.KINDS; "": the model has no counterpart there
  labels: tuple[str, ...] = ()
  pool_activation: str = "tanh"  # after the dense layer of a classifier
  decoding: Any = None  # a seq2seq.Decoding, where outputs are generated


class Objective(Protocol):
  """The training half: data as items of batches, and a loss."""

  tokenizer: Tokenizer
  source_len: int  # tokens in a row of the encoder; 0: there is no encoder
  target_len: int  # tokens in a row of the decoder; 0: there is no decoder
  max_positions: int  # the most positions that the model has to distinguish, in prediction too
  pack: bool  # a row holds several items
  prefix: bool  # batches have a `prefix`
  loss_key: tuple  # settings that the loss depends on; only tasks with equal keys can be mixed

  def examples(self, split: str) -> Sequence[Mapping[str, Any]]:
    """Returns the examples of a split, mostly texts; raises NoSplit for one that is missing."""

  def items(self, split: str) -> Items:
    """Returns the split as the items that batches are made of."""

  def loss(self, model, batch, key) -> dict[str, tuple[Any, Any]]:
    """Returns name -> (sum, weight), with the sum to minimise under "loss". Runs under jit.

    `key` draws dropout and other noise: one key, or one for each row [B]. None means evaluation:
    no dropout, and equal batches have equal losses.
    """

  def head(self, cfg, rngs) -> Any:
    """Returns the module that becomes the model's `head`, or None where the model needs none."""


class Predictor(Protocol):
  """The inference half: requests, predictions, outputs, scores."""

  settings_class: type  # of what `settings` returns; the commands have a flag for each field
  decode_batch: int  # rows of requests that are predicted at a time
  has_score: bool  # whether `score` can rate outputs; otherwise the loss is the only measure

  def example(self, text: str) -> Mapping[str, Any]:
    """Returns a text from a person as an example without its answer; raises UserError for a text
    that cannot be one."""

  def requests(self, examples: Sequence[Mapping[str, Any]]) -> Items:
    """Returns the inputs of the examples as items to predict from, one or several each."""

  def settings(self, **changes) -> Any:
    """Returns how to predict: the task's settings with `changes`, hashable, static under jit. Their
    `tag()` is part of the name of a file of outputs."""

  def predict(self, model, batch, settings) -> dict[str, Any]:
    """Returns the predictions for a batch of requests, each array [B, ...]. Runs under jit."""

  def outputs(
    self, examples, requests: Items, predictions: Sequence[Mapping], settings
  ) -> list[dict]:
    """Returns a dict for each example that JSON can hold, from the predictions for its requests
    (in the order of `requests`). Its `text` is the answer in short."""

  def render(self, output: dict, *, scores: bool, colour: bool) -> str:
    """Formats an output for display, in one or more lines: with probabilities if `scores`, with
    ANSI colours if `colour`."""

  def score(self, outputs: Sequence[dict], examples: Sequence[Mapping[str, Any]]) -> dict:
    """Returns metrics of the outputs against the examples; raises UserError without `has_score`."""

  def report(self, outputs, examples) -> Report | None:
    """Returns precision, recall and confusion of each class, or None where there are no classes."""

  def scored_parts(self, split: str) -> Mapping[str, "Task"]:
    """Returns the tasks whose outputs for the split are scored, by the prefix of their metrics: ""
    for a task by itself, several for a mixture."""

  def hugging_face(self) -> HuggingFace:
    """Returns what an export records; raises UserError for a setting without a counterpart."""


class Task(Objective, Predictor, Protocol):
  """An objective and a predictor in one frozen dataclass, whose fields are the config's section.

  train/tasks/base.py has the members that are alike in most tasks.
  """


def encode(model, batch, key=None):
  """Returns the encoder's states [B, S, D] for a batch; no key means no dropout."""
  types = {"types": batch["source_types"]} if "source_types" in batch else {}
  return model.encode(
    batch["source"], batch["source_segments"], batch["source_positions"], key=key, **types
  )


def require_score(task: Task) -> None:
  """Raises UserError where the task has no score, so that decoding would be for nothing."""
  if not task.has_score:
    name = type(task).__name__
    raise UserError(f"a {name} task has a loss and no score: set evaluate.decode_every=0")
