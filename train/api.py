"""Trains and predicts from Python, with the configs, folders and results of the commands.

cfg = config("configs/classify.py:data=reviews", steps=300)
train(cfg, "runs/reviews")
load("runs/reviews")(["A wonderful film."])
"""

import argparse
import contextlib
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from train import loop, resolve, schema, shares
from train.adapters import load_adapters
from train.cluster import processes
from train.common import paths
from train.common.entry import INTERRUPTED, set_compile_cache
from train.common.errors import UserError
from train.common.files import disk_trouble
from train.inference import load
from train.record import config as configs
from train.record import provenance, workdir
from train.record.loggers import registry
from train.record.writer import read_metrics

__all__ = ["config", "load", "load_adapters", "run", "train"]
ALONE = argparse.Namespace(coordinator=None, process_count=None, process_index=None)


def config(text: str, changes: Mapping[str, Any] = MappingProxyType({}), **more) -> ConfigDict:
  """Returns the config of a file with its arguments, as --config names them.

  `changes` are values by key, as --config.KEY=VALUE sets them: `{"model.dim": 256}`; keys without
  a dot may be given by name: `steps=300`. Raises UserError as the command does.
  """
  values = {**changes, **more}
  words = [f"{k}={v if isinstance(v, str) else repr(v)}" for k, v in values.items()]
  return resolve.load(text, words)


def train(cfg: ConfigDict, path: str | os.PathLike) -> dict[str, float]:
  """Trains the run of a config in the folder `path`, or resumes it; returns its last evaluation.

  Ctrl-C saves and raises KeyboardInterrupt; calling `train` again goes on. A script calls it in a
  main guard if `workers` is above 0, as data workers import the script. Raises UserError as the
  command does.
  """
  set_compile_cache()
  path = paths.of(path)
  schema.check_tokenizer(cfg, path)
  status = run(shares.resume(cfg, path), path, ["train.api.train"], exits=False)
  if status:
    raise KeyboardInterrupt if status == INTERRUPTED else SystemExit(status)
  split = cfg.evaluate.split
  lines = [line for line in read_metrics(path, missing_ok=True) if line["split"] == split]
  return {key: value for key, value in lines[-1].items() if key != "split"} if lines else {}


def run(
  cfg: ConfigDict,
  path: str | os.PathLike,
  command: Sequence[str],
  cluster: argparse.Namespace = ALONE,
  **options,
) -> int:
  """Trains as `train.main` does and returns the exit status; run.json records the command.

  `cluster` has the flags of processes.add_arguments; `options` are those of loop.train.
  """
  registry.check_packages(cfg.loggers)
  with processes.together(cluster, workdir.config_json(cfg), cfg.watchdog_seconds):
    devices = [provenance.device_name(device) for device in jax.devices()]
    primary = jax.process_index() == 0
    defaults = configs.flat(schema.defaults(cfg))
    for sentence in schema.idle_settings(cfg) if primary else ():
      logging.warning("%s", sentence)
    with workdir.open_run(path, cfg, command, devices, primary, defaults) as folder:
      processes.wait_for_all("the first has opened the workdir")
      with _disk_errors(path):
        return loop.train(cfg, folder, **options)


@contextlib.contextmanager
def _disk_errors(path):
  """Turns the error of a full or broken disk into a UserError."""
  try:
    yield
  except Exception as error:
    if trouble := disk_trouble(error):
      raise UserError(
        f"{path}: {trouble}. Mend that and start the same command again: it resumes from the last"
        " checkpoint"
      ) from error
    raise
