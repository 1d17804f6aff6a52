"""Converts text to ids and back, with special tokens that text can never produce."""

import dataclasses
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tokenizers
from tokenizers import decoders, pre_tokenizers

from train.common import json_files
from train.common.errors import UserError, as_user_error
from train.common.files import write_atomically
from train.data import languages, long_texts, special_tokens
from train.data.pieces import Pieces, encode_with_absent, place_parts
from train.data.roles import MASK, OWN, SPECIALS, Roles, check, check_own, from_json, to_json
from train.data.special_tokens import LANGUAGE, READING, SENTINELS


class Tokenizer:
  """A `tokenizers.Tokenizer` with the roles of its special tokens; it never pads or truncates.

  A tokenizer without `roles` was trained here: ids 0 to 3 are pad, bos, eos, unk, and more special
  tokens may follow from 4 on. A foreign tokenizer (train/interop) has them anywhere. Text becomes
  no special token but those of a foreign tokenizer that do not frame texts (special_tokens.py).
  `target` has other pieces over the same ids (Marian's targets). Ids from `size` on are unknown.
  """

  def __init__(
    self,
    inner: tokenizers.Tokenizer,
    roles: Roles | None = None,
    target: tokenizers.Tokenizer | None = None,
    size: int | None = None,
  ):
    for part in filter(None, (inner, target)):
      part.no_padding()
      part.no_truncation()
      part.encode_special_tokens = True  # "<eos>" in a text is text; the JSON does not keep this
    self._inner, self._target, self._size = inner, target, size
    self.foreign, self.targets_differ = roles is not None, target is not None
    self.roles = roles or dataclasses.replace(OWN, mask=self.specials.get(MASK))

  def __reduce__(self):
    return Tokenizer, self._parts

  @property
  def _parts(self) -> tuple:
    """Returns the arguments that make this tokenizer."""
    return self._inner, self.roles if self.foreign else None, self._target, self._size

  @functools.cached_property
  def vocab_size(self) -> int:
    """Returns the number of ids, special ones included: the greatest id plus 1."""
    return self._size or max(self._inner.get_vocab().values()) + 1

  @functools.cached_property
  def fingerprint(self) -> str:
    """Returns the hex digest of all that determines the ids but the languages of frames."""
    inner, roles, *more = self._parts
    content = to_json(inner, roles and languages.undirected(roles), *more) + READING * self.foreign
    return hashlib.sha256(content.encode()).hexdigest()

  def framed(self, roles: Roles) -> "Tokenizer":
    """Returns a foreign tokenizer with other roles."""
    return Tokenizer(self._inner, roles, self._target, self._size)

  def copy_inner(self) -> tokenizers.Tokenizer:
    """Returns a copy of the library's tokenizer, to write or change."""
    return tokenizers.Tokenizer.from_str(self._inner.to_str())

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text without special tokens around it."""
    return long_texts.join(self.encode_parts(texts), len(texts))

  def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each target text."""
    return long_texts.join(self.encode_parts(texts, self._target), len(texts))

  def encode_parts(self, texts: Sequence[str], inner=None) -> Iterator[tuple[int, list[int]]]:
    """Yields the ids of each text's parts with the text's number (long_texts.encode)."""
    return long_texts.encode(texts, *self._encoders(inner))

  def _encoders(self, inner=None):
    first = inner or self._reader
    inners = first, self._inner_part if self.blank_first else first
    return [functools.partial(self._encode_whole, inner) for inner in inners]

  def _encode_whole(self, inner, texts):
    if self.targets_differ:
      return list(map(self._replace_specials, encode_with_absent(inner, texts, self.roles.unk)))
    encoded = inner.encode_batch_fast(texts, add_special_tokens=False)
    return [self._replace_specials(encoding.ids) for encoding in encoded]

  def encode_words(self, words: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each word as it is encoded inside a text."""
    if self._pieces.needs_leading_blank:
      words = [word and f" {word}" for word in words]
    return self.encode_batch(words)

  def _replace_specials(self, ids):
    # a word spelled like a special token becomes unknown: it must not end a sentence
    unk = self.roles.unk
    if unk is None or self._not_in_texts.isdisjoint(ids):
      return ids
    return [unk if i in self._not_in_texts else i for i in ids]

  @functools.cached_property
  def _reader(self) -> tokenizers.Tokenizer:
    """Returns the library's tokenizer that reads texts."""
    if not self.foreign or self.targets_differ:
      return self._inner
    return special_tokens.text_reader(self._inner, self._not_in_texts)

  @functools.cached_property
  def _not_in_texts(self) -> frozenset[int]:
    if not self.foreign or self.targets_differ:
      return self._special_ids
    return special_tokens.frame_ids(self.roles, self.specials) | self._beyond

  @functools.cached_property
  def _special_ids(self) -> frozenset[int]:
    return self._beyond.union(self.specials.values(), self.sentinels)

  @functools.cached_property
  def _beyond(self) -> frozenset[int]:
    """Returns the ids from `size` on."""
    inners = filter(None, (self._inner, self._target)) if self._size else ()
    return frozenset(i for x in inners for i in x.get_vocab().values() if i >= self._size)

  def encode_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Returns the ids of each text and the characters (from, to) of each id, without blanks."""
    first = (self._reader, self.foreign or self.blank_first)
    readers = first, (self._inner_part, False) if self.blank_first else first
    groups = long_texts.list_groups(texts, *self._encoders())
    return place_parts(groups, len(texts), readers, self._replace_specials)

  def name_mask(self, text: str) -> str:
    """Replaces <mask> and [MASK] in a text by the vocabulary's name of the mask, if it has one."""
    has_mask = self.roles.mask is not None
    return special_tokens.name_mask(text, self.specials, self.mask_name) if has_mask else text

  def encode_marked(self, text: str) -> list[int]:
    """Returns the ids of a text in which names of special tokens, such as <mask>, are those tokens.

    Such a token stands for words with the blank in front of them, as the pieces of bpe and unigram
    do: "The <mask> of" is the ids of "The", <mask>, and the ids of " of" in running text. A foreign
    tokenizer defines itself which blanks its special tokens absorb.
    """
    text = self.name_mask(text)
    if self.foreign:
      text = SENTINELS.sub(special_tokens.namer(self.sentinels, self._inner.id_to_token), text)
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
        ids += self._replace_specials(inner.encode(part, add_special_tokens=False).ids)
    return ids

  @functools.cached_property
  def _inner_marked(self) -> tokenizers.Tokenizer:
    """Returns the library's tokenizer that reads special tokens' names as those tokens."""
    inner = self.copy_inner()
    inner.encode_special_tokens = False
    return inner

  @property
  def blank_first(self) -> bool:
    """Returns True if a word's first piece includes the blank before it (bpe, unigram)."""
    return not self.foreign and isinstance(self._inner.decoder, decoders.Sequence)

  @functools.cached_property
  def _inner_part(self) -> tokenizers.Tokenizer:
    """Returns the library's tokenizer for later parts of a text, without a blank in front."""
    inner = Tokenizer(self.copy_inner())._inner
    if self.blank_first:
      inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return inner

  @functools.cached_property
  def specials(self) -> dict[str, int]:
    """Returns the id of every special token by its name, ordered by id."""
    added = self._inner.get_added_tokens_decoder()
    return {added[i].content: i for i in sorted(added) if added[i].special}

  def id(self, name: str) -> int:
    """Returns the id of a special token; raises UserError with the setting that adds it."""
    if name in self.specials:
      return self.specials[name]
    missing = f"the vocabulary has no {name}"
    if self.foreign:
      raise UserError(f"{missing}, and none can be added, as the vocabulary belongs to its weights")
    names = ", ".join(self.render_tokens(self.languages.values()))
    missing += f" (it has {names})" * bool(LANGUAGE.match(f"{name} "))
    raise UserError(f"{missing}: train it with one, tokenizer.special=({name!r},)")

  @property
  def mask(self) -> int:
    """Returns the mask's id; raises UserError without one."""
    return self.id(MASK) if self.roles.mask is None else self.roles.mask

  @property
  def mask_name(self) -> str:
    """Returns the vocabulary's name of the mask; raises UserError without one."""
    return self._inner.id_to_token(self.mask)

  def encode_sources(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each source text, where a language at its start (<2de>) is that special
    token; raises UserError for a language that is not in the vocabulary."""
    if self.roles.languages or (self.foreign and not self.languages):
      return self.encode_batch(texts)
    parts = [special_tokens.split_language(text, self.specials) for text in texts]
    firsts = [[self.id(name)] if name else [] for name, _ in parts]
    rows = self.encode_batch([text for _, text in parts])
    return [[*first, *row] for first, row in zip(firsts, rows)]

  @functools.cached_property
  def languages(self) -> dict[str, int]:
    """Returns the ids of the tokens of languages by their codes: those of the roles, or those that
    a source may begin with, such as <2de>."""
    marks = (i for name, i in self.specials.items() if LANGUAGE.match(f"{name} "))
    return {languages.code(self._inner.id_to_token(i)): i for i in self.roles.languages or marks}

  @functools.cached_property
  def sentinels(self) -> tuple[int, ...]:
    """Returns the ids of <extra_0>, <extra_1>, ... (T5: <extra_id_0>, ...) without a gap."""
    # mT5's are plain pieces
    return special_tokens.find_sentinels(self._inner.get_vocab() if self.foreign else self.specials)

  def render_tokens(self, ids: Iterable[int]) -> list[str]:
    """Formats each token for display, special ones by their names."""
    return [self._pieces.render(self._inner.id_to_token(i) or f"#{i}") for i in ids]

  @functools.cached_property
  def words(self) -> np.ndarray:
    """Returns the ids of all tokens that are not special, ascending: int32."""
    return np.asarray(sorted({*self._inner.get_vocab().values()} - self._special_ids), np.int32)

  @functools.cached_property
  def byte_lengths(self) -> np.ndarray:
    """Returns the number of UTF-8 bytes of each id's text (Pieces.byte_length), int32 [V]."""
    return self._table(self._pieces.byte_length, np.int32, self._special_ids)

  @functools.cached_property
  def word_starts(self) -> np.ndarray:
    """Returns True for each id that begins a word (Pieces.starts_word): bool [V]."""
    return self._table(self._pieces.starts_word, bool)

  def _table(self, fact, dtype, without=frozenset()) -> np.ndarray:
    """Returns a fact about each piece [V], zero for the ids `without`."""
    table = np.zeros(self.vocab_size, dtype)
    for token, i in self._inner.get_vocab().items():
      if i < self.vocab_size and i not in without:
        table[i] = fact(token)
    return table

  @functools.cached_property
  def _pieces(self) -> Pieces:
    return Pieces(self._inner, self.foreign)

  def decode(self, ids: Iterable[int], after: Iterable[int] = (), specials=False) -> str:
    """Returns the text of an output, up to the first token that ends one, without pad and start,
    behind that of the ids `after`.

    A foreign tokenizer leaves out its special tokens, unless `specials`, as transformers'
    skip_special_tokens does; ours shows them, an unknown token as `<unk>`.
    """
    ends, skipped = self.roles.output_ends, (self.roles.pad, self.roles.start)
    until_end = itertools.takewhile(lambda i: i not in ends, ids)
    kept = [*after, *(int(i) for i in until_end if i not in skipped)]
    skip = self.foreign and not specials
    return (self._target or self._inner).decode(kept, skip_special_tokens=skip)

  def save(self, path: str | os.PathLike) -> None:
    """Writes tokenizer.json atomically."""
    write_atomically(path, to_json(*self._parts, pretty=True))

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Tokenizer":
    """Loads a tokenizer.json; raises UserError for a missing, broken or unusable file."""
    text = json_files.read_text(path)
    with as_user_error(f"{path} is not a tokenizer.json; train or copy it anew"):
      tokenizer = cls(*from_json(text, f"{path} is not a tokenizer.json: it"))
      check(tokenizer)
    if not tokenizer.foreign:
      check_own(tokenizer, path)
    return tokenizer
