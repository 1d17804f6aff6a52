"""Trains a run: builds, restores, steps, logs, evaluates and saves."""

import time

import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

from train import nans, optimizer, pretrained, sharding, tasks
from train.checkpoint import Checkpoints, checkpoint_policy
from train.cluster import processes
from train.cluster.signals import StopSignal
from train.cluster.watchdog import Watchdog
from train.common.entry import INTERRUPTED
from train.common.errors import choose
from train.data.bad_records import LEFT_OUT
from train.data.batches import Batches
from train.evaluation import EarlyStopping, Evaluation
from train.record.config import flat
from train.record.cost import Cost
from train.record.meter import Meter, SkippedUpdates
from train.record.profile import Profile
from train.record.workdir import Workdir
from train.record.writer import Writer, read_metrics
from train.state import init, weights
from train.step import make_train_step, settings
from train.tasks.base import require_score

PUT = {"jit": sharding.put, "pmap": sharding.put_by_device}


def train(
  cfg: ConfigDict, workdir: Workdir, *, debug_nans: bool = False, profile_steps: range = range(0)
) -> int:
  """Trains to `cfg.steps`, from the workdir's last checkpoint if there is one.

  debug_nans: names the operation that makes the first NaN. profile_steps: the steps to trace.
  Returns the exit status: 0, or 130 or 143 if Ctrl-C or SIGTERM ended the run early, after saving.
  """
  start, primary = workdir.last_step, jax.process_index() == 0
  profile = Profile(workdir.path, profile_steps, start)
  put = choose(PUT, cfg.parallelism, "parallelism")
  mesh = sharding.make_mesh(cfg.mesh)
  task = pretrained.build_task(cfg.task, workdir.path)
  if cfg.evaluate.decode_every:
    require_score(task)
    task.check_metric(cfg.checkpoint.best_metric)
  tx, learning_rate = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
  optimizer.log_unused(cfg.optimizer, cfg.schedule)
  graph, state = init(cfg, task, tx, mesh)
  layout = tasks.layout(task, cfg.batch_size)
  batches = Batches(task.items("train"), layout, seed=cfg.seed, workers=cfg.workers)
  checkpoints = Checkpoints(workdir.path, clean=True, **checkpoint_policy(cfg))
  activations = sharding.activation_sharding(mesh, cfg.mesh.sequence)
  with StopSignal() as stop, checkpoints, batches, activations, profile:
    meter = Meter(batches, SkippedUpdates(workdir.path, cfg.max_skipped, primary))
    state = restore(cfg, task, state, checkpoints, meter)
    early_stopping = restore_early_stopping(cfg, workdir)
    if start >= cfg.steps or early_stopping.due:
      logging.info("finished: %d of %d steps%s", start, cfg.steps, early_stopping)
      return 0
    log_changed_steps(cfg, workdir, learning_rate)
    evaluation = Evaluation(cfg, task, graph, mesh, early_stopping)
    train_step = make_train_step(task, graph, tx, how=cfg.parallelism, **settings(cfg))
    train_step = profile.watch(meter.watch(train_step))
    if debug_nans:
      train_step = nans.watch(train_step, task, graph, cfg.seed)
    note_start(cfg, workdir, mesh, state["params"], batches, evaluation)
    vote, watchdog = processes.Vote(mesh), Watchdog(workdir.path, cfg.watchdog_seconds)
    options = dict(total_steps=cfg.steps, loggers=cfg.loggers, config=flat(cfg))
    writer = Writer(workdir.path, start, primary, **options)
    meter.begin(Cost(lambda: evaluation.forward_flops(weights(state)), mesh.devices.flat))
    with writer, watchdog:
      for step in range(start + 1, cfg.steps + 1):
        state, sums = train_step(state, put(next(batches), mesh))
        meter.add(step, sums)
        watchdog.ended(f"step {step}")
        last, stopping = step == cfg.steps, vote(stop.status)

        if step % cfg.log_every == 0 or last:
          rate = float(learning_rate(step - 1))
          writer.write(step, "train", meter.values() | {"learning_rate": rate})

        saving = step % cfg.checkpoint.every == 0 or last or stopping
        if evaluation.is_due(step) or saving:
          with meter.paused():
            began = time.perf_counter()
            if scores := evaluation(step, weights(state)):
              seconds = {"seconds": time.perf_counter() - began}
              writer.write(step, cfg.evaluate.split, scores | seconds)
            if saving or early_stopping.due:
              checkpoints.save(state, meter, scores)
          watchdog.ended(f"the evaluation or save after step {step}")

        if early_stopping.due and not last:
          logging.info("stopped after step %d%s", step, early_stopping)
          return 0
        if stopping and not last:
          how = "interrupted" if stopping == INTERRUPTED else "terminated"
          logging.info("%s: step %d is saved in %s", how, step, checkpoints.directory)
          return stopping
  return 0


def restore(cfg: ConfigDict, task, state, checkpoints: Checkpoints, meter: Meter):
  """Returns the latest state of the run, else `state` with the weights of `init_from`, if any."""
  if checkpoints.latest:
    return checkpoints.restore(state, meter)
  if cfg.init_from.workdir:
    state["params"] = pretrained.init_from(state["params"], task.tokenizer, **cfg.init_from)
    if cfg.ema:
      state["ema"] = jax.tree.map(jnp.copy, state["params"])
  return state


def restore_early_stopping(cfg: ConfigDict, workdir: Workdir) -> EarlyStopping:
  """Returns early stopping as it was after the last saved step.

  Evaluations before `steps` was last raised are not counted, so that a stopped run goes on.
  """
  stopping = EarlyStopping(cfg.patience, cfg.checkpoint.best_metric, cfg.checkpoint.best_mode)
  for line in read_metrics(workdir.path) if workdir.last_step else ():
    if line["split"] == cfg.evaluate.split and line["step"] <= workdir.last_step:
      stopping.add(line)
      if line["step"] <= workdir.raised_after:
        stopping.waited = 0
  return stopping


def log_changed_steps(cfg: ConfigDict, workdir: Workdir, learning_rate) -> None:
  """Logs how a changed `steps` changes the learning rate."""
  start, before, now = workdir.last_step, workdir.steps_before or cfg.steps, cfg.steps
  if before == now:
    return
  _, rate_before = optimizer.build(cfg.optimizer, cfg.schedule, before)
  meaning = "the learning rates stay the same"
  if any(rate_before(step) != learning_rate(step) for step in (start, before - 1, before)):
    meaning = (
      f"the learning rate of step {start + 1} was {rate_before(start):.3g} and is now"
      f" {learning_rate(start):.3g}, as if the run had been planned for {now} steps"
    )
  logging.warning(
    "steps is %d, before it was %d. Schedule %s: %s", now, before, cfg.schedule.name, meaning
  )


def note_start(cfg: ConfigDict, workdir: Workdir, mesh, params, batches, evaluation) -> None:
  """Logs model size, devices and steps, and records the data's fingerprints in run.json."""
  parameters, start = sum(x.size for x in jax.tree.leaves(params)), workdir.last_step
  data = {"train": batches.fingerprint, cfg.evaluate.split: evaluation.items.fingerprint}
  workdir.note(data=data, left_out=LEFT_OUT, parameters=parameters)
  how = "going on after" if start else "starting before"
  logging.info(
    "%d parameters, %d devices, %s step %d of %d", parameters, mesh.size, how, start, cfg.steps
  )
