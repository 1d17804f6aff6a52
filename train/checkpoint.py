"""Saves and restores what a run needs to continue exactly: weights, optimizer, data position."""

import contextlib
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from train import schema
from train.common import paths, trees
from train.common.errors import UserError, choose, indented
from train.common.trees import flatten
from train.record import checksums, older, orbax_context

FORMAT = 3  # 1 has no number of its own, and no `recent`; up to 2 checksums may be missing
LATER = {"recent"}  # parts of the state that format 1 lacks: they start as in a new run
TRAINING_ONLY = ("distill",)  # weights that no prediction uses: they are saved with the optimizer's
TRIES = 20  # to read a checkpoint that the training removes meanwhile


class Checkpoints(contextlib.AbstractContextManager):
  """The folder `checkpoints` of a run: the latest n, and the best k by a validation metric.

  A checkpoint holds `params`, the weights to use; `optimizer`, the rest of the state; and `data`,
  the position in the data as JSON. With a moving average of the weights, `params` is the average,
  and `optimizer` holds the weights in training. Each part can be read alone. Orbax writes it in the
  background; it is finished when its record (record/checksums.py) is written too. Only then are
  others removed, so that there is always a finished one.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    keep_latest: int = 1,
    keep_best: int = 0,
    best_metric: str = "loss",
    best_mode: str = "min",
    clean: bool = False,
    before_record: Callable[[], None] = lambda: None,
  ):
    """Opens the folder. `clean` removes interrupted saves: only the process that trains the run may
    set `clean`, as any other process would remove the save in progress. `before_record` is called
    before a checkpoint counts as finished."""
    self.keep_latest, self.keep_best, self.best_metric = keep_latest, keep_best, best_metric
    self.sign = choose({"min": 1, "max": -1}, best_mode, "checkpoint.best_mode")
    self.directory = paths.of(workdir).resolve() / "checkpoints"
    self.context, self.before_record = orbax_context.make(self.directory), before_record
    self.primary = jax.process_index() == 0
    if clean and self.primary:
      checksums.remove_unfinished(self.directory)
      for path in (self.directory / str(step) for step in checksums.steps(self.directory)):
        if not checksums.path_of(path).exists():  # of an older version, which wrote records later
          checksums.write(path, scores=checksums.scores(path))
    self.latest = max(checksums.steps(self.directory), default=None)  # that this process knows
    self.worker, self.pending = ThreadPoolExecutor(1, "checkpoints"), []

  def __exit__(self, *error):
    try:
      self.wait()
    finally:
      self.worker.shutdown()

  def wait(self) -> None:
    """Waits for the save in progress; raises its error. Several threads may wait."""
    for future in tuple(self.pending):
      future.result()
    self.pending = [future for future in self.pending if not future.done()]

  def save(self, state: Mapping, data, keep: bool = True) -> None:
    """Starts writing `state` and `data.get_state()`; waits only for an earlier save.

    Without `keep` it is there to resume from, until a later one is finished: it is none of the
    latest or best. A second save of a step only makes it one to keep.
    """
    step = int(state["step"])
    if self.latest == step:
      if keep:
        self._in_background(self._note, step, keep=True)
      return
    self.wait()
    parts = _parts(state) | dict(data=data.get_state())
    with self.context:
      saving = ocp.save_checkpointables_async(
        str(self.directory / str(step)), parts, custom_metadata=dict(format=FORMAT)
      )
    self.latest = step
    self._in_background(self._finish, step, saving, keep)

  def score(self, step: int, scores: Mapping[str, float]) -> None:
    """Adds the scores of an evaluation to a checkpoint, if there is one of that step."""
    finite = {name: float(value) for name, value in scores.items() if math.isfinite(value)}
    self._in_background(self._note, step, scores=finite)

  def _in_background(self, function, *args, **kwargs):
    if self.primary or function == self._finish:
      self.pending.append(self.worker.submit(function, *args, **kwargs))

  def _finish(self, step, saving, keep):
    saving.result()
    if self.primary:
      self.before_record()
      checksums.write(self.directory / str(step), keep=keep)
      self._prune()

  def _note(self, step, **facts):
    checksums.note(self.directory / str(step), **facts)
    self._prune()

  def _prune(self):
    """Removes finished checkpoints that are neither the newest, nor of the latest or the best."""
    finished = checksums.steps(self.directory)
    kept = self._kept(finished)
    stays = {
      *finished[-1:],
      *kept[max(len(kept) - self.keep_latest, 0) :],
      *self._ranked(kept)[: self.keep_best],
    }
    for step in finished:
      if step not in stays:
        checksums.remove(self.directory / str(step))

  def _kept(self, steps) -> list[int]:
    """Returns those of the steps that were not saved for a restart alone."""
    return [s for s in steps if checksums.read(self.directory / str(s)).get("keep", True)]

  def _ranked(self, steps) -> list[int]:
    """Returns those of the steps that have the metric, the best first, of equal ones the first."""
    values = {step: self.scores(step).get(self.best_metric) for step in steps}
    scored = [step for step in steps if values[step] is not None]
    return sorted(scored, key=lambda step: self.sign * values[step])

  def scores(self, step: int) -> dict[str, float]:
    """Returns the scores of the checkpoint of a step, {} if it was not evaluated."""
    return older.metrics(checksums.scores(self.directory / str(step)))

  def restore(self, shapes: Mapping, data) -> Mapping:
    """Returns the latest state and passes its position to `data.set_state`.

    `shapes` are arrays or ShapeDtypeStructs with the state's shardings; the state lacks those of
    LATER that the checkpoint lacks. Raises UserError if the shapes do not fit.
    """
    path = self.directory / str(self.latest)
    parts = _parts(jax.tree.map(trees.abstract, shapes))
    self._check_shapes(path, parts["params"])
    saved = self._metadata(path)["optimizer"]
    later = parts["optimizer"].keys() - saved.keys() & LATER
    parts["optimizer"] = {key: x for key, x in parts["optimizer"].items() if key not in later}
    saved = self.load(self.latest, parts | dict(data=None))
    data.set_state(saved["data"])
    kept, rest = "ema" if "ema" in shapes else "params", dict(saved["optimizer"])
    own = {key: rest.pop(key) for key in TRAINING_ONLY if key in rest}
    return {kept: saved["params"] | own, **rest}

  def params(self, which: str, like=None):
    """Returns the weights that `read` returns."""
    return self.read(which, like)[0]

  def read(self, which: str, like=None) -> tuple[Any, list[int]]:
    """Returns the weights of `latest`, `best` or a step, or the mean weights of the last N
    checkpoints (`average:N`) or of some steps (`average:STEP,STEP,...`), and the steps.

    The weights are placed as `like` is, a tree of arrays or ShapeDtypeStructs with shardings, and
    without `like` are numpy arrays, whatever devices saved them. A training may remove checkpoints
    meanwhile: others are read then. Raises UserError for a damaged checkpoint, but for `latest`
    reads the one before it.
    """
    damaged: dict[int, list[str]] = {}
    for _ in range(TRIES):
      steps = self.steps(which, damaged if which == "latest" else {})
      try:
        for step in steps:
          if wrong := checksums.problems(self.directory / str(step)):
            damaged[step] = wrong
        if not damaged.keys() & set(steps):
          return trees.mean([self._load_params(step, like) for step in steps]), steps
      except Exception:
        if all(step in checksums.steps(self.directory) for step in steps):
          raise  # none was removed
      there = checksums.steps(self.directory)
      damaged = {step: wrong for step, wrong in damaged.items() if step in there}
      for step in damaged.keys() & set(steps):
        message = f"{self.directory / str(step)} is damaged: {'; '.join(damaged[step][:3])}"
        if which != "latest":
          raise UserError(
            f"{message}. Choose another with --checkpoint; the run sets this one aside when it is"
            " started again"
          )
        logging.error("%s. The checkpoint before it is read", message)
    raise UserError(f"{self.directory}: {which} was removed {TRIES} times while it was read")

  def steps(self, which: str, without: Collection[int] = ()) -> list[int]:
    """Returns the saved steps that `which` selects; raises UserError, with all steps, for none."""
    saved = [step for step in checksums.steps(self.directory) if step not in without]
    if not saved and without:
      raise UserError(f"{self.directory}: all checkpoints are damaged, steps {sorted(without)}")
    if not saved:
      left = checksums.committed(self.directory)
      unfinished = f" (step {left[-1]} has no checksums)" if left else ""
      raise UserError(
        f"{self.directory} holds no finished checkpoint{unfinished}; a run writes one every"
        " checkpoint.every steps, and at its end"
      )
    if which == "latest":
      return saved[-1:]
    kept = self._kept(saved)
    if which == "best":
      if not (ranked := self._ranked(kept)):
        raise UserError(f"no checkpoint in {self.directory} has a validation {self.best_metric}")
      return ranked[:1]
    if match := re.fullmatch(r"average:(\d+)", which):
      count = int(match[1])
      if not 1 <= count <= len(kept):
        raise UserError(f"{which}: there are {len(kept)} checkpoints, steps {kept}")
      return kept[-count:]
    words = which.removeprefix("average:").split(",")
    is_valid = len(words) == 1 or which.startswith("average:")
    if is_valid and all(checksums.is_step(word) and int(word) in saved for word in words):
      return [int(word) for word in words]
    raise UserError(
      f"no checkpoint {which!r}; there are latest, best, average:N, average:STEP,STEP and"
      f" steps {saved}"
    )

  def shapes(self, which: str) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape of the weights of the last checkpoint that `which` selects, or {} where
    it is damaged or removed meanwhile: then `read` names the damage or takes another."""
    path = self.directory / str(self.steps(which)[-1])
    try:
      saved = self._metadata(path)["params"]
    except (OSError, ValueError, KeyError):
      return {}
    return {name: tuple(x.shape) for name, x in flatten(saved).items()}

  def _load_params(self, step, like):
    path = self.directory / str(step)
    if like is None:
      abstract = jax.tree.map(trees.on_host, self._metadata(path)["params"])
    else:
      self._check_shapes(path, like)
      abstract = jax.tree.map(trees.abstract, like)
    return self.load(step, dict(params=abstract))["params"]

  def load(self, step: int, parts: Mapping) -> Mapping:
    """Returns parts of the checkpoint of a step, placed as the trees in `parts` are."""
    with self.context:
      return ocp.load_checkpointables(str(self.directory / str(step)), parts)

  def _metadata(self, path):
    """Returns the shapes of what is saved; raises UserError for a newer format."""
    with self.context:
      saved = ocp.checkpointables_metadata(str(path))
    version = (saved.custom_metadata or {"format": 1})["format"]
    if version > FORMAT:
      raise UserError(
        f"{path} has format {version}, and this code reads formats up to {FORMAT}: use a later"
        " version of the code"
      )
    return saved.metadata

  def _check_shapes(self, path, params):
    saved, here = (
      {name: tuple(x.shape) for name, x in flatten(tree).items()}
      for tree in (self._metadata(path)["params"], params)
    )
    wrong = [
      f"{name}: {saved.get(name, 'absent')} in the checkpoint, {here.get(name, 'absent')} here"
      for name in sorted(saved.keys() | here.keys())
      if saved.get(name) != here.get(name)
    ]
    if wrong:
      raise UserError(f"{path} does not fit this model:{indented(wrong)}")


def _parts(state):
  """Returns the state as it is saved: the weights to use, and the rest."""
  use = "ema" if "ema" in state else "params"
  own = {key: x for key, x in state[use].items() if key in TRAINING_ONLY}
  rest = {key: x for key, x in state.items() if key != use} | own
  return dict(params={key: x for key, x in state[use].items() if key not in own}, optimizer=rest)


def checkpoint_policy(cfg: ConfigDict) -> dict:
  """Returns the settings of the section `checkpoint` that Checkpoints takes."""
  return {key: value for key, value in cfg.checkpoint.items() if key != "every"}


def open_to_read(workdir: str | os.PathLike) -> Checkpoints:
  """Returns the checkpoints of a run, of which `best` is best by the run's own metric."""
  return Checkpoints(workdir, **checkpoint_policy(schema.load_run(workdir)))
