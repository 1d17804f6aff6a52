"""Detects replaced tokens with an encoder (ELECTRA: Clark et al. 2020)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from model import heads, layers
from model.config import TransformerConfig
from model.transformer import Transformer
from train import losses
from train.common.errors import UserError
from train.tasks.mlm import Mlm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Electra(Mlm):
  """Learns which words the generator, a small masked language model in the head, has replaced. The
  generator shares the model's embeddings, is trained along, and fills masks in prediction."""

  generator: float = 0.25  # heads and width of the generator, as a share of the model's
  detection_weight: float = 50.0
  hf_kind = ""

  @property
  def loss_key(self):
    return ("electra", self.rate, self.generator, self.detection_weight)

  @classmethod
  def loss_names(cls, section):
    return (*super().loss_names(section), "replaced_recall")

  def head(self, cfg, rngs):
    if not isinstance(cfg, TransformerConfig):
      raise UserError("task.name=electra needs model.name=transformer, like its generator")
    count = max(1, round(self.generator * cfg.num_heads))
    small = dict(dim=cfg.dim * count // cfg.num_heads, mlp_dim=cfg.mlp_dim * count // cfg.num_heads)
    small |= dict(num_heads=count, num_kv_heads=None, embedding_dim=cfg.table_dim)
    small = dataclasses.replace(cfg, tie_output=True, output_bias=False, **small)
    head = heads.LabelHead(cfg, 1, pool="first", activation=cfg.activation, rngs=rngs)
    head.generator = Transformer(small, rngs=rngs)
    head.generator.head = heads.MaskedLmHead(small, activation=self.head_activation, rngs=rngs)
    del head.generator.embedding  # see `network`
    return head

  def network(self, model):
    model.head.generator.embedding = model.embedding
    return model.head.generator

  def loss(self, model, batch, key):
    """Returns the sum of the mean losses of detection, weighted, and of the generator."""
    generator_key, draw_key, body_key = layers.split(key, 3)
    logits_BTV, labels_BT, weights_BT, place_BT = self.hidden(model, batch, generator_key)
    words = losses.cross_entropy(logits_BTV, labels_BT, weights_BT)
    # A word has the same draw at the same position, whatever else is in its row.
    positions_BT = jnp.take_along_axis(batch["source_positions"], place_BT, axis=1)
    drawn_BT = draw(draw_key, positions_BT * logits_BTV.shape[-1] + labels_BT, logits_BTV)
    drawn_BS = jnp.put_along_axis(batch["source"], place_BT, drawn_BT, axis=1, inplace=False)
    source_BS = jnp.where(batch["weights"] > 0, drawn_BS, batch["source"])
    replaced_BS = (batch["weights"] > 0) & (source_BS != batch["labels"])
    x_BSD = self.encode(model, batch | {"source": source_BS}, body_key)
    logits_BS = model.head(x_BSD, batch["source_segments"])[..., 0]
    loss_BS = optax.sigmoid_binary_cross_entropy(logits_BS, replaced_BS)
    tokens_BS = (batch["source_segments"] > 0).astype(jnp.float32)
    right_BS = ((logits_BS > 0) == replaced_BS) * tokens_BS
    # The generator's sum is over hidden tokens, which are `rate` of all.
    loss = self.detection_weight * (loss_BS * tokens_BS).sum() + words["loss"][0] / self.rate
    count, replaced = tokens_BS.sum(), (replaced_BS * tokens_BS).sum()
    sums = dict(loss=(loss, count), nll=words["nll"], right=(right_BS.sum(), count))
    return sums | dict(recalled=((right_BS * replaced_BS).sum(), replaced))


def draw(key, numbers_BT, logits_BTV):
  """Draws words [B, T] from the logits, each by its row's key (None: a fixed key) and number."""
  keys_B = jnp.broadcast_to(jax.random.key(0) if key is None else key, len(numbers_BT))
  keys_BT = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(keys_B, numbers_BT)
  return jax.vmap(jax.vmap(jax.random.categorical))(keys_BT, logits_BTV)
