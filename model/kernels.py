"""Defines the abilities of attention kernels, none of which stores the logits, and the TPU kernel.

`SplashAttention` runs jax's Pallas kernel for TPUs, which computes segments, causal and local masks
block by block, so that masked blocks cost nothing. model/patterns.py calls cuDNN's for NVIDIA.
"""

import dataclasses
from typing import NamedTuple

import jax

from model import placement


class Abilities(NamedTuple):
  """The abilities of an `attention_impl`; "einsum" and "auto" have all."""

  platforms: tuple[str, ...] = ()  # none: all
  dtypes: tuple[str, ...] = ()  # none: all
  distances: bool = True  # a bias that depends on distance: relative positions, ALiBi
  dropout: bool = False  # of attention weights
  global_tokens: bool = True
  softcap: bool = False  # of the logits


IMPLS = {
  "auto": Abilities(dropout=True, softcap=True),
  "einsum": Abilities(dropout=True, softcap=True),
  "xla": Abilities(),
  "cudnn": Abilities(platforms=("gpu", "cuda"), dtypes=("bfloat16", "float16")),
  "splash": Abilities(platforms=("tpu",), distances=False, global_tokens=False, softcap=True),
}
# Positions that are a bias of distances.
DISTANCES = ("relative", "learned_relative", "disentangled", "learned_disentangled", "alibi")
BLOCKS = (512, 256, 128)  # tokens of a tile, the largest that divides the length
INTERPRET = False  # tests: run by jax's interpreter, without a TPU


def lacks(cfg, platform: str) -> str:
  """Returns why `cfg.attention_impl` cannot compute `cfg` on `platform`; "" if it can."""
  impl = IMPLS[cfg.attention_impl]
  if impl.platforms and platform not in impl.platforms:
    return f"it runs on {impl.platforms[0]}, not on {platform}"
  if impl.dtypes and cfg.dtype not in impl.dtypes:
    return f"it computes in {' or '.join(impl.dtypes)}, and model.dtype is {cfg.dtype}"
  if not impl.distances and cfg.positions in DISTANCES:
    return f"it has no bias of distances, and model.positions is {cfg.positions}"
  if not impl.global_tokens and (cfg.global_tokens or cfg.global_blocks):
    return "it has no global tokens"
  if not impl.softcap and cfg.attention_softcap is not None:
    return "it has no model.attention_softcap"
  return ""


def chosen(cfg, platform: str):
  """Returns `cfg` with "auto" replaced by the platform's kernel where that can compute the model,
  and else by "einsum"."""
  for impl in ("splash", "cudnn") if not cfg.attention_dropout else ():
    able = dataclasses.replace(cfg, attention_impl=impl)
    if not lacks(able, platform):
      return able
  return dataclasses.replace(cfg, attention_impl="einsum")


def divides(*lengths: int) -> bool:
  """Returns whether rows of these lengths divide into whole tiles."""
  return not any(length % BLOCKS[-1] for length in lengths)


@dataclasses.dataclass(frozen=True)
class SplashAttention:
  """Attention within a segment to tokens at most `before` and `after` away; None: any distance."""

  scale: float  # of the logits
  query_segments: jax.Array  # [B, T]
  key_segments: jax.Array  # [B, S]
  before: int | None = None
  after: int | None = None
  softcap: float | None = None

  def __call__(self, q_BTHK, k_BSGK, v_BSGK, key=None):
    """Returns the attention [B, T, H, K], without dropout, which TransformerConfig refuses."""
    # a tenth of the time that all imports take, for TPUs alone
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    del key
    shape = (q_BTHK.shape[1], k_BSGK.shape[1])
    q, kv = (next(block for block in BLOCKS if length % block == 0) for length in shape)
    # Vectors shorter than the 128 lanes of a TPU would be stored padded, lengths are whole tiles.
    short = q_BTHK.shape[-1] < BLOCKS[-1]
    layout = splash.QKVLayout.SEQ_MINOR if short else splash.QKVLayout.HEAD_DIM_MINOR
    sizes = splash.BlockSizes(
      **dict(block_q=q, block_kv=kv, block_q_dkv=q, block_kv_dkv=kv, block_q_dq=q, block_kv_dq=kv),
      **dict(q_layout=layout, k_layout=layout, v_layout=layout),
    )

    def kernel(q_BHTK, k_BGSK, v_BGSK, segments_BT, segments_BS):
      mask = splash.LocalMask(shape, (self.before, self.after), 0)
      if (self.before, self.after) == (None, None):
        mask = splash.FullMask(shape)
      heads = splash.MultiHeadMask([mask] * q_BHTK.shape[1])
      options = dict(block_sizes=sizes, attn_logits_soft_cap=self.softcap, interpret=INTERPRET)
      attend = splash.make_splash_mha_single_device(heads, **options)
      return jax.vmap(attend)(q_BHTK, k_BGSK, v_BGSK, splash.SegmentIds(segments_BT, segments_BS))

    heads_first = (x.swapaxes(1, 2) for x in (q_BTHK * self.scale, k_BSGK, v_BSGK))
    segments = self.query_segments, self.key_segments
    y_BHTK = placement.current().spread(kernel)(*heads_first, *segments)
    return y_BHTK.swapaxes(1, 2)
