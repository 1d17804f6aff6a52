"""Interprets a vocabulary's pieces: the bytes of text they stand for, and where words begin."""

import json
import re
from collections.abc import Callable

import tokenizers
from tokenizers import decoders, models

BLANKS = ("\u0120", "\u010a", "\u0109")  # blank, newline and tab in the byte-level alphabet
# The characters that stand for the 256 bytes in the byte-level alphabet: a printable one is itself.
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = [byte for byte in range(0x100) if byte not in _PRINTABLE]
BYTES = [chr(byte if byte in _PRINTABLE else 0x100 + _OTHERS.index(byte)) for byte in range(0x100)]
METASPACE = "\u2581"  # SentencePiece's blank
ABSENT = "\uffff"  # prefix of the pieces that only targets have; a noncharacter, so in no text
REPLACEMENT = "\ufffd"  # what bytes that are no character decode to
VISIBLE = str.maketrans({" ": METASPACE, "\n": "\u21b5", "\r": "\u240d", "\t": "\u21e5"})
FALLBACK = re.compile(r"<0x[0-9A-F]{2}>")  # SentencePiece's name of a byte


def encode_with_absent(inner: tokenizers.Tokenizer, texts, unk: int) -> list[list[int]]:
  """Encodes texts with one of two sets of pieces over the same ids (Marian's).

  A token that `inner` splits off but does not know is looked up among the ABSENT pieces.
  """
  vocab = inner.get_vocab()

  def look_up(token, i):
    return vocab.get(ABSENT + token, i) if i == unk else i

  encoded = inner.encode_batch(texts, add_special_tokens=False)  # encode_batch_fast has no tokens
  return [list(map(look_up, encoding.tokens, encoding.ids)) for encoding in encoded]


def place(text: str, encoding: tokenizers.Encoding, blank_first: bool) -> list[tuple[int, int]]:
  """Returns the characters (from, to) of each token of a text, without blanks.

  blank_first: the tokenizer puts a blank in front, which may be a token of its own.
  """
  places = []
  for start, stop in encoding.offsets:
    start = min(start + len(text[start:stop]) - len(text[start:stop].lstrip()), stop)
    places.append((start, stop))
  alone = encoding.tokens[:1] in ([BLANKS[0]], [METASPACE])
  if blank_first and alone and text[:1] not in (" ", METASPACE):
    places[0] = (0, 0)
  return places


def place_parts(
  groups, count: int, readers, clean: Callable[[list[int]], list[int]]
) -> list[tuple[list[int], list[tuple[int, int]]]]:
  """Returns the ids of each of `count` texts and their characters, as `place` does, from the parts
  of long_texts.list_groups.

  `readers` are the tokenizers of first and of later parts, each with its `blank_first`; `clean`
  changes the ids of a part.
  """
  rows = [([], []) for _ in range(count)]
  for is_later, group in groups:
    reader, blank_first = readers[is_later]
    encoded = reader.encode_batch([part for _, _, part in group], add_special_tokens=False)
    for (number, first, part), encoding in zip(group, encoded):
      ids, places = rows[number]
      ids += clean(encoding.ids)
      places += [(first + a, first + b) for a, b in place(part, encoding, blank_first)]
  return rows


class Pieces:
  """The meaning of a tokenizer's pieces; a `foreign` tokenizer was not trained here."""

  def __init__(self, inner: tokenizers.Tokenizer, foreign: bool):
    model, decoder = inner.model, inner.decoder
    self._words = isinstance(model, models.WordLevel)
    self._characters = isinstance(decoder, decoders.Fuse)
    self._foreign, self._pre_steps = foreign, _steps(inner.pre_tokenizer)
    steps = (*self._pre_steps, *_steps(decoder))
    self._bytes = any(step["type"] == "ByteLevel" for step in steps)
    # WordPiece's prefix of a piece that continues a word
    wordpiece = isinstance(model, models.WordPiece)
    self._continuation = model.continuing_subword_prefix if wordpiece else ""

  @property
  def needs_leading_blank(self) -> bool:
    """Returns True if a word at a text's start differs from the same word inside (GPT-2's)."""
    steps = [step for step in self._pre_steps if step["type"] == "ByteLevel"]
    return self._foreign and any(not step["add_prefix_space"] for step in steps)

  def byte_length(self, token: str) -> int:
    """Returns the number of bytes of text that a piece stands for.

    The sum over a text's pieces is the text's UTF-8 length for bytes, for characters (without the
    unknown ones) and for GPT-2's pieces. The sum is 1 more for bpe and unigram, which put a blank
    in front unless there is one. Each known word of a word tokenizer counts with one blank. The sum
    is approximate for SentencePiece, which puts a blank in front and may drop and change
    characters, and for WordPiece, where each piece that begins a word (punctuation too) counts with
    a blank and accents are lost.
    """
    if not self._foreign or self._bytes:
      return len(token) if self._bytes else len(token.encode()) + self._words
    if FALLBACK.fullmatch(token):
      return 1
    if self._continuation:
      inside = token.startswith(self._continuation)
      return len(token.removeprefix(self._continuation).encode()) + (not inside)
    return len(token.replace(METASPACE, " ").encode()) + self._words

  def starts_word(self, token: str) -> bool:
    """Returns True if a piece begins a word, which is a blank and the characters after it.

    All pieces of a word tokenizer begin a word, and all of WordPiece's that do not continue one.
    """
    if self._continuation:
      return not token.startswith(self._continuation)
    if self._characters and not self._foreign:
      return token.isspace()
    blanks = (METASPACE,) if self._foreign and not self._bytes else BLANKS
    return self._words or token[:1] in blanks

  def render(self, token: str) -> str:
    """Formats a piece for display: bytes as text if they are whole characters, a blank as
    SentencePiece's, a line end as an arrow."""
    text = token.removeprefix(ABSENT)
    if self._bytes and REPLACEMENT not in (decoded := decoders.ByteLevel().decode([text])):
      text = decoded
    return text.translate(VISIBLE)


def _steps(part) -> list[dict]:
  """Returns the settings of a pre-tokenizer or decoder, one dict for each step."""
  if part is None:
    return []
  settings = json.loads(part.__getstate__())
  return settings.get("pretokenizers") or settings.get("decoders") or [settings]
