"""Writes an XProf trace of some steps of a run, which TensorBoard's profile plugin opens."""

import contextlib
import pathlib
import re
from collections.abc import Callable

import jax
from absl import logging

from train.common.errors import UserError
from train.record.staging import destination


def parse_steps(text: str, total: int) -> range:
  """Returns the steps that `--profile_steps FIRST:LAST` names, of a run of `total` steps.

  Raises UserError for another form, a last step before the first, or a step outside the run.
  """
  match = re.fullmatch(r"(\d+):(\d+)", text)
  if not match:
    raise UserError(f"--profile_steps {text}: write FIRST:LAST, as in 10:15")
  first, last = map(int, match.groups())
  if last < first:
    raise UserError(f"--profile_steps {text}: the last step comes before the first")
  if first < 1 or last > total:
    raise UserError(f"--profile_steps {text}: the steps of this run are 1 to {total}")
  return range(first, last + 1)


class Profile(contextlib.AbstractContextManager):
  """A trace of the steps `steps` of a run, in the folder `profile` of its workdir.

  Process 0 alone writes it. On leaving the block, a trace that an interruption cut short is closed.
  """

  def __init__(self, workdir: pathlib.Path, steps: range, start: int):
    """Raises UserError for a traced step up to `start`, the step after which the run goes on."""
    if steps and steps[0] <= start:
      raise UserError(
        f"--profile_steps {steps[0]}:{steps[-1]}: this run goes on after step {start}; profile"
        " later steps"
      )
    self.folder = workdir / "profile"
    self.steps = steps if jax.process_index() == 0 else range(0)
    self.next, self.running = start + 1, False

  def watch(self, train_step: Callable) -> Callable:
    """Returns `train_step`, which waits for the device before and after the traced steps."""

    def step(state, batch):
      number, self.next = self.next, self.next + 1
      if number not in self.steps:
        return train_step(state, batch)
      if number == self.steps[0]:
        jax.block_until_ready(state)
        jax.profiler.start_trace(self.folder)
        self.running = True
      with jax.profiler.StepTraceAnnotation("train", step_num=number):
        result = train_step(state, batch)
      if number == self.steps[-1]:
        jax.block_until_ready(result)
        self._stop()
      return result

    return step

  def __exit__(self, *_):
    if self.running:
      self._stop()

  def _stop(self):
    jax.profiler.stop_trace()
    self.running = False
    folder = destination(self.folder)
    logging.info("profile: tensorboard --logdir %s (needs tensorboard-plugin-profile)", folder)
