"""Joins blocks of Markdown to a report, and renders a report as one page of HTML."""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence

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


def join(blocks: Iterable[str]) -> str:
  """Joins blocks of Markdown, without empty ones, to the text of a file."""
  return "\n\n".join(block for block in blocks if block.strip()) + "\n"


def code(lines: Sequence[str], summary: str = "") -> str:
  """Formats lines of code as Markdown, folded below the summary if there is one."""
  text = "\n".join(["```", *lines, "```"])
  return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>" if summary else text


def to_html(report: str, figures: Mapping[str, bytes]) -> str:
  """Renders a report, which begins with its title, as a page that needs no other file; `figures`
  are the report's SVG files by name."""
  from markdown_it import MarkdownIt  # comes with rich

  # html=False escapes tags in the text of an experiment, so a fold cannot stay
  renderer = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table")
  body = renderer.render(re.sub("<details><summary>.*</summary>|</details>", "", report))
  for name, svg in figures.items():
    data = base64.b64encode(svg).decode("ascii")
    body = body.replace(f'src="{name}"', f'src="data:image/svg+xml;base64,{data}"')
  title = report.partition("\n")[0].removeprefix("# ")
  return PAGE.format(title=html.escape(title), body=body)
