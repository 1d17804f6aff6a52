"""Tables in Markdown, and Markdown on a terminal."""

import sys
from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """The rows below their heads."""

  def line(cells):
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

  return "\n".join([line(heads), "|" + "---|" * len(heads), *map(line, rows)])


def show(text: str) -> None:
  """Prints it as it is, or on a terminal as what it stands for."""
  if not sys.stdout.isatty():
    print(text)
    return
  from rich.console import Console
  from rich.markdown import Markdown

  Console().print(Markdown(text))
