"""The report of an experiment: report.md and report.html, of the same parts; and RESULTS.md of all.

The page needs nothing but itself. Each part is a heading, a text, a table, a figure or lines of
code; `markdown` and `html` are the two ways to write them.
"""

import base64
import dataclasses
import html as escapes
import pathlib
import re
from collections.abc import Sequence

from experiments.tools import runs
from experiments.tools.launch import launchers, results
from experiments.tools.launch.results import Found, Place
from experiments.tools.report import check, plots, tables
from experiments.tools.runs import Experiment
from train.common.files import write_atomically

PLACE = Place("DIR", pathlib.Path("runs"))  # of commands that are told


@dataclasses.dataclass(frozen=True)
class Heading:
  text: str
  level: int = 2


@dataclasses.dataclass(frozen=True)
class Text:
  """Paragraphs of plain words; `backticks` are code."""

  text: str


@dataclasses.dataclass(frozen=True)
class Table:
  rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Figure:
  file: str
  svg: bytes
  says: str  # for whoever does not see it


@dataclasses.dataclass(frozen=True)
class Code:
  lines: Sequence[str]
  summary: str = ""


def write(experiment: Experiment, found: Sequence[Found]) -> list[pathlib.Path]:
  """Writes the report beside the copies of the results, and RESULTS.md; where they are."""
  folder = experiment.kept
  parts = summary(experiment, found) + details(experiment, found)
  figures = {part.file: part.svg for part in parts if isinstance(part, Figure)}
  for old in folder.glob("*.svg"):
    if old.name not in figures:
      old.unlink()
  for file, svg in figures.items():
    (folder / file).write_bytes(svg)
  title = f"{experiment.name}, {experiment.scale} scale"
  written = {folder / "report.md": markdown(parts), folder / "report.html": html(title, parts)}
  for path, text in written.items():
    write_atomically(path, text)
  everything = experiment.folder / "RESULTS.md"
  write_atomically(everything, overview(experiment.folder))
  return [*written, everything]


def summary(experiment: Experiment, found: Sequence[Found]) -> list:
  """What was asked, how much of it is done, and the paper's numbers beside ours."""
  first, _, rest = (experiment.module.__doc__ or "").strip().partition("\n")
  done = [one for one in found if one.finished]
  state = f"{len(done)} of {len(found)} runs are finished."
  if len(done) < len(found):
    left = [f"{one.run.name} ({one.state})" for one in found if not one.finished]
    more = f" and {len(left) - 5} more" if len(left) > 5 else ""
    state = f"UNFINISHED: {state} Left: {', '.join(left[:5])}{more}."
  parts = [Heading(f"{experiment.name}, {experiment.scale} scale", 1), Code([first])]
  parts += [Text(rest.strip()), Text(state)]
  verdicts = check.verdicts(experiment.expected, found)
  if verdicts:
    tabled = check.Tables(verdicts)
    parts += [Heading("Beside the paper"), Text(_counted(verdicts, experiment))]
    parts += map(Table, tabled.lists())
    notes = [f"- [{number}] {note}" for number, note in enumerate(tabled.notes, 1)]
    parts.append(Text("\n".join(notes)))
    if svg := plots.beside_paper(verdicts):
      parts.append(Figure("paper.svg", svg, "bars: the paper's values; dots: ours"))
  if notes := getattr(experiment.module, "NOTES", ""):
    parts += [Heading("What is to be seen"), Text(notes.strip())]
  return parts


def _counted(verdicts, experiment):
  checked = [one for one in verdicts if one.checked]
  missed = sum(one.missed for one in checked)
  hold = f"{len(checked) - missed} of {len(checked)} that are checked hold"
  rest = f"; {missed} do not, or are not finished" if missed else ""
  where = f"Runs are in `{experiment.name}/{experiment.scale}` of their `--root`."
  return f"{hold}{rest}. {where}" if checked else f"Nothing of this is checked. {where}"


def details(experiment: Experiment, found: Sequence[Found]) -> list:
  """Every run, the curves, what made them and the commands."""
  parts = [Heading("All runs"), Table(tables.rows(found))]
  if svg := plots.curves(found):
    parts += [Heading("Curves"), Figure("curves.svg", svg, "evaluations while training")]
  done = [one for one in found if one.finished]
  if done:
    made = [["commit", "dates", "jax", "devices", "runs"]]
    for key in dict.fromkeys(map(_made_with, done)):
      several = [one for one in done if _made_with(one) == key]
      dates = sorted({one.record["date"] for one in several})
      dates = " to ".join(dict.fromkeys((dates[0], dates[-1])))
      made.append([key[0], dates, *key[1:], str(len(several))])
    parts += [Heading("Made with"), Table(made)]
  place = Place(PLACE.data, PLACE.root / experiment.name / experiment.scale)
  lines = [
    launchers.pasted(command) for one in found for command in launchers.commands(one.run, place)
  ]
  return [*parts, Heading("Commands"), Code(lines, f"{len(lines)} commands, as they were started")]


def _made_with(one):
  record = one.record
  jax = record["versions"].get("jax") or ""
  return (record["commit"] or "unknown")[:12], jax, ", ".join(record["devices"])


def overview(folder: pathlib.Path) -> str:
  """RESULTS.md: the summaries of a folder's experiments whose results are kept."""
  parts = [Heading("Results", 1)]
  parts.append(Text("Written by `python -m experiments.run FILE --report`, of runs made."))
  for file in results.known_experiments(folder):
    for scale in runs.SCALES:
      experiment = runs.load(str(file), scale)
      if not (experiment.kept / "records.json").is_file():
        continue
      beside = experiment.kept.relative_to(folder).as_posix()
      for part in summary(experiment, results.collect(experiment, None)):
        if isinstance(part, Heading):
          part = Heading(part.text, part.level + 1)
        if isinstance(part, Figure):
          part = dataclasses.replace(part, file=f"{beside}/{part.file}")
        parts.append(part)
      parts.append(Text(f"[Report]({beside}/report.md)"))
  return markdown(parts)


def markdown(parts: Sequence) -> str:
  found = []
  for part in parts:
    match part:
      case Heading(text, level):
        found.append(f"{'#' * level} {text}")
      case Text(text):
        found.append(text)
      case Table(rows):
        found.append(tables.text(rows))
      case Figure(file, _, says):
        found.append(f"![{says}]({file})")
      case Code(lines, summary):
        block = "```\n" + "\n".join(lines) + "\n```"
        if summary:
          block = f"<details><summary>{summary}</summary>\n\n{block}\n\n</details>"
        found.append(block)
  return "\n\n".join(one for one in found if one.strip()) + "\n"


STYLE = pathlib.Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
NUMBER = re.compile(r"[+-]?[\d,.]+( (to|±) [\d,.+-]+)?|")


def html(title: str, parts: Sequence) -> str:
  """One page, nothing beside it."""
  body = "\n".join(_html(part) for part in parts)
  return (
    f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{escapes.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
    f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
  )


def _html(part):
  match part:
    case Heading(text, level):
      name = re.sub(r"\W+", "-", text.lower()).strip("-")
      return f'<h{level} id="{name}">{_inline(text)}</h{level}>'
    case Text(text):
      return "\n".join(_paragraph(block) for block in re.split(r"\n\s*\n", text) if block.strip())
    case Table(rows):
      heads, *rest = rows
      head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in heads)
      lines = "\n".join(_line(line) for line in rest)
      table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>"
      return f'<div class="wide" tabindex="0">{table}</div>'
    case Figure(_, svg, says):
      data = base64.b64encode(svg).decode("ascii")
      image = f'<img alt="{escapes.escape(says)}" src="data:image/svg+xml;base64,{data}">'
      return f'<figure class="wide">{image}</figure>'
    case Code(lines, summary):
      code = f"<pre><code>{escapes.escape(chr(10).join(lines))}</code></pre>"
      return f"<details><summary>{summary}</summary>{code}</details>" if summary else code


def _paragraph(block):
  if all(line.startswith("- ") for line in block.strip().splitlines()):
    items = "".join(f"<li>{_inline(line[2:])}</li>" for line in block.strip().splitlines())
    return f"<ul>{items}</ul>"
  return f"<p>{_inline(block)}</p>"


def _line(cells):
  kind = next((name for name, word in (("left", "UNFINISHED"), ("bad", "MISSED")) for cell in cells
               if cell.startswith(word)), "")  # fmt: skip
  marks = ['<td class="number">' if NUMBER.fullmatch(cell) else "<td>" for cell in cells]
  inside = "".join(f"{mark}{_inline(cell)}</td>" for mark, cell in zip(marks, cells))
  return f'<tr class="{kind}">{inside}</tr>' if kind else f"<tr>{inside}</tr>"


def _inline(text):
  return re.sub(r"`([^`]+)`", r"<code>\1</code>", escapes.escape(text, quote=False))
