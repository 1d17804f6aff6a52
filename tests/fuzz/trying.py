"""One input tried, and many drawn."""

import functools
import pathlib
import signal
import tempfile
import traceback

from hypothesis import strategies as st

from tests.fuzz.mutations import near
from tests.fuzz.targets import TARGETS
from train.common.errors import UserError

SECONDS = 30  # an input that takes longer is a crash: two busy cores need 1 for any of them


@functools.cache
def seeds(name):
  return TARGETS[name].seeds()


@st.composite
def inputs(draw, name: str):
  """(number of the folder, content of its changed file)."""
  number = draw(st.integers(0, len(seeds(name)) - 1))
  files, changed = seeds(name)[number]
  return number, draw(near(changed, files[changed]))


def attempt(name: str, number: int, content: bytes) -> str:
  """ "accepted", or "refused: why"; whatever else is raised is a crash."""
  files, changed = seeds(name)[number]
  with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
    folder = pathlib.Path(root, "folder")
    for file, usual in files.items():
      (folder / file).parent.mkdir(parents=True, exist_ok=True)
      (folder / file).write_bytes(content if file == changed else usual)
    try:
      signal.signal(signal.SIGALRM, _too_long)
      signal.alarm(SECONDS)
      TARGETS[name].read(folder, changed)
    except UserError as error:
      return f"refused: {error}"
    finally:
      signal.alarm(0)
  return "accepted"


def _too_long(*_):
  raise TimeoutError(f"more than {SECONDS} s")


def place(error: BaseException) -> str:
  """A crash in a line: the error, and where in our code."""
  frames = [f for f in traceback.extract_tb(error.__traceback__) if "/train/" in f.filename]
  where = f"{pathlib.Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "test"
  return f"{type(error).__name__} at {where}: {str(error)[:150]}"
