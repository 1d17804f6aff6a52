"""Defines the parts that every model has beside its stacks: tables of vectors, and logits.

Tasks and searches use a model by these methods, `logits`, and the `head` that a task adds:
  encode(source)            returns states [B, S, D]
  decode(inputs, memory)    returns states [B, T, D], which `logits` turns into words
  init_cache(memory)        returns an empty cache (model/search.py) of a hypothesis of each row
  prefill(prompt, cache)    returns the cache with all but the last token of a prompt
  decode_step(token, cache) returns logits [B, N, V] of the next tokens, and the cache one longer
A model holds weights and nothing else: dropout takes its key as an argument and is off without one.
"""

import functools

import jax.numpy as jnp
from flax import nnx

from model import heads, layers, matmul
from model.embeddings import embedding_table


class EncoderDecoder(nnx.Module):
  """An encoder, a decoder or both, with the tables of their words; subclasses build the stacks."""

  def __init__(self, cfg, make_stack, *, rngs: nnx.Rngs):
    """Builds the weights; `make_stack(depth, causal=, cross=)` returns an encoder or a decoder."""
    self.cfg = cfg
    both = bool(cfg.encoder_layers and cfg.decoder_layers)
    own_table = both and not cfg.share_embeddings
    self.embedding = embedding_table(cfg, cfg.vocab_size, rngs)
    self.source_embedding = embedding_table(cfg, cfg.vocab_size, rngs) if own_table else None
    E, D = cfg.encoder_layers, cfg.decoder_layers
    self.encoder = make_stack(E, causal=False, cross=False) if E else None
    self.decoder = make_stack(D, causal=True, cross=both) if D else None
    options = dict(use_bias=False, dot_general=matmul.product, rngs=rngs)
    output = functools.partial(layers.dense, cfg, cfg.table_dim, cfg.vocab_size, **options)
    self.output = None if cfg.tie_output else output()
    self.output_bias = nnx.Param(jnp.zeros(cfg.vocab_size)) if cfg.output_bias else None
    transform = functools.partial(heads.MaskedLmHead, cfg, activation=cfg.output_transform)
    self.output_transform = None if cfg.output_transform == "none" else transform(rngs=rngs)

  def logits(self, x_BTD):
    """Returns the logits [..., V], float32."""
    if self.output_transform is not None:
      x_BTD = self.output_transform(x_BTD)
    logits_BTV = self.embedding.attend(x_BTD) if self.output is None else self.output(x_BTD)
    logits_BTV = logits_BTV.astype(jnp.float32) * self.cfg.logits_scale
    if self.output_bias is not None:
      logits_BTV = logits_BTV + self.output_bias[...]
    return layers.softcap(logits_BTV, self.cfg.logits_softcap)


def segments_of(ids_BT, segments=None):
  """Returns the segments [B, T]; by default a row is one segment, up to its padding (id 0)."""
  return (ids_BT > 0).astype(jnp.int32) if segments is None else segments


def positions_of(ids_BT, positions=None):
  """Returns the positions [B, T]; by default they are the places in the row."""
  if positions is None:
    positions = jnp.broadcast_to(jnp.arange(ids_BT.shape[1]), ids_BT.shape)
  return positions
