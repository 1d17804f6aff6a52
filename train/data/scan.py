"""Generates SCAN (Lake & Baroni 2018, arXiv:1711.00350) from its grammar: every command with its
actions, and the published splits."""

import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence

from train.common.errors import NoSplit, UserError
from train.data.source import Example, digest
from train.data.texts import InMemory

SPLITS = ("simple", "length", "add-jump", "add-turn-left")
PARTS = ("train", "validation", "test")

VALIDATION_SIZE = 1000  # examples, where nothing is held out
# The most actions of a training command in the length split; the next longer output has 24.
CUTOFF = 22
# The only training pair with the new word, and how often the published file repeats it.
PRIMITIVES = {
  "add-jump": (("jump", "I_JUMP"), 1467),
  "add-turn-left": (("turn left", "I_TURN_LEFT"), 2189),
}

_ACTIONS = {"walk": ["I_WALK"], "look": ["I_LOOK"], "run": ["I_RUN"], "jump": ["I_JUMP"]}
_TURNS = {"left": ["I_TURN_LEFT"], "right": ["I_TURN_RIGHT"]}

Pair = tuple[str, str]


@functools.cache
def all_pairs() -> tuple[Pair, ...]:
  """Returns all 20,910 (command, actions) pairs in the grammar's order, with single spaces."""
  verbs = list(_ACTIONS.items())
  for verb, action in [*_ACTIONS.items(), ("turn", [])]:
    for side, turn in _TURNS.items():
      verbs.append((f"{verb} {side}", turn + action))
      verbs.append((f"{verb} opposite {side}", turn + turn + action))
      verbs.append((f"{verb} around {side}", (turn + action) * 4))
  phrases = [
    (verb + often, actions * times)
    for verb, actions in verbs
    for often, times in (("", 1), (" twice", 2), (" thrice", 3))
  ]
  commands = list(phrases)
  for (first, first_actions), (second, second_actions) in itertools.product(phrases, repeat=2):
    commands.append((f"{first} and {second}", first_actions + second_actions))
    commands.append((f"{first} after {second}", second_actions + first_actions))
  return tuple((command, " ".join(actions)) for command, actions in commands)


def format_line(pair: Pair) -> str:
  """Formats a pair as a line of the published files, without the line's end."""
  return f"IN: {pair[0]} OUT: {pair[1]}"


def split_pairs(name: str, part: str, holdout: int = 0, cutoff: int = CUTOFF) -> list[Pair]:
  """Returns the pairs of one part ("train", "validation", "test") of a split, in a fixed order.

  `train` and `test` are the published files (for "simple" a seeded 80/20 division), repetitions
  included. With holdout=0 `validation` is a seeded sample of 1,000 training examples: it measures
  fit, not generalisation. With holdout=n, n seeded distinct examples move from `train` to
  `validation`. A repeated pair (the bare "jump") is never chosen. `cutoff` divides the length
  split: 22 is the published one, Newman et al. 2020 use others. Raises UserError for an unknown
  split or part, and for a holdout or cutoff that leaves a part empty or is of another split.
  """
  if name not in SPLITS:
    raise UserError(f"SCAN has no split {name!r}; choose one of {', '.join(SPLITS)}")
  if part not in PARTS:
    raise NoSplit(f"SCAN has no {part!r}; its parts are {', '.join(PARTS)}")
  train, test = _published(name, cutoff)
  if part == "test":
    return list(test)
  if part == "train" and holdout == 0:
    return list(train)
  single = [pair for pair, count in Counter(train).items() if count == 1]
  if not 0 <= holdout < len(single):
    raise UserError(
      f"SCAN {name}: holdout={holdout} must be at least 0 and below {len(single)}, "
      "the number of training examples that occur once"
    )
  held_out = dict.fromkeys(_shuffled(single, "validation")[: holdout or VALIDATION_SIZE])
  if part == "validation":
    return list(held_out)
  return [pair for pair in train if pair not in held_out]


@functools.cache
def _published(name: str, cutoff: int) -> tuple[list[Pair], list[Pair]]:
  everything = all_pairs()
  if name != "length" and cutoff != CUTOFF:
    raise UserError(f"SCAN {name}: cutoff={cutoff} belongs to the length split alone")
  if name == "simple":
    ranked = _shuffled(everything, "simple")
    size = len(ranked) * 8 // 10
    return ranked[:size], ranked[size:]
  if name == "length":
    lengths = {pair: len(pair[1].split()) for pair in everything}
    least, most = min(lengths.values()), max(lengths.values())
    if not least <= cutoff < most:
      raise UserError(
        f"SCAN length: cutoff={cutoff} must be at least {least} and below {most} actions"
      )
    train = [pair for pair in everything if lengths[pair] <= cutoff]
    return train, [pair for pair in everything if lengths[pair] > cutoff]
  primitive, copies = PRIMITIVES[name]
  word, _ = primitive
  train = [pair for pair in everything if word not in pair[0]] + [primitive] * copies
  return train, [pair for pair in everything if word in pair[0] and pair != primitive]


def _shuffled(examples: Sequence[Pair], salt: str) -> list[Pair]:
  # a hash gives the same order with every version of Python and numpy; a generator may not
  return sorted(examples, key=lambda pair: hashlib.sha256(f"{salt} {pair[0]}".encode()).digest())


def open_scan(
  part: str, /, split: str = "simple", holdout: int = 0, cutoff: int = CUTOFF
) -> InMemory:
  """Opens a part of a SCAN split, {"source": command, "target": actions}, as `split_pairs` does."""
  arguments = (split, part, holdout, cutoff)
  lines = "\n".join(map(format_line, split_pairs(*arguments)))
  return InMemory(_read_examples, arguments, digest(lines))


def _read_examples(*arguments) -> list[Example]:
  return [dict(source=command, target=actions) for command, actions in split_pairs(*arguments)]
