"""Tagged words for a terminal: a colour for each kind of entity, or for each tag."""

from collections.abc import Mapping, Sequence

from train.scoring.scores import is_bio

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
COLOURS += tuple(f"bright_{colour}" for colour in COLOURS)


def coloured() -> bool:
  """Whether standard output is a terminal that wants colours: NO_COLOR, if set, says no."""
  from rich.console import Console

  console = Console()
  return console.color_system is not None and not console.no_color


def tagged(output: Mapping, labels: Sequence[str], scores: bool) -> str:
  """The words of a tagging output with terminal codes: BIO entities as wholes with their kind, else
  each word with its tag; with `scores` the probability of the least sure word."""
  from rich.console import Console
  from rich.text import Text

  entities = all(map(is_bio, labels))
  kinds = sorted({label[2:] if entities else label for label in labels} - {""})
  line = Text()
  for kind, first, stop in spans(output["tags"], entities):
    line.append(" " * bool(line))
    words = " ".join(output["words"][first:stop])
    if not kind:
      line.append(words)
      continue
    colour = COLOURS[kinds.index(kind) % len(COLOURS)]
    line.append(words, f"bold {colour}")
    sure = f" {min(output['probs'][first:stop]):.2f}" if scores else ""
    line.append(f" {kind}{sure}" if entities else f"/{kind}{sure}", f"dim {colour}")
  console = Console(force_terminal=True, soft_wrap=True, highlight=False)
  with console.capture() as captured:
    console.print(line, end="")
  return captured.get()


def spans(tags: Sequence[str], entities: bool) -> list[tuple[str, int, int]]:
  """(kind, first, stop) of all words in order; "" for a word outside of entities."""
  if not entities:
    return [(tag, place, place + 1) for place, tag in enumerate(tags)]
  from seqeval.metrics.sequence_labeling import get_entities

  found, place = [], 0
  for kind, first, last in [*get_entities(list(tags)), ("", len(tags), 0)]:
    found += [("", between, between + 1) for between in range(place, first)]
    place = max(place, last + 1)
    found += [(kind, first, last + 1)] * bool(kind)
  return found
