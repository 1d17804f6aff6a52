"""Finds the operation that made the first NaN of an update, for --debug_nans."""

import pathlib
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import checkify

from model import matmul
from train.common.errors import UserError
from train.common.trees import flatten
from train.step import losses_of, row_keys

ROOT = pathlib.Path(__file__).parents[1]
OURS = tuple(f"{ROOT}/{folder}/" for folder in ("model", "train"))
SHOWN = 5  # lines of ours, weights


def watch(train_step: Callable, task, graph, seed: int, fixed=None) -> Callable:
  """Returns `train_step`, which raises a UserError for an update that is skipped as not finite.

  The function waits for each step. The batch of such an update is computed again without
  microbatches, with a check after each operation of loss and gradient.
  """

  def step(state, batch):
    state, sums = train_step(state, batch)
    if sums["skipped"][0] and not sums["spikes"][0]:  # the weights are as they were before
      number = int(state["step"])
      reason = find(task, graph, state["params"], batch, seed, number - 1, fixed)
      raise UserError(f"step {number}: {reason}")
    return state, sums

  return step


def find(task, graph, params, batch, seed: int, step: int, fixed=None) -> str:
  """Names the operation that made a batch's first NaN or, without a NaN, what is infinite."""
  keys_B = row_keys(seed, step, 0, len(jax.tree.leaves(batch)[0]))

  def loss(params):
    with matmul.use_autodiff():
      return losses_of(task, graph)(params, batch, keys_B, fixed)["loss"][0]

  checked = checkify.checkify(jax.value_and_grad(loss), errors=checkify.nan_checks)
  error, (value, grads) = jax.jit(checked)(params)
  if (nan := error.get_exception()) is not None:
    return f"{nan.prim} made the first NaN, in\n" + "\n".join(_lines(nan.traceback_info))
  infinite = [name for name, x in flatten(grads).items() if not np.isfinite(x).all()]
  names = ", ".join(infinite[:SHOWN])
  names += f" and {len(infinite) - SHOWN} more" if infinite[SHOWN:] else ""
  return f"no operation made a NaN; the loss is {float(value):.3g}, " + (
    f"the gradient of {names} is infinite" if names else "the norm of the gradient overflows"
  )


def _lines(stack) -> list[str]:
  """Returns the lines of this code in a stack, the innermost first."""
  lines = [
    f"  {frame.file_name.removeprefix(f'{ROOT}/')} line {frame.line_num}: {frame.function_name}"
    for frame in stack.frames
    if frame.file_name.startswith(OURS)
  ]
  return lines[:SHOWN]
