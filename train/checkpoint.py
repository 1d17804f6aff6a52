"""Everything a run needs to continue exactly: weights, optimizer and data position (Orbax)."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from train.common.errors import UserError, indented
from train.common.trees import flatten
from train.record import checksums

# 1: until 2026-11-26. 2: tells its format, and `recent` is in it.
FORMAT = 2
LATER = {"recent"}  # parts of the state that format 1 has not: they are as in a new run


class Checkpoints:
  """The folder `checkpoints` of a run: the latest n, and the best k by a validation metric.

  A checkpoint holds `params`, the weights to use; `optimizer`, the rest of the state (where the
  weights to use are a moving average, the others too); and `data` (position, JSON): whoever wants
  only weights reads only weights. Saving is asynchronous; a folder without Orbax's commit mark was
  interrupted and is never read.
  """

  def __init__(
    self,
    workdir,
    *,
    keep_latest=1,
    keep_best=0,
    best_metric="loss",
    best_mode="min",
    clean=False,
  ):
    """clean: removes what interrupted saves left. Only whoever trains the run may: others would
    remove what it is writing."""
    if best_mode not in ("min", "max"):
      raise UserError(f"checkpoint.best_mode is {best_mode!r}; known: min, max")
    self.best_metric, self.best_mode = best_metric, best_mode
    policies = ocp.training.preservation_policies
    keep = [policies.LatestN(keep_latest)]
    if keep_best:
      best = policies.BestN(
        get_metric_fn=lambda metrics: metrics[best_metric],
        reverse=best_mode == "min",
        n=keep_best,
        keep_checkpoints_without_metrics=False,
      )
      keep.append(best)
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="data")
    context = ocp.Context()
    context.checkpointables.registry = registry
    self.writing, self.primary = False, jax.process_index() == 0
    self.directory = pathlib.Path(workdir).resolve() / "checkpoints"
    self.orbax = ocp.training.Checkpointer(
      self.directory,
      context=context,
      save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
      preservation_policy=policies.AnyPreservationPolicy(keep),
      cleanup_tmp_directories=clean,
    )

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.orbax.close()  # waits for a save in progress
    self._seal()

  def _seal(self):
    if self.writing and self.primary:
      checksums.seal(self.directory)

  def save(self, state, data, metrics=None):
    """Starts writing `state` and the position of `data`; waits only for an earlier save."""
    step = int(state["step"])
    if self.latest == step:
      return
    self.orbax.wait()  # for the save before, which is sealed then
    self._seal()
    self.writing = True
    if self.primary:  # somebody may have removed the step's checkpoint, and not its seal
      checksums.path_of(self.directory / str(step)).unlink(missing_ok=True)
    metrics = metrics if metrics and self.best_metric in metrics else None
    parts = _parts(state) | dict(data=data.get_state())
    form = dict(format=FORMAT)
    self.orbax.save_checkpointables_async(
      step, parts, metrics=metrics, force=True, custom_metadata=form
    )

  @property
  def latest(self) -> int | None:
    """The last step saved, or None."""
    return self.orbax.latest.step if self.orbax.latest else None

  def restore(self, state, data):
    """The latest state, placed as `state` is, with `data` moved to its position.

    Returns `state` itself where nothing was saved. UserError if the shapes do not fit.
    """
    if self.latest is None:
      return state
    self._check_shapes(self.latest, state["params"])
    parts = _parts(jax.tree.map(_abstract, state))
    there = self._metadata(self.latest)["optimizer"]
    later = parts["optimizer"].keys() - there.keys() & LATER
    parts["optimizer"] = {key: x for key, x in parts["optimizer"].items() if key not in later}
    saved = self.orbax.load_checkpointables(self.latest, parts | dict(data=None))
    data.set_state(saved["data"])
    optimizer = saved["optimizer"] | {key: state[key] for key in later}
    if "ema" not in state:
      return dict(params=saved["params"], **optimizer)
    return dict(ema=saved["params"], **optimizer)

  def params(self, which: str, like=None):
    """Weights of `latest`, `best`, a step, or a mean: `average:N` of the last N checkpoints,
    `average:STEP,STEP,...` of those.

    With `like` (a tree of arrays or ShapeDtypeStructs with shardings) they are placed so; without,
    they are numpy's, whatever devices they were saved from.
    """
    loaded = [self._load_params(step, like) for step in self.steps(which)]
    if len(loaded) == 1:
      return loaded[0]
    return jax.tree.map(lambda *xs: sum(x.astype(jnp.float32) for x in xs) / len(xs), *loaded)

  def steps(self, which: str) -> list[int]:
    """The saved steps that `which` means; UserError with what there is if it means none."""
    saved = [info.step for info in self.orbax.checkpoints]
    if not saved:
      raise UserError(f"{self.directory} holds no finished checkpoint")
    if which == "latest":
      return saved[-1:]
    if which == "best":
      scored = [i for i in self.orbax.checkpoints if i.metrics and self.best_metric in i.metrics]
      if not scored:
        raise UserError(f"no checkpoint in {self.directory} has a validation {self.best_metric}")
      sign = 1 if self.best_mode == "min" else -1
      return [min(scored, key=lambda i: sign * i.metrics[self.best_metric]).step]
    if match := re.fullmatch(r"average:(\d+)", which):
      count = int(match[1])
      if not 1 <= count <= len(saved):
        raise UserError(f"{which}: there are {len(saved)} checkpoints, steps {saved}")
      return saved[-count:]
    wanted = which.removeprefix("average:").split(",")
    one_or_mean = len(wanted) == 1 or which.startswith("average:")
    if one_or_mean and all(checksums.is_step(word) and int(word) in saved for word in wanted):
      return [int(word) for word in wanted]
    raise UserError(
      f"no checkpoint {which!r}; there are latest, best, average:N, average:STEP,STEP and"
      f" steps {saved}"
    )

  def _load_params(self, step, like):
    if wrong := checksums.problems(self.directory / str(step)):
      raise UserError(
        f"{self.directory / str(step)} is damaged: {'; '.join(wrong[:3])}. --checkpoint takes"
        " another; the run, started again, sets it aside"
      )
    if like is None:
      abstract = jax.tree.map(_on_host, self._metadata(step)["params"])
    else:
      self._check_shapes(step, like)
      abstract = jax.tree.map(_abstract, like)
    return self.orbax.load_checkpointables(step, dict(params=abstract))["params"]

  def _metadata(self, step):
    """Shapes of what is saved; UserError for a format of the future."""
    found = self.orbax.checkpointables_metadata(step)
    form = (found.custom_metadata or {"format": 1})["format"]
    if form > FORMAT:
      raise UserError(
        f"{self.directory / str(step)} is of format {form}; this version of the code knows formats"
        f" up to {FORMAT}: use a later one"
      )
    return found.metadata

  def _check_shapes(self, step, params):
    saved = flatten(self._metadata(step)["params"])
    here = flatten(params)
    wrong = [f"{name}: not in the checkpoint" for name in here.keys() - saved.keys()]
    wrong += [f"{name}: only in the checkpoint" for name in saved.keys() - here.keys()]
    wrong += [
      f"{name}: {tuple(saved[name].shape)} in the checkpoint, {tuple(here[name].shape)} here"
      for name in here.keys() & saved.keys()
      if tuple(saved[name].shape) != tuple(here[name].shape)
    ]
    if wrong:
      raise UserError(
        f"{self.directory / str(step)} does not fit this model:{indented(sorted(wrong))}"
      )


def _parts(state):
  """The state as it is saved: the weights to use, and the rest."""
  use = "ema" if "ema" in state else "params"
  return dict(params=state[use], optimizer={key: x for key, x in state.items() if key != use})


def _abstract(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))


def _on_host(x):
  """What Orbax takes for an array of numpy's to be read; it holds a single number."""
  return np.broadcast_to(np.zeros((), x.dtype), x.shape)


def checkpoint_policy(cfg) -> dict:
  """The part of the `checkpoint` section that Checkpoints takes."""
  return {key: value for key, value in cfg.checkpoint.items() if key != "every"}
