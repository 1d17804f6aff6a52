"""Reads what a model computes inside: the states behind its layers, and how its heads attend."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

from model import attention
from model.attention import SelfAttention
from model.placement import bind
from train.compression import linears

STACKS = ("encoder", "decoder")
_SEEN = contextvars.ContextVar("seen", default=None)


class Seen(NamedTuple):
  """Arrays that the layers of a model's stacks have computed, by the name of the stack."""

  states: dict[str, list]  # [B, T, D] behind each layer
  vectors: dict[str, list]  # queries, keys and values of each self-attention, each [B, T, H, K]


@contextlib.contextmanager
def observe(model) -> Iterator[Seen]:
  """Yields what `model` computes until the block ends, for a model that is merged within a trace.

  Its stacks are no longer scanned or computed twice (remat): what a layer computes could not leave
  it otherwise.
  """
  seen = Seen({}, {})
  for name in STACKS:
    stack = getattr(model, name, None)
    if stack is None:
      continue
    seen.states[name], seen.vectors[name] = [], []
    stack.unroll()
    for block in {id(block): block for block in stack.blocks}.values():  # layers may share one
      block.stack_name = name
      block.self_attention.stack_name = name
      linears.change(block, watched)

  def attends(module, q_BTHK, k_BSGK, v_BSGK, pattern):
    del pattern
    if isinstance(module, SelfAttention):
      seen.vectors[module.stack_name].append((q_BTHK, k_BSGK, v_BSGK))

  with attention.observe(attends), bind(_SEEN, seen):
    yield seen


def watched(block_class: type) -> type:
  """Returns the class of blocks that note the states behind them."""

  class Watched(block_class):
    def __call__(self, *args, **kwargs):
      result = super().__call__(*args, **kwargs)
      _SEEN.get().states[self.stack_name].append(result[0])
      return result

  return Watched
