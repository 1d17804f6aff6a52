"""Renders a config, and the help of a config file, as text for a terminal."""

import pathlib
import textwrap
from collections.abc import Mapping, Sequence

WIDTH = 100
MAX_COLUMN = 34  # of the usages of arguments


def config(values: Mapping[str, object], defaults: Mapping[str, object]) -> str:
  """Returns one line for each dotted key, by section; a value that is not the default is marked."""
  groups: dict[str, list[str]] = {}
  for key in values:
    groups.setdefault(key.partition(".")[0] if "." in key else "", []).append(key)
  blocks = []
  for section in sorted(groups):
    rows = []
    for key in sorted(groups[section], key=lambda key: (key.count("."), key)):
      changed = key in defaults and repr(defaults[key]) != repr(values[key])
      line = f"{'*' if changed else ' '} {key} = {values[key]!r}"
      rows.append(f"{line:<58}  default: {defaults[key]!r}" if changed else line)
    blocks.append("\n".join(rows))
  return "\n\n".join(blocks)


def file_help(path: pathlib.Path, doc: str | None, arguments: Sequence[tuple[str, str]]) -> str:
  """Returns the docstring of a config file and a table of its arguments, (usage, meaning) pairs."""
  doc = (doc or "").strip()
  if not arguments:
    return f"{doc}\n\n{path} takes no arguments.".strip()
  indent = min(max(len(usage) for usage, _ in arguments), MAX_COLUMN) + 4
  lines = []
  for usage, meaning in arguments:
    start = f"  {usage}  ".ljust(indent)
    if len(start) > indent:  # too long for the column: the meaning begins on the next line
      lines.append(start.rstrip())
      start = " " * indent
    wrapped = textwrap.wrap(meaning, WIDTH, initial_indent=start, subsequent_indent=" " * indent)
    lines += wrapped or [start.rstrip()]
  title = f"Arguments ({path}:NAME=VALUE,...), with defaults or choices, the default first:"
  return "\n".join([doc, "", title, *lines]).strip()
