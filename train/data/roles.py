"""Defines the roles of a vocabulary's special tokens, and how tokenizer.json keeps the roles beside
the library's own JSON."""

import dataclasses
import json
import sys
import typing

import tokenizers

from train.common import json_files
from train.common.errors import UserError

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
MASK = "<mask>"
MOST_IDS = 1 << 24  # XLM-V has a million; arrays over more ids would exhaust the memory
# Roles that are written only where they are not empty, as older saved tokenizers lack them.
YOUNGER = ("ends", "languages", "source_place", "target_place")
SOURCE_PLACES, TARGET_PLACES = ("", "source_first", "source_last"), ("", "target_first", "start")
PROBES = ("a \u00e9", "\U0010fffd", "")  # texts that every tokenizer must be able to encode


@dataclasses.dataclass(frozen=True)
class Roles:
  """The ids that begin, end, separate and pad what models read and write."""

  pad: int  # fills rows
  eos: int  # ends an encoder's input and a decoder's output
  start: int  # a decoder's first input
  unk: int | None = None
  mask: int | None = None
  first: tuple[int, ...] = ()  # before the text that a lone encoder or a lone decoder reads
  between: tuple[int, ...] = ()  # between two texts
  source_first: tuple[int, ...] = ()  # before an encoder-decoder's source
  source_last: tuple[int, ...] = ()  # after the source's eos (mBART-cc25's language)
  target_first: tuple[int, ...] = ()  # before an encoder-decoder's target: learned ...
  force: bool = True  # ... and forced when decoding
  closed: bool = True  # eos ends an encoder-decoder's source, and a text that gets labels
  types: bool = False  # the model distinguishes a first and a second text (BERT's token types)
  ends: tuple[int, ...] = ()  # what ends outputs, where it is not eos alone
  languages: tuple[int, ...] = ()  # the tokens of languages, for which the frames have places:
  source_place: str = ""  # the field with the source's, "source_first" or "source_last"
  target_place: str = ""  # the field with the target's, "target_first" or "start"

  @property
  def output_ends(self) -> tuple[int, ...]:
    """Returns the ids each of which ends an output."""
    return self.ends or (self.eos,)

  @property
  def before(self) -> tuple[int, ...]:
    """Returns the ids before a text that gets labels."""
    return self.source_first or self.first

  @property
  def behind(self) -> tuple[int, ...]:
    """Returns the ids behind a text that gets labels."""
    return (self.eos, *self.source_last) if self.closed else ()

  def source(self, ids, longest: int = sys.maxsize) -> list[int]:
    """Frames an encoder-decoder's source, cut to `longest` tokens in all."""
    return [*[*self.source_first, *ids][: longest - len(self.behind)], *self.behind]

  def target(self, ids, longest: int = sys.maxsize) -> list[int]:
    """Frames an encoder-decoder's target, cut to `longest` tokens in all."""
    return [*[*self.target_first, *ids][: longest - 1], self.eos]


# The roles in tokenizers that are trained here.
OWN = Roles(pad=PAD, eos=EOS, start=BOS, unk=UNK, first=(BOS,), between=(EOS,))


def to_json(
  inner: tokenizers.Tokenizer,
  roles: Roles | None,
  target: tokenizers.Tokenizer | None = None,
  size: int | None = None,
  pretty: bool = False,
) -> str:
  """Returns tokenizer.json's content: the library's JSON, in another object if there are roles."""
  if roles is None:
    return inner.to_str(pretty=pretty)
  given = {key: x for key, x in dataclasses.asdict(roles).items() if key not in YOUNGER or x}
  if roles.closed:  # older saved tokenizers lack it
    del given["closed"]
  content = {
    "roles": given,
    "tokenizer": json.loads(inner.to_str()),
    "target_tokenizer": target and json.loads(target.to_str()),
    "vocab_size": size,
  }
  return json.dumps(content, ensure_ascii=False, indent=1 if pretty else None)


def from_json(text: str, where: str) -> tuple:
  """Returns the first four arguments of `to_json`; raises UserError, or any Exception of the
  library, for another text."""
  content = json_files.parse(text, where)
  if "roles" not in content:
    return tokenizers.Tokenizer.from_str(text), None, None, None
  json_files.check(content, where, dict(roles=dict, vocab_size=int))
  roles = {key: tuple(x) if isinstance(x, list) else x for key, x in content["roles"].items()}
  json_files.check(roles, f"{where}: roles", typing.get_type_hints(Roles))
  inner, target = (
    part and tokenizers.Tokenizer.from_str(json.dumps(part))
    for part in (content["tokenizer"], content["target_tokenizer"])
  )
  return inner, Roles(**roles), target, content["vocab_size"]


def check_own(tokenizer, path) -> None:
  """Raises UserError for a tokenizer trained here whose special tokens are not the first ids."""
  specials = tokenizer.specials
  first = [name for name, i in specials.items() if i < len(SPECIALS)]
  if first != list(SPECIALS):
    raise UserError(f"{path}: ids 0 to 3 must be {', '.join(SPECIALS)}, but they are {first}")
  if sorted(specials.values()) != list(range(len(specials))):
    raise UserError(f"{path}: special tokens must be the first ids, but are {specials}")


def check(tokenizer) -> None:
  """Raises UserError, or the library's error, if a Tokenizer cannot be used."""
  roles = [x for x in dataclasses.astuple(tokenizer.roles) if type(x) is int]
  if max(size := tokenizer.vocab_size, *roles) > MOST_IDS or min(roles) < 0:
    raise UserError(f"{size} ids and {tokenizer.roles}: ids must be 0 to {MOST_IDS}")
  places = tokenizer.roles.source_place, tokenizer.roles.target_place
  if places[0] not in SOURCE_PLACES or places[1] not in TARGET_PLACES:
    raise UserError(f"{places[0]!r} and {places[1]!r} are no places of languages in a frame")
  tokenizer.encode_targets(PROBES)
  tokenizer.decode(i for ids in tokenizer.encode_batch(PROBES) for i in ids)
