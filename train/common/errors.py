"""Defines errors that a person can mend: a message in place of a traceback."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping


class UserError(Exception):
  """A mistake of the user; its message names what is wrong, where (file, line, key) and what to do.

  Every command prints the message and exits 2.
  """


class Help(UserError):
  """A requested text, such as a config file's arguments, which a command prints, exiting 0."""


class NoSplit(UserError):
  """A split that the data do not have."""


@contextlib.contextmanager
def as_user_error(what: str, *kinds: type[Exception]) -> Iterator[None]:
  """Raises a UserError that begins with `what` in place of errors of its block.

  Without `kinds` any error counts, and a panic of Rust code, which is no Exception: libraries that
  read a user's file raise errors of any class.
  """
  try:
    yield
  except UserError:
    raise
  except BaseException as error:
    panics = not kinds and type(error).__name__ == "PanicException"
    if not isinstance(error, kinds or Exception) and not panics:
      raise
    raise UserError(f"{what}: {str(error) or type(error).__name__}") from error


def nearest(word: str, known: Iterable[str]) -> str | None:
  """Returns the known word most like `word`, or None if none is like it."""
  return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
  """Returns the end of a message, "; did you mean X?" with the nearest known word, or ""."""
  near = nearest(word, known)
  return f"; did you mean {near}?" if near else ""


def indented(lines: Iterable[str], most: int = 12) -> str:
  """Returns the lines, each on an indented line of its own, and only the first `most` of them."""
  lines = list(lines)
  more = [f"... and {len(lines) - most} more"] if len(lines) > most else []
  return "".join(f"\n  {line}" for line in [*lines[:most], *more])


def idle(
  section: str, settings: Mapping, usual: Mapping, switch: str, keys: Iterable[str] = ()
) -> Iterator[str]:
  """Yields a sentence for each setting of `section` (all, or `keys`) that is not the usual one, and
  that nothing reads, as its setting `switch` is off."""
  for key in () if settings[switch] else keys or usual:
    if settings[key] != usual[key]:
      off = f"{section}.{switch} is {settings[switch]!r}"
      yield f"{section}.{key}={settings[key]!r} has no effect while {off}"


def choose(table: Mapping, name, key: str):
  """Returns `table[name]`; raises UserError with `key` and the known names for another name."""
  if name not in table:
    hint = did_you_mean(str(name), table)
    raise UserError(f"{key} is {name!r}; known: {', '.join(table)}{hint}")
  return table[name]
