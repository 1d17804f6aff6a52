"""Writes the blocks of a report (headings, text, tables, figures, code) as Markdown or HTML."""

import base64
import dataclasses
import html
from collections.abc import Sequence

from experiments.tools.report import tables

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0 auto; max-width: 62rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; }}
table, pre {{ display: block; overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.85rem; }}
th, td {{ border: 1px solid #ddd; padding: 0.3rem 0.6rem; text-align: left; }}
pre {{ background: #f4f3ef; padding: 0.8rem; }} img {{ max-width: 100%; }}
</style>
{body}
</html>
"""


@dataclasses.dataclass(frozen=True)
class Heading:
  text: str
  level: int = 2


@dataclasses.dataclass(frozen=True)
class Text:
  """Paragraphs of Markdown."""

  text: str


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of cells; the first row is the heading."""

  rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Figure:
  """An SVG file and its alternative text."""

  file: str
  svg: bytes
  text: str


@dataclasses.dataclass(frozen=True)
class Code:
  """Lines of code, in Markdown folded below the summary if there is one."""

  lines: Sequence[str]
  summary: str = ""


def to_markdown(blocks: Sequence) -> str:
  """Formats the blocks as Markdown, with figures as links to their files."""
  return "\n\n".join(text for block in blocks if (text := _markdown(block)).strip()) + "\n"


def _markdown(block):
  match block:
    case Heading(text, level):
      return f"{'#' * level} {text}"
    case Text(text):
      return text
    case Table(rows):
      return tables.markdown(rows)
    case Figure(file, _, text):
      return f"![{text}]({file})"
    case Code(lines, summary):
      code = "```\n" + "\n".join(lines) + "\n```"
      fold = f"<details><summary>{summary}</summary>\n\n{code}\n\n</details>"
      return fold if summary else code


def to_html(title: str, blocks: Sequence) -> str:
  """Formats the blocks as one page that needs no other file."""
  from markdown_it import MarkdownIt  # comes with rich

  blocks = [Code(block.lines) if isinstance(block, Code) else block for block in blocks]
  # html=False escapes tags in the text of an experiment
  options = {"html": False, "xhtmlOut": False}
  body = MarkdownIt("commonmark", options).enable("table").render(to_markdown(blocks))
  for figure in blocks:
    if isinstance(figure, Figure):
      data = base64.b64encode(figure.svg).decode("ascii")
      body = body.replace(f'src="{figure.file}"', f'src="data:image/svg+xml;base64,{data}"')
  return PAGE.format(title=html.escape(title), body=body)
