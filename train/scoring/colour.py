"""Colours tagged words for a terminal, one colour for each kind of entity or each tag."""

from collections.abc import Mapping, Sequence

from train.scoring import schemes

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
COLOURS += tuple(f"bright_{colour}" for colour in COLOURS)


def supports_colour() -> bool:
  """Returns True if standard output is a terminal with colours and NO_COLOR is not set."""
  from rich.console import Console

  console = Console()
  return console.color_system is not None and not console.no_color


def colour_tags(output: Mapping, labels: Sequence[str], scores: bool) -> str:
  """Formats the words of a tagging output with terminal codes.

  Entities are coloured as wholes with their kind, other words one by one with their tags;
  `scores` adds the probability of the least certain word.
  """
  from rich.console import Console
  from rich.text import Text

  entities = schemes.has_scheme(labels)
  kinds = sorted({label[2:] if entities else label for label in labels} - {""})
  line = Text()
  for kind, first, stop in tag_spans(output["tags"], entities):
    line.append(" " * bool(line))
    words = " ".join(output["words"][first:stop])
    if not kind:
      line.append(words)
      continue
    colour = COLOURS[kinds.index(kind) % len(COLOURS)]
    line.append(words, f"bold {colour}")
    score = f" {min(output['probs'][first:stop]):.2f}" if scores else ""
    line.append(f" {kind}{score}" if entities else f"/{kind}{score}", f"dim {colour}")
  console = Console(force_terminal=True, soft_wrap=True, highlight=False)
  with console.capture() as captured:
    console.print(line, end="")
  return captured.get()


def tag_spans(tags: Sequence[str], entities: bool) -> list[tuple[str, int, int]]:
  """Returns (kind, first, stop) of all words in order; outside entities the kind is empty."""
  if not entities:
    return [(tag, place, place + 1) for place, tag in enumerate(tags)]
  from seqeval.metrics.sequence_labeling import get_entities

  spans, place = [], 0
  for kind, first, last in [*get_entities(*schemes.to_bioes([tags])), ("", len(tags), 0)]:
    spans += [("", between, between + 1) for between in range(place, first)]
    place = max(place, last + 1)
    spans += [(kind, first, last + 1)] * bool(kind)
  return spans
