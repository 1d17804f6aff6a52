"""The training loop: read this file top to bottom to know what a run does."""

import functools
import time

import jax
import jax.numpy as jnp
from absl import logging

from train import checkpoint, evaluation, nans, optimizer, pretrained, sharding, tasks
from train.checkpoint import checkpoint_policy
from train.cluster import processes
from train.cluster.signals import StopSignal
from train.cluster.watchdog import Watchdog
from train.common.entry import INTERRUPTED
from train.common.errors import UserError, choose
from train.data.bad_records import LEFT_OUT
from train.data.batches import Batches, eval_batches
from train.record.meter import Meter, Patience, Skipped
from train.record.writer import Writer, read_metrics
from train.state import init, weights
from train.step import make_eval_step, make_predict_step, make_train_step, settings
from train.tasks.protocol import require_score

PUT = {"jit": sharding.put, "pmap": sharding.put_by_device}


def train(cfg, workdir, debug_nans: bool = False) -> int:
  """Trains to `cfg.steps`, from the workdir's last checkpoint if there is one.

  Returns the exit status: 0, or entry.INTERRUPTED or entry.TERMINATED if Ctrl-C or SIGTERM ended it
  early, after saving.
  """
  mesh = sharding.make_mesh(cfg.mesh)
  task = pretrained.build_task(cfg.task, workdir.path)
  if cfg.evaluate.decode_every:
    require_score(task)
  tx, learning_rate = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
  graph, state = init(cfg, task, tx, mesh)
  layout = tasks.layout(task, cfg.batch_size)
  batches = Batches(task.items("train"), layout, seed=cfg.seed, workers=cfg.workers)
  checkpoints = checkpoint.Checkpoints(workdir.path, clean=True, **checkpoint_policy(cfg))
  with (
    StopSignal() as stop,
    checkpoints,
    batches,
    sharding.activation_sharding(mesh, cfg.mesh.sequence),
  ):
    primary = jax.process_index() == 0
    meter = Meter(batches, Skipped(workdir.path, cfg.max_skipped, primary))
    start = checkpoints.latest or 0
    if start:
      state = checkpoints.restore(state, meter)
    elif cfg.init_from.workdir:
      state["params"] = pretrained.init_from(state["params"], task.tokenizer, **cfg.init_from)
      if cfg.ema:
        state["ema"] = jax.tree.map(jnp.copy, state["params"])
    patience = Patience(cfg.patience, cfg.checkpoint.best_metric, cfg.checkpoint.best_mode)
    for line in read_metrics(workdir.path) if start else ():
      if line["split"] == cfg.evaluate.split and line["step"] <= start:
        patience.add(line)
    if start >= cfg.steps or patience.over:
      logging.info("finished: %s has %d of %d steps%s", workdir.path, start, cfg.steps, patience)
      return 0
    put = choose(PUT, cfg.parallelism, "parallelism")
    train_step = make_train_step(task, graph, tx, how=cfg.parallelism, **settings(cfg))
    if debug_nans:
      train_step = nans.watched(train_step, task, graph, cfg.seed)
    eval_step, predict_step = make_eval_step(task, graph), make_predict_step(task, graph)
    of_split = task.items(cfg.evaluate.split)  # opened now: what is wrong with it is told now
    workdir.note(
      data={"train": batches.fingerprint, cfg.evaluate.split: of_split.fingerprint},
      left_out=LEFT_OUT,
      parameters=sum(x.size for x in jax.tree.leaves(state["params"])),
    )
    held_out = functools.cache(lambda: list(eval_batches(of_split, layout)))

    def decode_scores(params):
      split, most = cfg.evaluate.split, cfg.evaluate.decode_examples
      found = evaluation.score(task, predict_step, params, mesh, split, {}, most)[0]
      return {name: value for name, value in found.items() if not isinstance(value, str)}

    logging.info(
      "%d parameters, %d devices, %s step %d of %d",
      sum(x.size for x in jax.tree.leaves(state["params"])),
      mesh.size,
      "going on after" if start else "starting before",
      start,
      cfg.steps,
    )
    writer = Writer(
      workdir.path, start, primary, total_steps=cfg.steps, tensorboard=cfg.tensorboard
    )
    vote, watchdog = processes.Vote(mesh), Watchdog(workdir.path, cfg.watchdog_seconds)
    meter.begin()
    try:
      for step in range(start + 1, cfg.steps + 1):
        state, sums = train_step(state, put(next(batches), mesh))
        meter.add(step, sums)
        watchdog.ended(f"step {step}")
        last, stopping = step == cfg.steps, vote(stop.status)

        if step % cfg.log_every == 0 or last:
          values = meter.values()
          writer.write(step, "train", values | {"learning_rate": float(learning_rate(step - 1))})

        scores = {}
        evaluating = step % cfg.evaluate.every == 0 or last
        decoding = cfg.evaluate.decode_every and (step % cfg.evaluate.decode_every == 0 or last)
        saving = step % cfg.checkpoint.every == 0 or last or stopping
        if evaluating or decoding or saving:
          go_on = meter.pause()
          began = time.perf_counter()
          if evaluating:
            scores |= evaluation.loss(eval_step, weights(state), mesh, held_out())
          if decoding:
            scores |= decode_scores(weights(state))
          whole = evaluating and (decoding or not cfg.evaluate.decode_every)
          if whole and cfg.checkpoint.best_metric not in scores:
            raise UserError(
              f"checkpoint.best_metric is {cfg.checkpoint.best_metric!r}; evaluation tells"
              f" {', '.join(scores)}"
            )
          patience.add(scores)
          if patience.over and cfg.evaluate.decode_every and not decoding:
            scores |= decode_scores(weights(state))
          if scores:
            seconds = {"seconds": time.perf_counter() - began}
            writer.write(step, cfg.evaluate.split, scores | seconds)
          if saving or patience.over:
            checkpoints.save(state, meter, scores)
          watchdog.ended(f"the evaluation or save after step {step}")
          go_on()

        if patience.over and not last:
          logging.info("stopped after step %d%s", step, patience)
          break
        if stopping and not last:
          told = "interrupted" if stopping == INTERRUPTED else "terminated"
          logging.info("%s: step %d is saved in %s", told, step, checkpoints.directory)
          return stopping
    finally:
      watchdog.close()
      writer.close()
  return 0
