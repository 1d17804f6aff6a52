"""Draws inputs for a target, and tries them one by one."""

import functools
import pathlib
import signal
import tempfile
import traceback

from hypothesis import strategies as st

from tests.fuzz.mutations import near
from tests.fuzz.targets import TARGETS
from train.common.errors import UserError

SECONDS = 30  # an input that takes longer counts as a crash; on two busy cores all take less than 1


@functools.cache
def seeds(name):
  return TARGETS[name].seeds()


@st.composite
def inputs(draw, name: str):
  """Draws the number of a folder and the content of its changed file."""
  number = draw(st.integers(0, len(seeds(name)) - 1))
  files, changed = seeds(name)[number]
  return number, draw(near(changed, files[changed]))


def attempt(name: str, number: int, content: bytes) -> str:
  """Returns "accepted" or "refused: " and the reason; any other error is a crash."""
  files, changed = seeds(name)[number]
  with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
    folder = pathlib.Path(root, "folder")
    for file, valid in files.items():
      (folder / file).parent.mkdir(parents=True, exist_ok=True)
      (folder / file).write_bytes(content if file == changed else valid)
    try:
      signal.signal(signal.SIGALRM, _raise_timeout)
      signal.alarm(SECONDS)
      TARGETS[name].read(folder, changed)
    except UserError as error:
      return f"refused: {error}"
    finally:
      signal.alarm(0)
  return "accepted"


def _raise_timeout(*_):
  raise TimeoutError(f"more than {SECONDS} s")


def place(error: BaseException) -> str:
  """Formats a crash in one line: the error and its place in our code."""
  frames = [f for f in traceback.extract_tb(error.__traceback__) if "/train/" in f.filename]
  where = f"{pathlib.Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "test"
  return f"{type(error).__name__} at {where}: {str(error)[:150]}"
