"""Text to ids and back: words, BPE, unigram, characters, bytes; trained the same every time."""

import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tokenizers
from tokenizers import decoders, pre_tokenizers

from train.common import json_files
from train.common.errors import UserError, as_user_error
from train.data import vocabulary
from train.data.pieces import BLANKS, METASPACE, Pieces, looked_up
from train.data.vocabulary import MASK, OWN, SPECIALS, Roles

MASKS = (MASK, "[MASK]")  # how a person may write it
SENTINELS = re.compile(rf"{METASPACE}?<extra_(?:id_)?(\d+)>")  # ours and T5's
LANGUAGE = re.compile(r"(<2[\w-]+>|>>[^<>\s]+<<) ")  # a text's beginning: what to say it in


class Tokenizer:
  """A `tokenizers.Tokenizer` and what its tokens are for (`roles`); never pads or truncates.

  Without roles it is one of ours: ids 0 to 3 are pad, bos, eos, unk, and more special tokens may
  follow from 4 on. Those of other programs (train/interop) have theirs anywhere. Text never turns
  into a special token. `target`, if there is one, has other pieces over the same ids, for targets
  (Marian's); pieces whose ids are `size` or more are not in the vocabulary: they are unknown.
  """

  def __init__(
    self,
    inner: tokenizers.Tokenizer,
    roles: Roles | None = None,
    target: tokenizers.Tokenizer | None = None,
    size: int | None = None,
  ):
    for one in filter(None, (inner, target)):
      one.no_padding()
      one.no_truncation()
      one.encode_special_tokens = True  # "<eos>" in somebody's text is text; not kept in the JSON
    self._inner, self._target, self._size = inner, target, size
    self.foreign, self.targets_differ = roles is not None, target is not None
    self.roles = roles or dataclasses.replace(OWN, mask=self.specials.get(MASK))

  def __reduce__(self):
    return _rebuild, (self._json(),)

  @functools.cached_property
  def vocab_size(self) -> int:
    """The number of ids, special ones included: one more than the greatest."""
    return self._size or max(self._inner.get_vocab().values()) + 1

  @property
  def fingerprint(self) -> str:
    """Hex digest of everything that decides the ids."""
    return hashlib.sha256(self._json().encode()).hexdigest()

  def copy_inner(self) -> tokenizers.Tokenizer:
    """What splits texts, to be written or changed."""
    return tokenizers.Tokenizer.from_str(self._inner.to_str())

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text, without what frames it."""
    return self._encode(self._inner, texts)

  def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
    """`encode_batch` of what a decoder is to say."""
    return self._encode(self._target or self._inner, texts)

  def _encode(self, inner, texts):
    if self.targets_differ:
      return list(map(self._ordinary, looked_up(inner, texts, self.roles.unk)))
    encoded = inner.encode_batch_fast(texts, add_special_tokens=False)
    return [self._ordinary(encoding.ids) for encoding in encoded]

  def encode_words(self, words: Sequence[str]) -> list[list[int]]:
    """Ids of each word as it stands inside a text."""
    if self._pieces.blank_wanted:
      words = [word and f" {word}" for word in words]
    return self.encode_batch(words)

  def _ordinary(self, ids):
    # a word that is spelled like a special one is unknown: it must not end a sentence
    unk = self.roles.unk
    if unk is None or self._special_ids.isdisjoint(ids):
      return ids
    return [unk if i in self._special_ids else i for i in ids]

  @functools.cached_property
  def _special_ids(self) -> frozenset[int]:
    inners = [one.get_vocab().values() for one in (self._inner, self._target) if one and self._size]
    beyond = [i for ids in inners for i in ids if i >= self._size]
    return frozenset([*self.specials.values(), *self.sentinels, *beyond])

  def encode_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Ids of each text and the characters (from, to) that each stands for, blanks left out."""
    found = []
    blank_first = self.foreign or self.blank_first
    for text, encoding in zip(texts, self._inner.encode_batch(texts, add_special_tokens=False)):
      places = []
      for start, stop in encoding.offsets:
        start = min(start + len(text[start:stop]) - len(text[start:stop].lstrip()), stop)
        places.append((start, stop))
      alone = encoding.tokens[:1] in ([BLANKS[0]], [METASPACE])
      if blank_first and alone and text[:1] not in (" ", METASPACE):
        places[0] = (0, 0)  # the blank that was put in front, alone
      found.append((self._ordinary(encoding.ids), places))
    return found

  def marked(self, text: str) -> str:
    """The text with the mask's own name for <mask> or [MASK], if there is a mask."""
    if self.roles.mask is not None:
      for name in MASKS:
        if name not in self.specials:
          text = text.replace(name, self.mask_name)
    return text

  def encode_marked(self, text: str) -> list[int]:
    """Ids of a text in which special tokens' names, such as <mask> (or [MASK]), mean those tokens.

    Such a token stands for words with the blank in front of them, as the pieces of bpe and unigram
    do: "The <mask> of" is the ids of "The", <mask>, the ids that " of" has in running text. Which
    blanks the tokens of other programs swallow, those say.
    """
    text = self.marked(text)
    if self.foreign:
      text = SENTINELS.sub(self._sentinel_name, text)
      return self._inner_marked.encode(text, add_special_tokens=False).ids
    names = [name for name in self.specials if name not in SPECIALS]
    if not names:
      return self.encode_batch([text])[0]
    parts, ids = re.split("(" + "|".join(map(re.escape, names)) + ")", text), []
    for number, part in enumerate(parts):
      if number % 2:
        ids.append(self.specials[part])
        continue
      if self.blank_first and number + 1 < len(parts):
        part = part.removesuffix(" ")
      if part:
        inner = self._inner_part if number else self._inner
        ids += self._ordinary(inner.encode(part, add_special_tokens=False).ids)
    return ids

  def _sentinel_name(self, found: re.Match) -> str:
    number = int(found[1])
    here = number < len(self.sentinels)
    return self._inner.id_to_token(self.sentinels[number]) if here else found[0]

  @functools.cached_property
  def _inner_marked(self) -> tokenizers.Tokenizer:
    """In whose texts the names of special tokens mean them."""
    inner = self.copy_inner()
    inner.encode_special_tokens = False
    return inner

  @property
  def blank_first(self) -> bool:
    """Whether pieces begin with the blank in front of them (`vocabulary._bytelevel`); of ours."""
    return not self.foreign and isinstance(self._inner.decoder, decoders.Sequence)

  @functools.cached_property
  def _inner_part(self) -> tokenizers.Tokenizer:
    """For a text's later parts, whose first word has a blank in front only if it is there."""
    inner = Tokenizer(self.copy_inner())._inner
    if self.blank_first:
      inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return inner

  @functools.cached_property
  def specials(self) -> dict[str, int]:
    """Name -> id of every special token, in the order of their ids."""
    added = self._inner.get_added_tokens_decoder()
    return {added[i].content: i for i in sorted(added) if added[i].special}

  def id(self, name: str) -> int:
    """The id of a special token; UserError that says how to add it."""
    if name not in self.specials and self.foreign:
      raise UserError(
        f"the vocabulary has no {name}, and it comes with the weights it was made for"
      )
    if name not in self.specials:
      there = f" (it has {', '.join(self.languages)})" if LANGUAGE.match(f"{name} ") else ""
      raise UserError(
        f"the vocabulary has no {name}{there}: train it with one, tokenizer.special=({name!r},)"
      )
    return self.specials[name]

  @property
  def mask(self) -> int:
    """The mask's id; UserError without one."""
    return self.id(MASK) if self.roles.mask is None else self.roles.mask

  @property
  def mask_name(self) -> str:
    """How the vocabulary spells its mask; UserError without one."""
    return self._inner.id_to_token(self.mask)

  def encode_sources(self, texts: Sequence[str]) -> list[list[int]]:
    """`encode_batch`, but a language token at a text's start (<2de>) means that special token;
    UserError for one that is not in the vocabulary."""
    if self.foreign and not self.languages:
      return self.encode_batch(texts)
    names = [found[1] if (found := LANGUAGE.match(text)) else "" for text in texts]
    firsts = [[self.id(name)] if name else [] for name in names]
    plain = [text.removeprefix(f"{name} ") if name else text for name, text in zip(names, texts)]
    return [[*first, *row] for first, row in zip(firsts, self.encode_batch(plain))]

  @property
  def languages(self) -> tuple[str, ...]:
    """The language tokens there are, such as <2de>."""
    return tuple(name for name in self.specials if LANGUAGE.match(f"{name} "))

  @functools.cached_property
  def sentinels(self) -> tuple[int, ...]:
    """Ids of <extra_0>, <extra_1>, ...; T5's are <extra_id_0>, ..."""
    names = self._inner.get_vocab() if self.foreign else self.specials  # mT5's are plain pieces
    found = [(SENTINELS.fullmatch(name), i) for name, i in names.items()]
    numbered = sorted((int(match[1]), i) for match, i in found if match)
    return tuple(i for place, (number, i) in enumerate(numbered) if place == number)

  def shown(self, ids: Iterable[int]) -> list[str]:
    """Each token as a person reads it, special ones by their names."""
    return [self._pieces.shown(self._inner.id_to_token(i) or f"#{i}") for i in ids]

  @functools.cached_property
  def words(self) -> np.ndarray:
    """The ids of ordinary tokens, rising: int32."""
    every = set(self._inner.get_vocab().values())
    return np.asarray(sorted(every - self._special_ids), np.int32)

  @functools.cached_property
  def byte_lengths(self) -> np.ndarray:
    """How many bytes of text each id stands for, int32 [V]: see `pieces.Pieces.byte_length`."""
    found = np.zeros(self.vocab_size, np.int32)
    for token, i in self._inner.get_vocab().items():
      if i not in self._special_ids:
        found[i] = self._pieces.byte_length(token)
    return found

  @functools.cached_property
  def word_starts(self) -> np.ndarray:
    """Whether each id begins a word, bool [V]: see `pieces.Pieces.starts_word`."""
    found = np.zeros(self.vocab_size, bool)
    for token, i in self._inner.get_vocab().items():
      if i < self.vocab_size:
        found[i] = self._pieces.starts_word(token)
    return found

  @functools.cached_property
  def _pieces(self) -> Pieces:
    return Pieces(self._inner, self.foreign)

  def decode(self, ids: Iterable[int]) -> str:
    """Text up to the first eos; pad and start are dropped, an unknown token shows as `<unk>`."""
    said = itertools.takewhile(lambda i: i != self.roles.eos, ids)
    kept = [int(i) for i in said if i not in (self.roles.pad, self.roles.start)]
    return (self._target or self._inner).decode(kept, skip_special_tokens=False)

  def save(self, path: str | os.PathLike) -> None:
    """Writes the JSON file whole or not at all."""
    path = pathlib.Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(self._json(pretty=True), encoding="utf-8")
    os.replace(temporary, path)

  def _json(self, pretty: bool = False) -> str:
    roles = self.roles if self.foreign else None
    return vocabulary.to_json(self._inner, roles, self._target, self._size, pretty)

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Tokenizer":
    """The saved tokenizer; raises UserError for a missing, broken or foreign file."""
    text = json_files.text_of(path)
    with as_user_error(f"{path} is not a tokenizer.json; train or copy it anew"):
      made = cls(*vocabulary.from_json(text, f"{path} is not a tokenizer.json: it"))
      vocabulary.check(made)
    if not made.foreign and (found := [made._inner.id_to_token(i) for i in range(4)]) != list(
      SPECIALS
    ):
      raise UserError(f"{path}: ids 0 to 3 must be {', '.join(SPECIALS)}, but they are {found}")
    if not made.foreign and sorted(made.specials.values()) != list(range(len(made.specials))):
      raise UserError(f"{path}: special tokens must be the first ids, but are {made.specials}")
    return made


def _rebuild(text: str) -> Tokenizer:
  return Tokenizer(*vocabulary.from_json(text))


def train(spec: Mapping, texts: Iterable[str]) -> Tokenizer:
  """See `vocabulary.train`."""
  return Tokenizer(vocabulary.train(spec, texts))
