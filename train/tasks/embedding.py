"""A vector for each text, by an encoder without a head: to compare texts by. It only predicts."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp

from train.common.errors import UserError, choose
from train.data.tokenizer import Tokenizer
from train.tasks import requests
from train.tasks.classification import POOLS
from train.tasks.encoder import encode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding:
  """The state of a text's first token or the mean of all, of length 1 (Reimers & Gurevych 2019)."""

  data: Mapping
  tokenizer: Tokenizer
  source_len: int  # tokens that are read of a text, with those that frame it
  pool: str = "mean"
  normalize: bool = True
  pack: bool = False
  decode_batch: int = 32

  has_score = False
  target_len = 0
  loss_key = ("embedding",)

  def __post_init__(self):
    choose(POOLS, self.pool, "task.pool")

  @property
  def max_positions(self) -> int:
    return self.source_len

  def items(self, split):
    raise UserError(f"an embedding has nothing to learn from ({split}): it only predicts")

  def settings(self, **changes):
    return requests.changed(requests.Settings(), "embedding", changes)

  def example(self, text):
    return {"text": text}

  def requests(self, examples):
    roles = self.tokenizer.roles
    room = self.source_len - len(roles.first) - 1
    rows = self.tokenizer.encode_batch([example["text"] for example in examples])
    return requests.Rows([[*roles.first, *ids[:room], roles.eos] for ids in rows])

  def predict(self, model, batch, settings):
    del settings
    x_BSD = encode(model, batch).astype(jnp.float32)
    seen_BS = (batch["source_segments"] > 0).astype(jnp.float32)
    if self.pool == "first":
      seen_BS = seen_BS * (jnp.arange(seen_BS.shape[1]) == 0)
    x_BD = (x_BSD * seen_BS[..., None]).sum(1) / jnp.maximum(seen_BS.sum(1), 1)[:, None]
    if self.normalize:
      x_BD = x_BD / jnp.maximum(jnp.linalg.norm(x_BD, axis=-1, keepdims=True), 1e-12)
    return {"embedding": x_BD}

  def outputs(self, examples, asked, predictions, settings):
    """`embedding`, a list of numbers; `text` is the same with blanks between."""
    del examples, asked, settings
    rows = [prediction["embedding"].tolist() for prediction in predictions]
    return [dict(text=" ".join(map("{:.6f}".format, row)), embedding=row) for row in rows]

  def render(self, output, *, scores, colour):
    del scores, colour
    return output["text"]
