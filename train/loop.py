"""Trains a run: builds, restores, steps, logs, evaluates and saves."""

import contextlib
import os
import time
from collections.abc import Mapping

import jax
from absl import logging
from ml_collections import ConfigDict

from train import nans, optimizer, pretrained, sharding, shares, tasks, teaching
from train.checkpoint import Checkpoints, checkpoint_policy
from train.cluster import processes
from train.cluster.signals import Stopped, StopSignal, leave_on_ctrl_c
from train.cluster.watchdog import Watchdog
from train.common import trees
from train.common.entry import INTERRUPTED
from train.common.errors import UserError, choose
from train.compression import quantization
from train.data.bad_records import LEFT_OUT
from train.data.mixed_items import MixedItems
from train.data.streamed_batches import open_batches
from train.derived import MADE_OF
from train.evaluation import EarlyStopping, Evaluation
from train.record import data_files, others
from train.record.config import flat
from train.record.cost import Cost
from train.record.meter import Meter, SkippedUpdates
from train.record.profile import Profile
from train.record.workdir import Workdir, starts
from train.record.writer import FIXED, Writer, read_metrics
from train.state import Blueprint, blueprint, given_weights, weights
from train.step import make_train_step, settings

PUT = {"jit": sharding.put, "pmap": sharding.put_by_device}


def train(
  cfg: ConfigDict,
  workdir: Workdir,
  *,
  debug_nans: bool = False,
  profile_steps: range = range(0),
  exits: bool = True,
) -> int:
  """Trains to `cfg.steps`, from the workdir's last checkpoint if there is one.

  debug_nans: names the operation that makes the first NaN. profile_steps: the steps to trace.
  exits: may end the process some seconds after a signal, where its last step is saved.
  Returns the exit status: 0, or 130 or 143 if Ctrl-C or SIGTERM ended the run early, after saving.
  """
  if cfg.quantize.stored and not cfg.lora.rank:
    raise UserError(
      "quantize.stored=True is of runs that hold integers, which no update moves: train a run from"
      " it (init=), or the run that it was made of"
    )
  if any(MADE_OF in begun for begun in starts(workdir.path)):
    raise UserError(
      f"{workdir.path} was made of another run, and has nothing to go on with: train a run from it"
      " (init=)"
    )
  start, primary = workdir.last_step, jax.process_index() == 0
  profile = Profile(workdir.local, profile_steps, start)
  put = choose(PUT, cfg.parallelism, "parallelism")
  mesh = sharding.make_mesh(cfg.mesh)
  if cfg.evaluate.decode_every:
    tasks.check_packages(cfg.task.to_dict())
  with leave_on_ctrl_c() if exits else contextlib.nullcontext():  # nothing is to be saved yet
    task = pretrained.build_task(cfg.task, workdir.path)
    if start:
      data_files.check(workdir.path)
    cfg = shares.find_steps(cfg, task, workdir)
    if cfg.evaluate.decode_every:
      task.check_metric(cfg.checkpoint.best_metric)
    lesson = teaching.lesson(cfg, task, mesh)
    tx, learning_rate = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
    optimizer.log_unused(cfg.optimizer, cfg.schedule)
    plan = blueprint(cfg, task, tx, mesh)
    layout = tasks.layout(task, cfg.batch_size)
    how = dict(seed=cfg.seed, workers=cfg.workers, count=cfg.streams, gather=processes.gather)
    items = task.items("train")
    lines = lines_before(cfg, workdir)
    early_stopping = restore_early_stopping(cfg, workdir, lines)
    # Before a teacher's pass over the data: a mistake in the split is named at once.
    evaluation = Evaluation(cfg, task, plan.graph, mesh, early_stopping)
    batches = open_batches(lesson.items(items, layout), layout, **how)
  policy = dict(before_record=workdir.upload, **checkpoint_policy(cfg))
  checkpoints = Checkpoints(workdir.path, clean=True, **policy)
  activations = sharding.activation_sharding(mesh, cfg.mesh.sequence)
  with checkpoints, batches, activations, profile:
    meter = Meter(batches, SkippedUpdates(workdir.local, cfg.max_skipped, primary))
    needed = plan.base or not checkpoints.latest
    given, base = given_weights(cfg, task, plan) if needed else ({}, {})
    state = restore(plan, checkpoints, meter, given)
    unevaluated = start and not restore_scores(start, lines, evaluation, checkpoints)
    if not unevaluated and (start >= cfg.steps or early_stopping.due):
      logging.info("finished: %d of %d steps%s", start, cfg.steps, early_stopping)
      return 0
    log_changed_steps(cfg, workdir, learning_rate)
    aim, fixed = (
      lesson.objective,
      lesson.fixed(cfg.distill.which) | ({"base": base} if base else {}),
    )
    update = make_train_step(aim, plan.graph, tx, how=cfg.parallelism, **settings(cfg, mesh))
    train_step = profile.watch(meter.watch(lambda *args: update(*args, fixed)))
    if debug_nans:
      train_step = nans.watch(train_step, aim, plan.graph, cfg.seed, fixed)
    models = state["params"], base, fixed.get("teacher")
    note_start(cfg, workdir, mesh, models, items, batches.streams, evaluation)
    vote, watchdog = processes.Vote(mesh), Watchdog(workdir.local, cfg.watchdog_seconds)
    options = dict(total_steps=cfg.steps, loggers=cfg.loggers, config=flat(cfg))
    writer = Writer(workdir.local, start, primary, **options)
    meter.begin(Cost(lambda: evaluation.forward_flops(weights(state, base)), mesh.devices.flat))
    step = done = start  # done: those whose result is in `state`

    def leave(status):
      """Ends the process, whatever the main thread does, where its last step is saved."""
      if exits and done == (checkpoints.latest or 0):
        checkpoints.wait()
        log_end(done, cfg, status, early_stopping, checkpoints)
        logging.flush()
        os._exit(status)

    with writer, watchdog, StopSignal(doing=lambda: watchdog.doing, leave=leave) as stop:

      def evaluate(step) -> int:
        """Returns 0, or the exit status if a signal ended the evaluation."""

        def before_batch():
          watchdog.begin(f"a batch of the evaluation after step {step}")
          if status := vote(stop.status):
            raise Stopped(status)

        watchdog.begin(f"the evaluation after step {step}")
        with meter.paused():
          began = time.perf_counter()
          try:
            scores = evaluation(step, weights(state, base), before_batch)
          except Stopped as stopped:
            return stopped.status
          seconds = {"seconds": time.perf_counter() - began}
          writer.write(step, cfg.evaluate.split, scores | seconds)
          checkpoints.score(step, scores)
        return 0

      stopping = evaluate(start) if unevaluated else 0
      while step < cfg.steps and not stopping and not early_stopping.due:
        step += 1
        watchdog.begin(f"step {step}")
        state, sums = train_step(state, put(next(batches), mesh))
        done = step
        meter.add(step, sums)
        stopping = vote(stop.status)
        if step % cfg.log_every == 0 or step == cfg.steps:
          rate = float(learning_rate(step - 1))
          writer.write(step, "train", meter.values() | {"learning_rate": rate})
        keep = step % cfg.checkpoint.every == 0 or step == cfg.steps
        if keep or stopping or evaluation.is_long(step):
          with meter.paused():
            watchdog.begin(f"the save after step {step}")
            checkpoints.save(state, meter, keep)
        if evaluation.is_due(step) and not stopping:
          stopping = evaluate(step)
      if stopping or early_stopping.due:
        checkpoints.save(state, meter, keep=early_stopping.due)
      watchdog.begin("the last save")
      checkpoints.wait()
      return log_end(step, cfg, stopping, early_stopping, checkpoints)


def restore(plan: Blueprint, checkpoints: Checkpoints, meter: Meter, given: Mapping) -> dict:
  """Returns the latest state of the run, else the first one, with the weights that are `given`."""
  if not checkpoints.latest:
    return plan.make(given)
  saved = checkpoints.restore(plan.shapes, meter)
  return saved if saved.keys() == plan.shapes.keys() else {**plan.make(), **saved}


def lines_before(cfg: ConfigDict, workdir: Workdir) -> list[dict]:
  """Returns the evaluations in metrics.jsonl up to the last saved step; logs what is missing."""
  last = workdir.last_step
  if not last:
    return []
  lines = [line for line in read_metrics(workdir.path, missing_ok=True) if line["step"] <= last]
  reached = max((line["step"] for line in lines), default=0)
  if reached < last - cfg.log_every:
    logging.warning(
      "%s has no line after step %d, and the run goes on after step %d: curves lack what is between"
      " them, and early stopping does not count it",
      workdir.path / "metrics.jsonl",
      reached,
      last,
    )
  return [line for line in lines if line["split"] == cfg.evaluate.split]


def restore_early_stopping(cfg: ConfigDict, workdir: Workdir, lines: list[dict]) -> EarlyStopping:
  """Returns early stopping as it was after the last saved step.

  Evaluations before `steps` was last raised are not counted, so that a stopped run goes on.
  """
  stopping = EarlyStopping(cfg.patience, cfg.checkpoint.best_metric, cfg.checkpoint.best_mode)
  for line in lines:
    stopping.add(line)
    if line["step"] <= workdir.raised_after:
      stopping.waited = 0
  return stopping


def restore_scores(
  step: int, lines: list[dict], evaluation: Evaluation, checkpoints: Checkpoints
) -> bool:
  """Returns whether no evaluation is due after `step` that was not made before an interruption.

  The checkpoint gets the scores of a line that was written just before the interruption.
  """
  for line in lines:
    if line["step"] == step:
      names = line.keys() - FIXED.keys() - {"seconds"}
      checkpoints.score(step, {name: line[name] for name in names})
      return True
  return not evaluation.is_due(step)


def log_end(step, cfg: ConfigDict, stopping: int, early_stopping, checkpoints) -> int:
  """Logs why a run ends before its last step; returns its exit status."""
  if stopping:
    how = "interrupted" if stopping == INTERRUPTED else "terminated"
    saved = f"step {step} is saved in {checkpoints.directory}" if step else "nothing was done yet"
    logging.info("%s: %s", how, saved)
  elif step < cfg.steps:
    logging.info("stopped after step %d%s", step, early_stopping)
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


def note_start(
  cfg: ConfigDict, workdir: Workdir, mesh, models, items, streams: int, evaluation
) -> None:
  """Logs model size, devices and steps, and records the data's fingerprints in run.json, with the
  rates of a mixture, the number of streams (0: the data are listed), and checksums of what is read
  beside. `models` are the weights that are trained, the base of adapters, and the teacher's.

  Raises UserError where base or teacher are not what they were.
  """
  *own, teacher = (trees.flatten(tree) if tree else {} for tree in models)
  trained, fixed = map(quantization.count, own)
  parameters, start = trained + fixed, workdir.last_step
  data = {"train": items.fingerprint, cfg.evaluate.split: evaluation.items.fingerprint}
  files = data_files.digests(workdir.path)
  workdir.note(data=data, files=files, left_out=LEFT_OUT, parameters=parameters)
  workdir.note(streams=streams)
  if fixed:
    origin = pretrained.open(cfg.init_from.workdir, body=cfg.init_from.which == "body")
    base = trees.checksum(origin.weights(cfg.init_from.which)[0])
    if start:
      others.check(workdir.path, "base", origin.name, base)
    workdir.note(trained=trained, base=base)
    logging.info("%d of the parameters are trained, %.2f%%", trained, 100 * trained / parameters)
  if teacher:
    teacher = trees.checksum(sharding.fetch(trees.beginnings(teacher)))
    if start:
      others.check(workdir.path, "teacher", cfg.distill.teacher, teacher)
    workdir.note(teacher=teacher)
  if isinstance(items, MixedItems):
    workdir.note(rates=items.block_rates())
  if sample := tasks.TRAINED_ON.get(workdir.path):
    workdir.note(tokenizer_sample=sample)
  how = "going on after" if start else "starting before"
  logging.info(
    "%d parameters, %d devices, %s step %d of %d", parameters, mesh.size, how, start, cfg.steps
  )
