"""Predicts a vector for each text, by an encoder without labels, and learns nothing."""

import dataclasses

import jax.numpy as jnp

from model import heads
from train.common.errors import UserError, choose
from train.tasks.base import Task
from train.tasks.requests import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader(Task):
  """Reads each text in one row, cut to its length, to predict from it alone."""

  source_len: int = 128  # tokens that are read of a text, special ones included
  pack: bool = False

  def items(self, split):
    name = type(self).__name__
    raise UserError(f"a task {name} has nothing to learn from ({split}): it only predicts")

  def ids(self, examples) -> list[list[int]]:
    """Returns the ids of each text with special tokens around them."""
    roles = self.tokenizer.roles
    length = self.source_len - len(roles.first) - 1
    rows = self.tokenizer.encode_batch([example["text"] for example in examples])
    return [[*roles.first, *ids[:length], roles.eos] for ids in rows]

  def requests(self, examples):
    return Rows(self.ids(examples))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding(Reader):
  """The pooled state of a text, of length 1 (Reimers & Gurevych 2019), or a projection of it by the
  model's head."""

  pool: str = "mean"
  normalize: bool = True
  lower_case: bool = False  # texts are read in lower case
  strip: bool = False  # blanks around texts are left out
  # layers on the vector: numbers in, numbers out, whether there is a bias, activation ("": none)
  dense: tuple[tuple[int, int, bool, str], ...] = ()

  loss_key = ("embedding",)

  def __post_init__(self):
    super().__post_init__()
    choose(dict.fromkeys(heads.POOLS), self.pool, "task.pool")

  def head(self, cfg, rngs):
    if not self.dense:
      return None
    inputs, outputs, biases, activations = zip(*self.dense)
    return heads.Projections((*inputs[:1], *outputs), biases, activations, rngs=rngs)

  def ids(self, examples):
    texts = [example["text"] for example in examples]
    texts = [text.strip() for text in texts] if self.strip else texts
    texts = [text.lower() for text in texts] if self.lower_case else texts
    return super().ids([{"text": text} for text in texts])

  def predict(self, model, batch, settings):
    seen_BS = batch["source_segments"] > 0
    x_BD = pool_rows(self.encode(model, batch).astype(jnp.float32), seen_BS, self.pool)
    if self.dense:
      x_BD = model.head(x_BD)
    if self.normalize:
      x_BD = x_BD / jnp.maximum(jnp.linalg.norm(x_BD, axis=-1, keepdims=True), 1e-12)
    return {"embedding": x_BD}

  def outputs(self, examples, requests, predictions, settings):
    """Returns `embedding`, a list of numbers, and the same with blanks between as `text`."""
    rows = [prediction["embedding"].tolist() for prediction in predictions]
    return [dict(text=" ".join(map("{:.6f}".format, row)), embedding=row) for row in rows]


def pool_rows(x_BSD, seen_BS, pool: str):
  """Returns the pooled state [B, D] of rows of one text each."""
  if pool == "max":
    return jnp.where(seen_BS[..., None], x_BSD, -jnp.inf).max(1)
  place_BS, weights_BS = jnp.arange(seen_BS.shape[1]), seen_BS.astype(jnp.float32)
  if pool == "first":
    weights_BS = weights_BS * (place_BS == 0)
  elif pool == "last":
    weights_BS = weights_BS * (place_BS == seen_BS.sum(1, keepdims=True) - 1)
  total_B = jnp.maximum(weights_BS.sum(1), 1)
  return (x_BSD * weights_BS[..., None]).sum(1) / total_B[:, None]
