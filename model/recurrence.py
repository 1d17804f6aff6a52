"""Defines the layers of an LSTM (Hochreiter & Schmidhuber 1997; forget gates: Gers et al. 2000).

A recurrence starts again with each segment, so packed rows are separate rows. The inputs of a layer
are multiplied with its weights for all steps at once, outside of the loop.

Axes are those of model/layers.py, but F stands for the four gates (input, forget, output, new) of D
units. Within a layer time comes first.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from model import layers, matmul
from model.config import LSTMConfig
from model.placement import constrain

UNIFORM = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # up to fan-in ** -0.5


class State(NamedTuple):
  """The state of a layer after a token."""

  hidden: jax.Array  # [B, D]
  cell: jax.Array  # [B, D] float32


def advance(gates_BF, state: State) -> State:
  """Returns the state one token later; `gates` are given before their activations."""
  sizes = gates_BF.shape[-1] // 4
  gates, new = jnp.split(gates_BF.astype(jnp.float32), [3 * sizes], axis=-1)
  input_gate, forget_gate, output_gate = jnp.split(jax.nn.sigmoid(gates), 3, axis=-1)
  cell_BD = forget_gate * state.cell + input_gate * jnp.tanh(new)
  return State((output_gate * jnp.tanh(cell_BD)).astype(state.hidden.dtype), cell_BD)


def initial_state(cell_BD, dtype) -> State:
  """Returns the state before a segment's first token, for its cell [B, D]."""
  return State(jnp.tanh(cell_BD).astype(dtype), cell_BD)


def segment_starts(segments_TB, backward: bool):
  """Returns [T, B], True where the token read before is of another segment or there is none."""
  changes = segments_TB[1:] != segments_TB[:-1]
  edge = jnp.ones_like(changes[:1], shape=(1, changes.shape[1]))
  return jnp.concatenate([changes, edge] if backward else [edge, changes])


def _scan(kernel_DF, gates_TBF, begins_TB, starts_TBD, backward):
  def step(state, now):
    gates_BF, begins_B, starts_BD = now
    fresh = initial_state(starts_BD, gates_TBF.dtype)
    state = State(*(jnp.where(begins_B[:, None], a, b) for a, b in zip(fresh, state)))
    state = advance(gates_BF + state.hidden @ kernel_DF, state)
    return state, state.hidden

  zero_BD = jnp.zeros((gates_TBF.shape[1], kernel_DF.shape[0]))
  state, inputs = initial_state(zero_BD, gates_TBF.dtype), (gates_TBF, begins_TB, starts_TBD)
  return jax.lax.scan(step, state, inputs, reverse=backward)[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def recurrence(kernel_DF, gates_TBF, begins_TB, starts_TBD, backward: bool):
  """Returns the hidden states [T, B, D] of a layer; `starts` are the cells before its segments.

  The gradient of the kernel is one product over all tokens; autodiff would add up one at each step.
  """
  return _scan(kernel_DF, gates_TBF, begins_TB, starts_TBD, backward)


def _recurrence(kernel_DF, gates_TBF, begins_TB, starts_TBD, backward):
  def along(gates_TBF, starts_TBD):
    return _scan(kernel_DF, gates_TBF, begins_TB, starts_TBD, backward)

  hidden_TBD, pull_back = jax.vjp(along, gates_TBF, starts_TBD)
  return hidden_TBD, (hidden_TBD, pull_back, begins_TB, starts_TBD)


def _recurrence_gradient(backward, saved, cotangent_TBD):
  hidden_TBD, pull_back, begins_TB, starts_TBD = saved
  gates_TBF, by_starts = pull_back(cotangent_TBD)
  before_TBD = jnp.roll(hidden_TBD, -1 if backward else 1, axis=0)
  fresh_TBD = initial_state(starts_TBD, hidden_TBD.dtype).hidden
  before_TBD = jnp.where(begins_TB[..., None], fresh_TBD, before_TBD)
  by_kernel_DF = jnp.einsum("TBD,TBF->DF", before_TBD, gates_TBF)
  return by_kernel_DF, gates_TBF, None, by_starts


recurrence.defvjp(_recurrence, _recurrence_gradient)


class Direction(nnx.Module):
  """The recurrence of a layer in one direction."""

  def __init__(self, cfg: LSTMConfig, size: int, *, backward: bool, rngs: nnx.Rngs):
    self.backward = backward

    def bias_init(key, shape, dtype):
      return jnp.zeros(shape, dtype).at[size : 2 * size].set(cfg.forget_bias)

    options = dict(kernel_init=layers.initializer(cfg.init_std, UNIFORM), rngs=rngs)
    product = matmul.WeightProduct("input/kernel", saves_inputs=True)
    biased = dict(bias_init=bias_init, dot_general=product)
    self.input = layers.dense(cfg, cfg.dim, 4 * size, **options, **biased)
    self.recurrent = layers.dense(cfg, size, 4 * size, use_bias=False, **options)

  def __call__(self, x_TBD, segments_TB, starts_TBD=None):
    """Returns the hidden states [T, B, D]; by default a segment's cell starts with 0."""
    gates_TBF = self.input(x_TBD)
    kernel_DF = self.recurrent.kernel[...].astype(gates_TBF.dtype)
    if starts_TBD is None:
      starts_TBD = jnp.zeros((len(x_TBD), 1, 1))
    begins_TB = segment_starts(segments_TB, self.backward)
    return recurrence(kernel_DF, gates_TBF, begins_TB, starts_TBD, self.backward)

  def step(self, x_BND, state: State) -> State:
    """Returns the states of N hypotheses after one more token."""
    return advance(self.input(x_BND) + self.recurrent(state.hidden), state)


class Block(nnx.Module):
  """A layer of one direction, or of two side by side, each with half of the units."""

  def __init__(self, cfg: LSTMConfig, *, bidirectional: bool, rngs: nnx.Rngs):
    direction = functools.partial(Direction, cfg, cfg.dim // (1 + bidirectional), rngs=rngs)
    self.forward = direction(backward=False)
    self.backward = direction(backward=True) if bidirectional else None

  def __call__(self, x_BTD, segments_BT, starts_BTD=None):
    """Returns the hidden states [B, T, D]."""
    x_TBD, segments_TB = x_BTD.swapaxes(0, 1), segments_BT.T
    starts_TBD = None if starts_BTD is None else starts_BTD.swapaxes(0, 1)
    y_TBD = self.forward(x_TBD, segments_TB, starts_TBD)
    if self.backward is not None:
      y_TBD = jnp.concatenate([y_TBD, self.backward(x_TBD, segments_TB)], axis=-1)
    return constrain(y_TBD.swapaxes(0, 1), "sublayer_input")
