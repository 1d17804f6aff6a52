"""Reports precision, recall and F1 of each class, and the confusion matrix."""

import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from train.common import paths
from train.scoring import schemes
from train.scoring.schemes import Rows
from train.scoring.scores import count_labels, split_tags

OTHER = "(other)"  # stands for predictions that are no class of the references
MOST_COLUMNS = 20  # labels in a confusion matrix as text; a picture has space for more
MOST_NUMBERS = 40  # labels in a picture whose cells show their counts
WIDTH = 100  # characters of a line; a wider matrix has numbers for column names
LONGEST_NAME = 24  # characters of a label in a picture


@dataclasses.dataclass(frozen=True)
class Report:
  """Precision, recall, F1 (percent) and support of each class, and a confusion matrix of labels."""

  kind: str  # class, tag, entity
  classes: Mapping[str, Mapping[str, float]]
  labels: Sequence[str] = ()  # of the confusion matrix; empty without one
  counts: np.ndarray | None = None  # [reference, prediction]

  def tables(self) -> list[list[list[str]]]:
    """Returns tables of cells, whose first rows and columns are names."""
    table = [[self.kind, "precision", "recall", "f1", "support"]]
    for name, row in self.classes.items():
      shares = [f"{row[key]:.1f}" for key in ("precision", "recall", "f1")]
      table.append([name, *shares, str(row["support"])])
    if not 0 < len(self.labels) <= MOST_COLUMNS:
      return [table]
    heads = names = list(self.labels)
    if sum(len(name) + 2 for name in names) + max(map(len, names)) > WIDTH:
      heads = [str(number) for number in range(1, len(names) + 1)]
      names = [f"{head} {name}" for head, name in zip(heads, names)]
    rows = [[name, *map(str, row)] for name, row in zip(names, self.counts.tolist())]
    return [table, [["reference \\ prediction", *heads], *rows]]

  @property
  def note(self) -> str:
    """Returns the sentence that replaces a confusion matrix too wide for a table, or ""."""
    count = len(self.labels)
    return f"The confusion of {count} labels is drawn, not printed." if count > MOST_COLUMNS else ""


def class_report(predictions: Sequence[str], references: Sequence[str], kind="class") -> Report:
  """Builds the report on the references' classes; the confusion matrix has the predictions' too."""
  from sklearn import metrics  # imported late: a second

  classes = sorted(set(references))
  columns = metrics.precision_recall_fscore_support(
    references, predictions, labels=classes, zero_division=0.0
  )
  rows = {label: _row(*values) for label, *values in zip(classes, *columns)}
  labels = sorted({*references, *predictions})
  counts = metrics.confusion_matrix(references, predictions, labels=labels)
  return Report(kind, rows, labels, counts)


def label_set_report(predictions, references) -> Report:
  """Builds the report on the labels of examples that may have several; it has no confusion."""
  right, predicted, present = count_labels(predictions, references)
  rows = {}
  for label in sorted(present):
    shares = (
      right[label] / max(predicted[label], 1),
      right[label] / present[label],
      2 * right[label] / (predicted[label] + present[label]),
    )
    rows[label] = _row(*shares, present[label])
  return Report("label", rows)


def text_class_report(predictions: Sequence[str], references: Sequence[str]) -> Report:
  """Builds `class_report` for predictions that may be any text."""
  known = set(references)
  return class_report([text if text in known else OTHER for text in predictions], references)


def tag_report(predictions: Rows, references: Rows) -> Report:
  """Builds the report on kinds of entities (seqeval) if the tags have a scheme of entities, else on
  tags; the confusion matrix is of tags."""
  flat = itertools.chain.from_iterable
  report = class_report(list(flat(predictions)), list(flat(references)), "tag")
  if not schemes.has_scheme(report.classes):
    return report
  from seqeval import metrics

  kinds = metrics.classification_report(
    schemes.to_bioes(references), schemes.to_bioes(predictions), output_dict=True, zero_division=0
  )
  rows = {
    name: _row(row["precision"], row["recall"], row["f1-score"], row["support"])
    for name, row in kinds.items()
    if not name.endswith(" avg")
  }
  return dataclasses.replace(report, kind="entity", classes=rows)


def text_tag_report(predictions: Sequence[str], references: Sequence[str]) -> Report:
  """Builds `tag_report` for texts of tags; the predictions may be any text."""
  rows, reference_rows = split_tags(predictions, references)
  known = set(itertools.chain(*reference_rows))
  rows = [[tag if tag in known else OTHER for tag in row] for row in rows]
  return tag_report(rows, reference_rows)


def _row(precision, recall, f1, support):
  shares = dict(precision=precision, recall=recall, f1=f1)
  return {name: 100.0 * float(share) for name, share in shares.items()} | {"support": int(support)}


def format_report(report: Report) -> str:
  """Formats the tables as text in columns."""
  blocks = []
  for table in report.tables():
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = [
      "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table
    ]
    blocks.append("\n".join(line.rstrip() for line in lines))
  if report.note:
    blocks.append(report.note)
  return "\n\n".join(blocks) + "\n"


def print_report(report: Report) -> None:
  """Prints the tables on standard error, with lines and colours if it is a terminal."""
  if not sys.stderr.isatty():
    print("\n" + format_report(report), file=sys.stderr)
    return
  from rich.console import Console
  from rich.table import Table
  from rich.text import Text

  for is_confusion, (heads, *rows) in enumerate(report.tables()):
    table = Table(Text(heads[0]))
    for head in heads[1:]:
      table.add_column(Text(head), justify="right")
    for number, row in enumerate(rows):
      cells = [Text(cell) for cell in row]
      if is_confusion:  # the diagonal counts the right predictions
        cells[number + 1].stylize("bold green")
      table.add_row(*cells)
    Console(stderr=True).print(table)
  if report.note:
    print(report.note, file=sys.stderr)


def draw_confusion(report: Report, path: paths.Path) -> None:
  """Draws the confusion matrix, a row for each reference label, coloured by shares of the row."""
  from matplotlib.figure import Figure  # imported late: 1.2 s

  count = len(report.labels)
  side = max(3.0, 0.5 * count) if count <= MOST_NUMBERS else 20.0  # inches
  names = [x if len(x) <= LONGEST_NAME else x[: LONGEST_NAME - 1] + "…" for x in report.labels]
  figure = Figure((side + 2.5, side + 1.5), dpi=120, layout="constrained")
  axes = figure.subplots()
  share = report.counts / np.maximum(report.counts.sum(1, keepdims=True), 1)
  image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
  slanted = {}
  if count > 2 or max(map(len, names)) > 12:
    slanted = dict(rotation=45, ha="right", rotation_mode="anchor")
  axes.set_xticks(range(count), names, parse_math=False, **slanted)
  axes.set_yticks(range(count), names, parse_math=False)
  axes.set(xlabel="prediction", ylabel="reference")
  if count <= MOST_NUMBERS:
    for (row, column), number in np.ndenumerate(report.counts):
      colour = "black" if number else "lightgrey"
      if share[row, column] > 0.5:
        colour = "white"
      axes.text(column, row, str(number), ha="center", va="center", color=colour, fontsize=8)
  figure.colorbar(image, ax=axes, label="share of the reference label", shrink=0.8)
  with path.open("wb") as file:
    figure.savefig(file)
