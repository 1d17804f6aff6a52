"""SCAN (Lake & Baroni 2018, arXiv:1711.00350): every command with its actions, from the grammar."""

import hashlib
from collections import Counter

from train.common.errors import NoSplit, UserError

SPLITS = ("simple", "length", "add-jump", "add-turn-left")
PARTS = ("train", "validation", "test")

VALIDATION_SIZE = 1000  # examples, where nothing is held out
CUTOFF = 22  # most actions of the length split's training commands; the next longer output has 24
# The one line that teaches the new word alone, and how often the published file repeats it.
PRIMITIVES = {
  "add-jump": (("jump", "I_JUMP"), 1467),
  "add-turn-left": (("turn left", "I_TURN_LEFT"), 2189),
}

_ACTIONS = {"walk": ["I_WALK"], "look": ["I_LOOK"], "run": ["I_RUN"], "jump": ["I_JUMP"]}
_TURNS = {"left": ["I_TURN_LEFT"], "right": ["I_TURN_RIGHT"]}

Pair = tuple[str, str]


def pairs() -> list[Pair]:
  """All 20,910 (command, actions) pairs, words separated by one space, in the grammar's order."""
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
  for first, first_actions in phrases:
    for second, second_actions in phrases:
      commands.append((f"{first} and {second}", first_actions + second_actions))
      commands.append((f"{first} after {second}", second_actions + first_actions))
  return [(command, " ".join(actions)) for command, actions in commands]


def line(pair: Pair) -> str:
  """The pair as the published files write it, without the line's end."""
  return f"IN: {pair[0]} OUT: {pair[1]}"


def split(name: str, part: str, holdout: int = 0, cutoff: int = CUTOFF) -> list[Pair]:
  """The pairs of one part ("train", "validation", "test") of the split, always in the same order.

  `train` and `test` are the published files (for "simple" a seeded 80/20 division), repetitions
  included. With holdout=0 `validation` is a seeded sample of 1,000 training examples: it measures
  fit, not generalisation. With holdout=n, n seeded distinct examples leave `train` and are the
  `validation`. A repeated line (the bare "jump") is never chosen. `cutoff` divides the length
  split: 22 is the published one, Newman et al. 2020 use others. Raises UserError for an unknown
  split or part, a holdout that leaves nothing to train on, a cutoff that leaves nothing to test or
  that another split has no use for.
  """
  if name not in SPLITS:
    raise UserError(f"SCAN has no split {name!r}; choose one of {', '.join(SPLITS)}")
  if part not in PARTS:
    raise NoSplit(f"SCAN has no {part!r}; its parts are {', '.join(PARTS)}")
  train, test = _published(name, cutoff)
  if part == "test":
    return test
  if part == "train" and holdout == 0:
    return train
  counts = Counter(train)
  single = [pair for pair in train if counts[pair] == 1]
  if not 0 <= holdout < len(single):
    raise UserError(
      f"SCAN {name}: holdout={holdout} must be at least 0 and below {len(single)}, "
      "the number of training examples that occur once"
    )
  chosen = _shuffled(single, "validation")[: holdout or VALIDATION_SIZE]
  if part == "validation":
    return chosen
  held_out = set(chosen)
  return [pair for pair in train if pair not in held_out]


def _published(name: str, cutoff: int) -> tuple[list[Pair], list[Pair]]:
  everything = pairs()
  if name != "length" and cutoff != CUTOFF:
    raise UserError(f"SCAN {name}: cutoff={cutoff} is of the length split alone")
  if name == "simple":
    ranked = _shuffled(everything, "simple")
    size = len(ranked) * 8 // 10
    return ranked[:size], ranked[size:]
  if name == "length":
    lengths = [len(actions.split()) for _, actions in everything]
    if not min(lengths) <= cutoff < max(lengths):
      told = f"at least {min(lengths)} and below {max(lengths)} actions"
      raise UserError(f"SCAN length: cutoff={cutoff} must be {told}")
    short = [length <= cutoff for length in lengths]
    train = [pair for pair, fits in zip(everything, short) if fits]
    return train, [pair for pair, fits in zip(everything, short) if not fits]
  primitive, copies = PRIMITIVES[name]
  word = primitive[0]
  train = [pair for pair in everything if word not in pair[0]] + [primitive] * copies
  return train, [pair for pair in everything if word in pair[0] and pair != primitive]


def _shuffled(examples: list[Pair], salt: str) -> list[Pair]:
  # By hash, not by a generator: the same order with every version of Python and numpy.
  return sorted(examples, key=lambda pair: hashlib.sha256(f"{salt} {pair[0]}".encode()).digest())
