"""Starts every command: logging, the compilation cache, error messages and exit codes."""

import argparse
import gc
import logging as stdlib_logging
import os
import pathlib
import sys
import traceback

import jax
from absl import flags, logging

from train.common.errors import Help, UserError
from train.common.files import cache_dir, disk_trouble

GC_ALLOCATIONS = 50_000  # of containers, more than were freed, between looks for garbage
INTERRUPTED, TERMINATED = 130, 143  # exit status after Ctrl-C and SIGTERM, as shells count


def run(main) -> None:
  """Calls `main(argv)` and exits; prints a UserError without traceback and exits 2."""
  set_logging()
  set_compile_cache()
  # By default the collector looks through all of a program's trace 1,800 times in 10 steps and an
  # evaluation of MiniLM, 1.8 s; of what a run makes, little is garbage in cycles.
  gc.set_threshold(GC_ALLOCATIONS, 20, 20)
  try:
    sys.exit(main(list(map(expand_home, sys.argv[1:]))) or 0)
  except Help as text:
    print(text)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    _leave(2, at_once=bool(disk_trouble(error)))
  except BrokenPipeError:  # the reader, such as `head`, has closed standard output
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    _leave(INTERRUPTED)
  except Exception as error:
    if trouble := disk_trouble(error):
      print(f"error: {trouble}. Mend that and run the same command again", file=sys.stderr)
      _leave(2, at_once=True)
    traceback.print_exc()
    _leave(1)


def expand_home(word: str) -> str:
  """Returns an argument with the home folder in place of "~" in --FLAG=~/PATH, which shells leave.
  Paths in --config.KEY=VALUE are expanded where they are read."""
  flag, equals, path = word.partition("=")
  if not equals or not flag.startswith("--") or flag.startswith("--config."):
    return word
  prefix = "hf:" if path.startswith("hf:") else ""
  return f"{flag}={prefix}{os.path.expanduser(path.removeprefix(prefix))}"


class _Formatter(argparse.RawDescriptionHelpFormatter):
  """Shows the description as it is, and the default of each flag that has one."""

  def _get_help_string(self, action):
    shows = action.option_strings and action.default not in (None, False, "", argparse.SUPPRESS)
    return (action.help or "") + (" (default: %(default)s)" if shows else "")


def make_parser(doc: str, **options) -> argparse.ArgumentParser:
  """Returns the parser of a command's arguments, which are not abbreviated."""
  spec = sys.modules["__main__"].__spec__
  options = dict(prog=f"python -m {spec.name}" if spec else None) | options
  return argparse.ArgumentParser(
    description=doc, formatter_class=_Formatter, allow_abbrev=False, **options
  )


def _leave(status: int, at_once: bool = False):
  """Exits without waiting for the other processes of the run, which may never end, and `at_once`
  without waiting for threads: Orbax's wait for minutes for a save that has failed."""
  if at_once or jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)


def set_logging() -> None:
  """Logs our own lines from INFO on as plain text, and those of libraries from WARNING on."""
  flags.FLAGS(["scriptorium"])  # absl warns about every line logged before its flags are parsed
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  handler, ours = logging.get_absl_handler(), str(pathlib.Path(__file__).parent.parent)
  handler.setFormatter(None)
  handler.addFilter(lambda r: r.levelno > stdlib_logging.INFO or r.pathname.startswith(ours))
  # A failed save's stacks: its error is raised where the run waits for the save.
  handler.addFilter(lambda r: "orbax/checkpoint/_src/futures" not in r.pathname)
  handler.addFilter(lambda r: r.name != "gcsfs")  # stacks of requests that are sent again


def set_compile_cache() -> None:
  """Keeps compiled programs in the cache folder, unless JAX_COMPILATION_CACHE_DIR is set."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(cache_dir("compiled")))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
