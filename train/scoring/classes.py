"""What an evaluation tells beside its scores: each class's own, and which is taken for which."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from train.scoring.scores import is_bio, only_bio

OTHER = "(other)"  # outputs that are none of the classes wanted
MOST_COLUMNS = 20  # labels in a confusion as text; a picture has room for more
MOST_NUMBERS = 40  # classes in a picture with its counts written in
WIDTH = 100  # characters of a line; a wider confusion has numbers for column names
LONGEST_NAME = 24  # characters of a label in a picture


@dataclasses.dataclass(frozen=True)
class Report:
  """Precision, recall, F1 (percent) and support of each class, and a confusion of labels."""

  what: str  # class, tag, entity
  classes: Mapping[str, Mapping[str, float]]
  labels: Sequence[str] = ()  # of the confusion; none: there is none
  counts: np.ndarray | None = None  # [wanted, found]: how often each was taken for each

  def tables(self) -> list[list[list[str]]]:
    """Tables of cells, the first row and column of each are names."""
    made = [[[self.what, "precision", "recall", "f1", "support"]]]
    for name, one in self.classes.items():
      shares = [f"{one[key]:.1f}" for key in ("precision", "recall", "f1")]
      made[0].append([name, *shares, str(one["support"])])
    if 0 < len(self.labels) <= MOST_COLUMNS:
      cells = [list(map(str, row)) for row in self.counts.tolist()]
      names = list(self.labels)
      if sum(len(name) + 2 for name in names) + max(map(len, names)) > WIDTH:
        heads = [str(number) for number in range(1, len(names) + 1)]
        names = [f"{head} {name}" for head, name in zip(heads, names)]
      else:
        heads = names
      rows = [[name, *row] for name, row in zip(names, cells)]
      made.append([["wanted \\ found", *heads], *rows])
    return made

  @property
  def left_out(self) -> str:
    """What to say of a confusion that is too wide to be among the tables."""
    count = len(self.labels)
    return f"The confusion of {count} labels is drawn only." if count > MOST_COLUMNS else ""


def of_classes(found: Sequence[str], wanted: Sequence[str], what: str = "class") -> Report:
  """Of the classes in `wanted` and, in the confusion, those in `found`."""
  from sklearn import metrics  # a second

  classes = sorted(set(wanted))
  columns = metrics.precision_recall_fscore_support(
    wanted, found, labels=classes, zero_division=0.0
  )
  table = {label: _row(*values) for label, *values in zip(classes, *columns)}
  labels = sorted({*wanted, *found})
  return Report(what, table, labels, metrics.confusion_matrix(wanted, found, labels=labels))


def of_texts(found: Sequence[str], wanted: Sequence[str]) -> Report:
  """`of_classes` of outputs that may be any text."""
  known = set(wanted)
  return of_classes([text if text in known else OTHER for text in found], wanted)


def of_tags(found: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> Report:
  """Of each kind of entity (seqeval) if the tags are BIO, else of each tag; a confusion of tags."""
  flat = of_classes(*([tag for row in rows for tag in row] for rows in (found, wanted)), "tag")
  if not all(map(is_bio, flat.classes)):
    return flat
  from seqeval import metrics

  kinds = metrics.classification_report(
    list(map(list, wanted)), only_bio(found), output_dict=True, zero_division=0
  )
  table = {
    name: _row(one["precision"], one["recall"], one["f1-score"], one["support"])
    for name, one in kinds.items()
    if not name.endswith(" avg")
  }
  return dataclasses.replace(flat, what="entity", classes=table)


def of_typed_tags(found: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> Report:
  """`of_tags` of outputs that may be any text."""
  known = {tag for row in wanted for tag in row}
  return of_tags([[tag if tag in known else OTHER for tag in row] for row in found], wanted)


def _row(precision, recall, f1, support):
  shares = dict(precision=precision, recall=recall, f1=f1)
  return {name: 100.0 * float(share) for name, share in shares.items()} | {"support": int(support)}


def text(report: Report) -> str:
  """The tables in columns."""
  blocks = []
  for table in report.tables():
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = [
      "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table
    ]
    blocks.append("\n".join(line.rstrip() for line in lines))
  if report.left_out:
    blocks.append(report.left_out)
  return "\n\n".join(blocks) + "\n"


def show(report: Report) -> None:
  """The tables on standard error, with lines and colours if that is a terminal."""
  if not sys.stderr.isatty():
    print("\n" + text(report), file=sys.stderr)
    return
  from rich.console import Console
  from rich.table import Table
  from rich.text import Text

  for confusion, (heads, *rows) in enumerate(report.tables()):
    table = Table(Text(heads[0]))
    for head in heads[1:]:
      table.add_column(Text(head), justify="right")
    for number, row in enumerate(rows):
      cells = [Text(cell) for cell in row]
      if confusion:  # its diagonal is what is right
        cells[number + 1].stylize("bold green")
      table.add_row(*cells)
    Console(stderr=True).print(table)
  if report.left_out:
    print(report.left_out, file=sys.stderr)


def draw(report: Report, path: pathlib.Path) -> None:
  """The confusion as a picture: a row is what was wanted, its colours are shares of the row."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg  # 1.2 s
  from matplotlib.figure import Figure

  count = len(report.labels)
  side = max(3.0, 0.5 * count) if count <= MOST_NUMBERS else 20.0  # inches
  names = [x if len(x) <= LONGEST_NAME else x[: LONGEST_NAME - 1] + "…" for x in report.labels]
  figure = Figure((side + 2.5, side + 1.5), dpi=120, layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.subplots()
  share = report.counts / np.maximum(report.counts.sum(1, keepdims=True), 1)
  image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
  slanted = dict(rotation=45, ha="right", rotation_mode="anchor")
  slanted = slanted if count > 2 or max(map(len, names)) > 12 else {}
  axes.set_xticks(range(count), names, parse_math=False, **slanted)
  axes.set_yticks(range(count), names, parse_math=False)
  axes.set(xlabel="found", ylabel="wanted")
  if count <= MOST_NUMBERS:
    for (row, column), number in np.ndenumerate(report.counts):
      colour = "white" if share[row, column] > 0.5 else "black" if number else "lightgrey"
      axes.text(column, row, str(number), ha="center", va="center", color=colour, fontsize=8)
  figure.colorbar(image, ax=axes, label="share of what was wanted", shrink=0.8)
  figure.savefig(path)
