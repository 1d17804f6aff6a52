"""Saves and restores what a run needs to continue exactly: weights, optimizer, data position."""

import contextlib
import os
import pathlib
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from train import schema
from train.common.errors import UserError, choose, indented
from train.common.trees import flatten
from train.record import checksums, older

FORMAT = 2  # format 1 has no number of its own, and no `recent`
LATER = {"recent"}  # parts of the state that format 1 lacks: they start as in a new run


class Checkpoints(contextlib.AbstractContextManager):
  """The folder `checkpoints` of a run: the latest n, and the best k by a validation metric (Orbax).

  A checkpoint holds `params`, the weights to use; `optimizer`, the rest of the state; and `data`,
  the position in the data as JSON. With a moving average of the weights, `params` is the average,
  and `optimizer` holds the weights in training. Each part can be read alone. Saving is
  asynchronous; a folder without Orbax's commit mark is an interrupted save and is never read.
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
  ):
    """Opens the folder. `clean` removes interrupted saves: only the process that trains the run may
    set `clean`, as any other process would remove the save in progress."""
    self.best_metric = best_metric
    self.best = choose({"min": min, "max": max}, best_mode, "checkpoint.best_mode")
    worst = float("inf" if best_mode == "min" else "-inf")  # of a save by another best_metric
    policies = ocp.training.preservation_policies
    best = policies.BestN(
      get_metric_fn=lambda metrics: older.metrics(metrics).get(best_metric, worst),
      reverse=best_mode == "min",
      n=keep_best,
      keep_checkpoints_without_metrics=False,
    )
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="data")
    context = ocp.Context()
    context.checkpointables.registry = registry
    # Replicas write slices of a weight side by side. XLA compiles a program for each shape, which
    # takes longer than to write a small weight whole.
    context.array.saving.min_slice_bytes_for_replica_parallel = 2**20
    self.writing, self.primary = False, jax.process_index() == 0
    self.directory = pathlib.Path(workdir).resolve() / "checkpoints"
    self.orbax = ocp.training.Checkpointer(
      self.directory,
      context=context,
      save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
      preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep_latest), best]),
      cleanup_tmp_directories=clean,
    )

  def __exit__(self, *error):
    self.orbax.close()  # waits for a save in progress
    self._write_checksums()

  def _write_checksums(self):
    if self.writing and self.primary:
      checksums.write(self.directory)

  def save(self, state: Mapping, data, metrics: Mapping | None = None) -> None:
    """Starts writing `state` and `data.get_state()`; waits only for an earlier save."""
    step = int(state["step"])
    if self.latest == step:
      return
    self.orbax.wait()  # the checksums are those of the save before
    self._write_checksums()
    self.writing = True
    if self.primary:  # a person may have removed this step's checkpoint, and not its checksums
      checksums.path_of(self.directory / str(step)).unlink(missing_ok=True)
    metrics = metrics if metrics and self.best_metric in metrics else None
    parts = _parts(state) | dict(data=data.get_state())
    self.orbax.save_checkpointables_async(
      step, parts, metrics=metrics, force=True, custom_metadata=dict(format=FORMAT)
    )

  @property
  def latest(self) -> int | None:
    """Returns the last saved step, or None."""
    return self.orbax.latest.step if self.orbax.latest else None

  def restore(self, state: Mapping, data) -> Mapping:
    """Returns the latest state, placed as `state` is, and passes its position to `data.set_state`.

    Raises UserError if the shapes do not fit.
    """
    self._check_shapes(self.latest, state["params"])
    parts = _parts(jax.tree.map(_abstract, state))
    saved = self._metadata(self.latest)["optimizer"]
    later = parts["optimizer"].keys() - saved.keys() & LATER
    parts["optimizer"] = {key: x for key, x in parts["optimizer"].items() if key not in later}
    saved = self.orbax.load_checkpointables(self.latest, parts | dict(data=None))
    data.set_state(saved["data"])
    optimizer = saved["optimizer"] | {key: state[key] for key in later}
    if "ema" not in state:
      return dict(params=saved["params"], **optimizer)
    return dict(ema=saved["params"], **optimizer)

  def params(self, which: str, like=None):
    """Returns the weights of `latest`, `best` or a step, or the mean weights of the last N
    checkpoints (`average:N`) or of some steps (`average:STEP,STEP,...`).

    The weights are placed as `like` is, a tree of arrays or ShapeDtypeStructs with shardings, and
    without `like` are numpy arrays, whatever devices saved them.
    """
    loaded = [self._load_params(step, like) for step in self.steps(which)]
    if len(loaded) == 1:
      return loaded[0]
    return jax.tree.map(lambda *xs: sum(x.astype(jnp.float32) for x in xs) / len(xs), *loaded)

  def steps(self, which: str) -> list[int]:
    """Returns the saved steps that `which` selects; raises UserError, with all steps, for none."""
    checkpoints = self.orbax.checkpoints
    saved = [info.step for info in checkpoints]
    if not saved:
      raise UserError(f"{self.directory} holds no finished checkpoint")
    if which == "latest":
      return saved[-1:]
    if which == "best":
      values = {info.step: older.metrics(info.metrics or {}) for info in checkpoints}
      scored = [step for step in values if self.best_metric in values[step]]
      if not scored:
        raise UserError(f"no checkpoint in {self.directory} has a validation {self.best_metric}")
      return [self.best(scored, key=lambda step: values[step][self.best_metric])]
    if match := re.fullmatch(r"average:(\d+)", which):
      count = int(match[1])
      if not 1 <= count <= len(saved):
        raise UserError(f"{which}: there are {len(saved)} checkpoints, steps {saved}")
      return saved[-count:]
    words = which.removeprefix("average:").split(",")
    is_valid = len(words) == 1 or which.startswith("average:")
    if is_valid and all(checksums.is_step(word) and int(word) in saved for word in words):
      return [int(word) for word in words]
    raise UserError(
      f"no checkpoint {which!r}; there are latest, best, average:N, average:STEP,STEP and"
      f" steps {saved}"
    )

  def shapes(self, which: str) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape of the weights of the last checkpoint that `which` selects."""
    saved = self._metadata(self.steps(which)[-1])["params"]
    return {name: tuple(x.shape) for name, x in flatten(saved).items()}

  def _load_params(self, step, like):
    if wrong := checksums.problems(self.directory / str(step)):
      raise UserError(
        f"{self.directory / str(step)} is damaged: {'; '.join(wrong[:3])}. Choose another with"
        " --checkpoint; the run sets this one aside when it is started again"
      )
    if like is None:
      abstract = jax.tree.map(_on_host, self._metadata(step)["params"])
    else:
      self._check_shapes(step, like)
      abstract = jax.tree.map(_abstract, like)
    return self.orbax.load_checkpointables(step, dict(params=abstract))["params"]

  def _metadata(self, step):
    """Returns the shapes of what is saved; raises UserError for a newer format."""
    saved = self.orbax.checkpointables_metadata(step)
    version = (saved.custom_metadata or {"format": 1})["format"]
    if version > FORMAT:
      raise UserError(
        f"{self.directory / str(step)} has format {version}, and this code reads formats up to"
        f" {FORMAT}: use a later version of the code"
      )
    return saved.metadata

  def _check_shapes(self, step, params):
    saved, here = (
      {name: tuple(x.shape) for name, x in flatten(tree).items()}
      for tree in (self._metadata(step)["params"], params)
    )
    wrong = [
      f"{name}: {saved.get(name, 'absent')} in the checkpoint, {here.get(name, 'absent')} here"
      for name in sorted(saved.keys() | here.keys())
      if saved.get(name) != here.get(name)
    ]
    if wrong:
      raise UserError(f"{self.directory / str(step)} does not fit this model:{indented(wrong)}")


def _parts(state):
  """Returns the state as it is saved: the weights to use, and the rest."""
  use = "ema" if "ema" in state else "params"
  return dict(params=state[use], optimizer={key: x for key, x in state.items() if key != use})


def _abstract(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))


def _on_host(x):
  """Returns a numpy array of that shape that takes no memory and makes Orbax read a numpy array."""
  return np.broadcast_to(np.zeros((), x.dtype), x.shape)


def checkpoint_policy(cfg: ConfigDict) -> dict:
  """Returns the settings of the section `checkpoint` that Checkpoints takes."""
  return {key: value for key, value in cfg.checkpoint.items() if key != "every"}


def open_to_read(workdir: str | os.PathLike) -> Checkpoints:
  """Returns the checkpoints of a run, of which `best` is best by the run's own metric."""
  return Checkpoints(workdir, **checkpoint_policy(schema.load_run(workdir)))
