"""Joins blocks of Markdown to a report, and renders a report as one page of HTML."""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence

CODE = re.compile(r"(?<![\\`])(`+)(?!`)(.*?[^`])\1(?!`)", re.DOTALL)
TAG = re.compile(r"<(?!https?://[^\s<>]*>)(?=[A-Za-z/!?])")
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0 auto; max-width: 62rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; }}
/* a shadow at the left or right edge is seen while a wide table or line goes on there */
table, pre {{ display: block; overflow-x: auto; margin: 1rem 0; --paper: #fff; background:
  linear-gradient(to right, var(--paper) 40%, transparent) left / 3rem 100% local no-repeat,
  linear-gradient(to left, var(--paper) 40%, transparent) right / 3rem 100% local no-repeat,
  linear-gradient(to right, #0005, transparent) left / 1.2rem 100% scroll no-repeat,
  linear-gradient(to left, #0005, transparent) right / 1.2rem 100% scroll no-repeat,
  var(--paper); }}
table {{ border-collapse: collapse; font-size: 0.85rem; width: max-content; max-width: 100%; }}
th, td {{ border: 1px solid #ddd; padding: 0.3rem 0.6rem; text-align: left; }}
pre {{ --paper: #f4f3ef; padding: 0.8rem; }} img {{ max-width: 100%; }}
</style>
{body}
</html>
"""


def join(blocks: Iterable[str]) -> str:
  """Joins blocks of Markdown, without empty ones, to the text of a file."""
  return "\n\n".join(block for block in blocks if block.strip()) + "\n"


def code(lines: Sequence[str], summary: str = "") -> str:
  """Formats lines of code as Markdown, folded below the summary if there is one."""
  fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`{3,}", "\n".join(lines)))])
  text = "\n".join([fence, *lines, fence])
  return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>" if summary else text


def escape(text: str) -> str:
  """Returns Markdown without raw HTML: tags become text, those in code are text already."""
  if not TAG.search(text):
    return text
  parts, end = [], 0
  for code in CODE.finditer(text):
    parts += [TAG.sub("&lt;", text[end : code.start()]), code[0]]
    end = code.end()
  escaped = "".join([*parts, TAG.sub("&lt;", text[end:])])
  return TAG.sub("&lt;", text) if _has_html(escaped) else escaped


def _has_html(text):
  """Returns whether a renderer takes a part of Markdown as HTML, as of code that is not closed."""
  from markdown_it import MarkdownIt

  tokens = MarkdownIt("commonmark").enable("table").parse(text)
  every = [part for token in tokens for part in (token, *(token.children or ()))]
  return any(token.type in ("html_block", "html_inline") for token in every)


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
