"""--debug_nans: the operation that made an update's first NaN, and the lines that led there."""

import pathlib

import jax
import numpy as np
from flax import nnx
from jax.experimental import checkify

from model import matmul
from train.common.errors import UserError
from train.common.trees import flatten
from train.step import row_keys

ROOT = pathlib.Path(__file__).parents[1]
OURS = ("model/", "train/")
SHOWN = 5  # lines of ours, weights


def watched(train_step, task, graph, seed: int):
  """`train_step`, which raises a UserError where an update is left out because it is not finite.

  It waits for each step, and does the batch of such a step again in one piece, with a check after
  each operation of loss and gradient.
  """

  def step(state, batch):
    state, sums = train_step(state, batch)
    if sums["skipped"][0] and not sums["spikes"][0]:  # the weights are as they were before
      number = int(state["step"])
      told = first(task, graph, state["params"], batch, seed, number - 1)
      raise UserError(f"step {number}: {told}")
    return state, sums

  return step


def first(task, graph, params, batch, seed: int, step: int) -> str:
  """What made the first NaN in loss and gradient of a batch; without one, what is infinite."""
  keys_B = row_keys(seed, step, 0, len(jax.tree.leaves(batch)[0]))

  def loss(params):
    with matmul.use_autodiff():
      return task.loss(nnx.merge(graph, params), batch, keys_B)["loss"][0]

  checked = checkify.checkify(jax.value_and_grad(loss), errors=checkify.nan_checks)
  error, (value, grads) = jax.jit(checked)(params)
  if (found := error.get_exception()) is not None:
    return f"the first NaN is of {found.prim}, in\n" + "\n".join(_lines(found.traceback_info))
  wrong = [name for name, x in flatten(grads).items() if not np.isfinite(x).all()]
  listed = ", ".join(wrong[:SHOWN]) + (f" and {len(wrong) - SHOWN} more" if wrong[SHOWN:] else "")
  return (
    f"no operation made a NaN; the loss is {float(value):.3g}, infinite is the gradient of"
    f" {listed or 'nothing: its norm overflows'}"
  )


def _lines(stack) -> list[str]:
  """Our own lines, the innermost first."""
  lines = [
    f"  {frame.file_name.removeprefix(f'{ROOT}/')} line {frame.line_num}: {frame.function_name}"
    for frame in stack.frames
    if frame.file_name.startswith(tuple(f"{ROOT}/{folder}" for folder in OURS))
  ]
  return lines[:SHOWN]
