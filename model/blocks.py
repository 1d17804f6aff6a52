"""Computes transient global attention: each token also attends to summaries of blocks of the row.

A summary is the normed sum of the states of a block's tokens, computed anew in each layer (Guo et
al. 2022, LongT5, section 3.2). The axis N is the blocks of a row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from model import masks


class Blocks(NamedTuple):
  """The blocks of rows; tokens after the last whole block belong to that block."""

  block_BS: jax.Array  # [B, S] of each token; -1: of none
  bias: jax.Array  # [B, H or 1, S, N] on the logits of a token and a block

  def sums(self, x_BSD):
    """Returns the sums [B, N, D] of the states of each block."""
    inside_BSN = self.block_BS[..., None] == jnp.arange(self.bias.shape[-1])
    return jnp.einsum("BSD,BSN->BND", x_BSD, inside_BSN.astype(x_BSD.dtype))


def cut(segments_BS, size: int, relative=None) -> Blocks:
  """Returns the blocks of `size` tokens of rows with one text each.

  `relative` returns a bias for the distances from a token's block to each block.
  """
  count = segments_BS.shape[1] // size
  whole_B1 = (segments_BS > 0).sum(1, keepdims=True) // size
  block_BS = jnp.minimum(jnp.arange(segments_BS.shape[1]) // size, whole_B1 - 1)
  block_BS = jnp.where(segments_BS > 0, block_BS, -1)
  exists_B1N = (jnp.arange(count) < whole_B1)[:, None]
  bias = masks.mask_bias(exists_B1N & (segments_BS > 0)[..., None])
  if relative is not None:
    bias = bias + relative(jnp.arange(count) - block_BS[..., None])
  return Blocks(block_BS, bias)
