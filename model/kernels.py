"""Attention kernels that never write the logits down: what each can do, and TPU's.

`Splash` is jax's Pallas kernel for TPU (segment ids, causal and local masks computed block by
block: what a mask hides costs nothing). cuDNN's for NVIDIA is called by model/layers.py.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from model import placement


class Can(NamedTuple):
  """What an `attention_impl` can do. Without, "xla" does it."""

  platforms: tuple[str, ...] = ()  # none: all
  dtypes: tuple[str, ...] = ()  # none: all
  distances: bool = True  # a bias that depends on distance: relative positions, ALiBi
  dropout: bool = False  # of attention weights
  global_tokens: bool = True


IMPLS = {
  "einsum": Can(dropout=True),
  "xla": Can(),
  "cudnn": Can(platforms=("gpu", "cuda"), dtypes=("bfloat16", "float16")),
  "splash": Can(platforms=("tpu",), distances=False, global_tokens=False),
}
BLOCKS = (512, 256, 128)  # tokens of a tile, the largest that divides the length
INTERPRET = False  # tests: run by jax's interpreter, without a TPU


def lacks(cfg, platform: str) -> str:
  """Why `cfg.attention_impl` cannot do what `cfg` asks on `platform`; "" if it can."""
  can = IMPLS[cfg.attention_impl]
  if can.platforms and platform not in can.platforms:
    return f"it is for {can.platforms[0]}, this is {platform}"
  if can.dtypes and cfg.dtype not in can.dtypes:
    return f"it computes in {' or '.join(can.dtypes)}, model.dtype is {cfg.dtype}"
  if not can.distances and cfg.positions in ("relative", "alibi"):
    return f"it has no bias of distances, model.positions is {cfg.positions}"
  if not can.global_tokens and cfg.global_tokens:
    return "it has no global tokens"
  return ""


def divides(*lengths: int) -> bool:
  """Whether rows of such lengths are whole tiles."""
  return not any(length % BLOCKS[-1] for length in lengths)


@dataclasses.dataclass(frozen=True)
class Splash:
  """What model/masks.py's `Whole` is, for tokens of the same segment so far before and after;
  None: any."""

  query_segments: jax.Array  # [B, T]
  key_segments: jax.Array  # [B, S]
  before: int | None = None
  after: int | None = None

  def mix(self, attention, q_BTHK, k_BSGK, v_BSGK, key=None):
    del key
    shape = (q_BTHK.shape[1], k_BSGK.shape[1])

    def kernel(q_BHTK, k_BGSK, v_BGSK, segments_BT, segments_BS):
      mask = splash.LocalMask(shape, (self.before, self.after), 0)
      if (self.before, self.after) == (None, None):
        mask = splash.FullMask(shape)
      mixed = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([mask] * q_BHTK.shape[1]),
        block_sizes=_block_sizes(*shape),
        interpret=INTERPRET,
      )
      return jax.vmap(mixed)(q_BHTK, k_BGSK, v_BGSK, splash.SegmentIds(segments_BT, segments_BS))

    heads_first = (x.swapaxes(1, 2) for x in (q_BTHK * attention.scale, k_BSGK, v_BSGK))
    y_BHTK = placement.spread(kernel)(*heads_first, self.query_segments, self.key_segments)
    return y_BHTK.swapaxes(1, 2)


@functools.cache
def _block_sizes(queries: int, keys: int) -> splash.BlockSizes:
  q, kv = (next(block for block in BLOCKS if length % block == 0) for length in (queries, keys))
  return splash.BlockSizes(
    block_q=q,
    block_kv=kv,
    block_q_dkv=q,
    block_kv_dkv=kv,
    block_q_dq=q,
    block_kv_dq=kv,
  )
