"""Defines the base of tasks that predict one vector of numbers for a text or a pair of texts."""

import dataclasses

import numpy as np

from model import heads, layers
from train.common.errors import UserError, choose
from train.tasks.base import HuggingFace
from train.tasks.windows import EncoderTask

POOLS = heads.POOLS  # the state of a text


@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledTask(EncoderTask):
  """Predicts logits from one or two fields of text. A subclass adds `outputs_of_head`, `output`,
  `score` and, for transformers, `hf_problem`."""

  fields: tuple[str, ...] = ("text",)  # one, or two for pairs
  pool: str = "first"  # one of POOLS
  transform: str = ""  # layers before the logits, see heads.LabelHead; "": by `pool`
  pool_activation: str = "tanh"  # after the dense layer
  head_bias: bool = True  # of the logits; transformers' classifiers by a decoder alone have none

  hf_kind = "classification"
  hf_problem = ""  # transformers' problem_type; "": by the number of labels

  def __post_init__(self):
    super().__post_init__()
    choose(dict.fromkeys(POOLS), self.pool, "task.pool")
    choose(dict.fromkeys(("", *heads.TRANSFORMS)), self.transform, "task.transform")
    choose(layers.ACTIVATIONS, self.pool_activation, "task.pool_activation")
    if not 1 <= len(self.fields) <= 2:
      raise UserError(f"task.fields is {self.fields}: name the field of one text, or of two")

  @property
  def head_key(self) -> tuple[str, ...]:
    """Returns what the layers of the head depend on."""
    return self.pool, self.pool_activation, self.transform, self.head_bias

  @property
  def outputs_of_head(self) -> tuple[str, ...]:
    """Returns the names of the logits."""
    return self.labels

  def output(self, logits: np.ndarray, settings) -> dict:
    """Returns the output for the logits [C] of an example."""
    raise NotImplementedError

  def head(self, cfg, rngs):
    if self.pool == "first" and cfg.decoder_layers:
      raise UserError(
        "task.pool is 'first', and a decoder's first state has read none of the text: set"
        " task.pool='last' (and task.transform='dense', as in BART), or model.decoder_layers=0"
      )
    count = len(self.outputs_of_head)
    options = dict(activation=self.pool_activation, transform=self.transform, bias=self.head_bias)
    return heads.LabelHead(cfg, count, pool=self.pool, **options, rngs=rngs)

  def example(self, text):
    """Returns a text, or two with a tab between; raises UserError for another number of texts."""
    texts = text.split("\t") if len(self.fields) > 1 else [text]
    if len(texts) != len(self.fields):
      raise UserError(f"{text!r}: give two texts ({', '.join(self.fields)}) with a tab between")
    return dict(zip(self.fields, texts))

  def predictions(self, logits_BSC):
    return {"logits": logits_BSC}

  def predict(self, model, batch, settings):
    return {"logits": self.logits(model, batch)[:, 0]}

  def outputs(self, examples, requests, predictions, settings):
    """Returns `output` of each example, from the mean of the logits of a text's windows."""
    windows = [[] for _ in examples]
    for (number, _), prediction in zip(requests.index, predictions):
      windows[number].append(prediction["logits"])
    return [self.output(np.mean(logits, axis=0), settings) for logits in windows]

  def hugging_face(self):
    return HuggingFace(
      self.hf_kind,
      self.outputs_of_head,
      self.pool_activation,
      problem=self.hf_problem,
      pool=self.pool,
      transform=self.transform or ("dense" if self.pool == "first" else "none"),
      head_bias=self.head_bias,
    )
