"""Predicts a vector for each text, by an encoder without a head, and learns nothing."""

import dataclasses

import jax.numpy as jnp

from train.common.errors import UserError, choose
from train.tasks.base import Rows, Task, encode
from train.tasks.pooled import POOLS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding(Task):
  """The state of a text's first token or the mean of all, of length 1 (Reimers & Gurevych 2019)."""

  source_len: int = 128  # tokens that are read of a text, special ones included
  pool: str = "mean"
  normalize: bool = True
  pack: bool = False

  loss_key = ("embedding",)

  def __post_init__(self):
    super().__post_init__()
    choose(POOLS, self.pool, "task.pool")

  def items(self, split):
    raise UserError(f"an embedding has nothing to learn from ({split}): it only predicts")

  def requests(self, examples):
    roles = self.tokenizer.roles
    length = self.source_len - len(roles.first) - 1
    rows = self.tokenizer.encode_batch([example["text"] for example in examples])
    return Rows([[*roles.first, *ids[:length], roles.eos] for ids in rows])

  def predict(self, model, batch, settings):
    x_BSD = encode(model, batch).astype(jnp.float32)
    seen_BS = (batch["source_segments"] > 0).astype(jnp.float32)
    if self.pool == "first":
      seen_BS = seen_BS * (jnp.arange(seen_BS.shape[1]) == 0)
    x_BD = (x_BSD * seen_BS[..., None]).sum(1) / jnp.maximum(seen_BS.sum(1), 1)[:, None]
    if self.normalize:
      x_BD = x_BD / jnp.maximum(jnp.linalg.norm(x_BD, axis=-1, keepdims=True), 1e-12)
    return {"embedding": x_BD}

  def outputs(self, examples, requests, predictions, settings):
    """Returns `embedding`, a list of numbers, and the same with blanks between as `text`."""
    rows = [prediction["embedding"].tolist() for prediction in predictions]
    return [dict(text=" ".join(map("{:.6f}".format, row)), embedding=row) for row in rows]
