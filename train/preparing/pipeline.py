"""Calls a function with each of many numbers by Apache Beam, on this machine or a cluster."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence

from train.common import paths
from train.common.errors import UserError, did_you_mean

FAILED = "failed-{}.txt"
LOCAL = ("DirectRunner", "FnApiRunner")
INSTALL = "make install REQUIREMENTS=requirements-prepare.txt"


def make_options(runner: str, flags: Sequence[str]):
  """Returns Beam's options; raises UserError for flags that it does not have, or without Beam.

  The DirectRunner uses a process for each core, unless `flags` have its options.
  """
  try:
    from apache_beam.options import pipeline_options
  except ImportError as error:
    raise UserError(f"train.prepare needs Apache Beam ({error}): {INSTALL}") from None
  defaults = []
  if runner in LOCAL:
    workers = f"--direct_num_workers={len(os.sched_getaffinity(0))}"
    quiet = "--default_sdk_harness_log_level=ERROR"
    defaults = ["--direct_running_mode=multi_processing", workers, quiet]
  flags = [f"--runner={runner}", *defaults, *flags]
  known = pipeline_options._BeamArgumentParser(allow_abbrev=False)
  for options in pipeline_options.PipelineOptions.__subclasses__():
    options._add_argparse_args(known)
  _, unknown = known.parse_known_args(flags)
  if unknown:
    names = [name for action in known._actions for name in action.option_strings]
    hint = did_you_mean(unknown[0].partition("=")[0], names)
    raise UserError(f"unknown arguments: {' '.join(unknown)}: neither ours nor Beam's{hint}")
  return pipeline_options.PipelineOptions(flags)


def run(task: Callable[[int], None], numbers: Sequence[int], folder: str, options) -> None:
  """Calls `task` with each number, in any order, in Beam's workers.

  Raises the UserError of a call, which the worker leaves in the folder.
  """
  import apache_beam as beam

  from train.preparing.work import Work

  place = paths.of(folder)
  for path in place.glob(FAILED.format("*")):
    path.unlink(missing_ok=True)
  hook = threading.excepthook
  # Beam's threads print a traceback for each worker that Ctrl-C ends; their errors come here too.
  threading.excepthook = lambda args: None
  try:
    with beam.Pipeline(options=options) as pipeline:
      elements = pipeline | beam.Create(list(numbers)) | beam.Reshuffle()
      elements | beam.ParDo(Work(task, str(folder)))
  except Exception:
    for path in sorted(place.glob(FAILED.format("*"))):
      raise UserError(path.read_text(encoding="utf-8")) from None
    raise
  finally:
    threading.excepthook = hook


def call(task: Callable[[int], None], number: int, folder: str) -> None:
  """Calls a task in a worker, and leaves its UserError in the folder for `run`."""
  os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the threads
  try:
    task(number)
  except UserError as error:
    with contextlib.suppress(OSError):
      (paths.of(folder) / FAILED.format(number)).write_text(str(error), encoding="utf-8")
    raise
