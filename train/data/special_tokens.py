"""Recognizes special tokens by their names, and decides which of a foreign tokenizer's a text may
contain."""

import json
import re
from collections.abc import Callable, Container, Mapping, Sequence

import tokenizers

from train.data.pieces import METASPACE
from train.data.roles import MASK, Roles

READING = "names of special tokens are read"  # what changed in how foreign tokenizers read texts
MASKS = (MASK, "[MASK]")  # spellings of the mask in texts
SENTINELS = re.compile(rf"{METASPACE}?<extra_(?:id_)?(\d+)>")  # ours and T5's
# The target language at a source's start; Marian's needs no blank after it.
LANGUAGE = re.compile(r"(<2[\w-]+>|>>[^<>\s]+<<)( |(?<=<<))")
# Names of tokens that begin, end, separate and pad, in any vocabulary.
FRAME = ("<s>", "</s>", "<pad>", "[CLS]", "[SEP]", "[PAD]", "<cls>", "<eos>", "<bos>")


def frame_ids(roles: Roles, specials: Mapping[str, int]) -> frozenset[int]:
  """Returns the ids of the special tokens that texts cannot contain, as they frame texts; a text
  may name a language."""
  frames = (roles.first, roles.between, roles.source_first, roles.source_last, roles.target_first)
  named = (specials[name] for name in FRAME if name in specials)
  ids = frozenset([roles.pad, roles.eos, roles.start, *named, *(i for ids in frames for i in ids)])
  return ids - {*roles.languages}


def text_reader(inner: tokenizers.Tokenizer, frame: frozenset[int]) -> tokenizers.Tokenizer:
  """Returns a tokenizer that reads the name of an added token in a text as this token, but the
  names of tokens of the frame as text."""
  added = inner.get_added_tokens_decoder()
  if all(i in frame for i, token in added.items() if token.special):
    return inner
  content = json.loads(inner.to_str())
  for token in content["added_tokens"]:
    token["special"] = token["id"] in frame
  reader = tokenizers.Tokenizer.from_str(json.dumps(content))
  reader.encode_special_tokens = True  # only special tokens are read as text by this
  return reader


def split_language(text: str, specials: Container[str]) -> tuple[str, str]:
  """Returns the language at a source's start, "" if there is none, and the text behind it."""
  match = LANGUAGE.match(text)
  if match and (match[2] or match[1] in specials):
    return match[1], text[match.end() :]
  return "", text


def find_sentinels(names: Mapping[str, int]) -> tuple[int, ...]:
  """Returns the ids of <extra_0>, <extra_1>, ... (T5: <extra_id_0>, ...) without a gap."""
  matches = [(SENTINELS.fullmatch(name), i) for name, i in names.items()]
  numbered = sorted((int(match[1]), i) for match, i in matches if match)
  return tuple(i for place, (number, i) in enumerate(numbered) if place == number)


def namer(sentinels: Sequence[int], name_of: Callable[[int], str]) -> Callable[[re.Match], str]:
  """Returns a function from a match of SENTINELS to the vocabulary's name of this sentinel."""
  return lambda match: (
    name_of(sentinels[int(match[1])]) if int(match[1]) < len(sentinels) else match[0]
  )


def name_mask(text: str, specials: Container[str], mask: str) -> str:
  """Replaces the spellings of the mask in a text by its name, where they name no other token."""
  for name in MASKS:
    if name not in specials:
      text = text.replace(name, mask)
  return text
