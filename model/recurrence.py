"""Layers of an LSTM (Hochreiter & Schmidhuber 1997; Gers et al. 2000 for the forget gates).

A recurrence begins anew where a segment does, so packed rows are separate rows. What a layer reads
is multiplied for all steps at once, outside of the loop.

Axes as in model/layers.py, but F: the four gates (input, forget, output, new) of D units. Within a
layer time comes first.
"""

import functools
import typing

import jax
import jax.numpy as jnp
from flax import nnx

from model import placement
from model.config import LSTMConfig


class State(typing.NamedTuple):
  """Of one layer, after a token."""

  hidden: jax.Array  # [B, D]
  cell: jax.Array  # [B, D] float32


def advance(gates_BF, state: State) -> State:
  """One token later; `gates` before their activations."""
  sizes = gates_BF.shape[-1] // 4
  opened, new = jnp.split(gates_BF.astype(jnp.float32), [3 * sizes], axis=-1)
  take, keep, show = jnp.split(jax.nn.sigmoid(opened), 3, axis=-1)
  cell_BD = keep * state.cell + take * jnp.tanh(new)
  return State((show * jnp.tanh(cell_BD)).astype(state.hidden.dtype), cell_BD)


def beginning(cell_BD, dtype) -> State:
  """The state before a segment's first token."""
  return State(jnp.tanh(cell_BD).astype(dtype), cell_BD)


def begins(segments_TB, backward: bool):
  """[T, B] bool: whether another segment (or nothing) is read before."""
  changes = segments_TB[1:] != segments_TB[:-1]
  edge = jnp.ones_like(changes[:1], shape=(1, changes.shape[1]))
  return jnp.concatenate([changes, edge] if backward else [edge, changes])


def _scan(kernel_DF, gates_TBF, begins_TB, starts_TBD, backward):
  def step(state, now):
    gates_BF, begins_B, starts_BD = now
    fresh = beginning(starts_BD, gates_TBF.dtype)
    state = State(*(jnp.where(begins_B[:, None], a, b) for a, b in zip(fresh, state)))
    state = advance(gates_BF + state.hidden @ kernel_DF, state)
    return state, state.hidden

  zero_BD = jnp.zeros((gates_TBF.shape[1], kernel_DF.shape[0]))
  state, inputs = beginning(zero_BD, gates_TBF.dtype), (gates_TBF, begins_TB, starts_TBD)
  return jax.lax.scan(step, state, inputs, reverse=backward)[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def recurrence(kernel_DF, gates_TBF, begins_TB, starts_TBD, backward: bool):
  """Hidden states [T, B, D] of a layer; where `begins`, the cell before is that of `starts`.

  The gradient of the kernel is one product over all tokens; autodiff would add one up a step.
  """
  return _scan(kernel_DF, gates_TBF, begins_TB, starts_TBD, backward)


def _recurrence(kernel_DF, gates_TBF, begins_TB, starts_TBD, backward):
  def along(gates_TBF, starts_TBD):
    return _scan(kernel_DF, gates_TBF, begins_TB, starts_TBD, backward)

  hidden_TBD, pull_back = jax.vjp(along, gates_TBF, starts_TBD)
  return hidden_TBD, (hidden_TBD, pull_back, begins_TB, starts_TBD)


def _recurrence_gradient(backward, kept, cotangent_TBD):
  hidden_TBD, pull_back, begins_TB, starts_TBD = kept
  gates_TBF, by_starts = pull_back(cotangent_TBD)
  before_TBD = jnp.roll(hidden_TBD, -1 if backward else 1, axis=0)
  fresh_TBD = beginning(starts_TBD, hidden_TBD.dtype).hidden
  before_TBD = jnp.where(begins_TB[..., None], fresh_TBD, before_TBD)
  by_kernel_DF = jnp.einsum("TBD,TBF->DF", before_TBD, gates_TBF)
  return by_kernel_DF, gates_TBF, None, by_starts


recurrence.defvjp(_recurrence, _recurrence_gradient)


class Direction(nnx.Module):
  """A layer's recurrence in one direction."""

  def __init__(self, cfg: LSTMConfig, size: int, *, backward: bool, rngs: nnx.Rngs):
    self.backward = backward

    def forgetting(key, shape, dtype):
      return jnp.zeros(shape, dtype).at[size : 2 * size].set(cfg.forget_bias)

    linear = functools.partial(
      nnx.Linear, kernel_init=initializer(cfg.init_std), dtype=cfg.dtype, rngs=rngs
    )
    product = placement.Product("input/kernel", kept=True)
    self.input = linear(cfg.dim, 4 * size, bias_init=forgetting, dot_general=product)
    self.recurrent = linear(size, 4 * size, use_bias=False)

  def __call__(self, x_TBD, segments_TB, starts_TBD=None):
    """Hidden states [T, B, D]; without `starts` a segment's first cell is 0."""
    gates_TBF = self.input(x_TBD)
    kernel_DF = self.recurrent.kernel[...].astype(gates_TBF.dtype)
    if starts_TBD is None:
      starts_TBD = jnp.zeros((len(x_TBD), 1, 1))
    begins_TB = begins(segments_TB, self.backward)
    return recurrence(kernel_DF, gates_TBF, begins_TB, starts_TBD, self.backward)

  def step(self, x_BD, state: State) -> State:
    return advance(self.input(x_BD) + self.recurrent(state.hidden), state)


class Block(nnx.Module):
  """A layer: one direction, or two side by side, each with half of the units."""

  def __init__(self, cfg: LSTMConfig, *, bidirectional: bool, rngs: nnx.Rngs):
    direction = functools.partial(Direction, cfg, cfg.dim // (1 + bidirectional), rngs=rngs)
    self.forward = direction(backward=False)
    self.backward = direction(backward=True) if bidirectional else None

  def __call__(self, x_BTD, segments_BT, starts_BTD=None):
    """[B, T, D]."""
    x_TBD, segments_TB = x_BTD.swapaxes(0, 1), segments_BT.T
    starts_TBD = None if starts_BTD is None else starts_BTD.swapaxes(0, 1)
    y_TBD = self.forward(x_TBD, segments_TB, starts_TBD)
    if self.backward is not None:
      y_TBD = jnp.concatenate([y_TBD, self.backward(x_TBD, segments_TB)], axis=-1)
    return placement.read(y_TBD.swapaxes(0, 1))


def initializer(std: float | None):
  """Normal with that deviation, or for None uniform, fan-in ** -0.5 at most."""
  if std is not None:
    return nnx.initializers.normal(std)
  return nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
