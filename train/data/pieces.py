"""What a vocabulary's pieces stand for: bytes of text, and beginnings of words."""

import json
import re

import tokenizers
from tokenizers import decoders, models

BLANKS = ("\u0120", "\u010a", "\u0109")  # blank, newline and tab in the byte-level alphabet
METASPACE = "\u2581"  # SentencePiece's blank
ABSENT = "\uffff"  # in front of a piece that no text has: a noncharacter
BROKEN = "\ufffd"  # what bytes that are no character decode to
VISIBLE = str.maketrans({" ": METASPACE, "\n": "\u21b5", "\r": "\u240d", "\t": "\u21e5"})
FALLBACK = re.compile(r"<0x[0-9A-F]{2}>")  # and its bytes


def looked_up(inner: tokenizers.Tokenizer, texts, unk: int) -> list[list[int]]:
  """Ids, where what `inner` does not know is looked up whole in the vocabulary, which has another
  set of pieces too (Marian's)."""
  vocab = inner.get_vocab()

  def number(token, i):
    return vocab.get(ABSENT + token, i) if i == unk else i

  encoded = inner.encode_batch(texts, add_special_tokens=False)  # the fast form tells no tokens
  return [list(map(number, encoding.tokens, encoding.ids)) for encoding in encoded]


class Pieces:
  """How the pieces of a tokenizer are to be read; `foreign` ones are not made here."""

  def __init__(self, inner: tokenizers.Tokenizer, foreign: bool):
    model, decoder = inner.model, inner.decoder
    self._words = isinstance(model, models.WordLevel)
    self._characters = isinstance(decoder, decoders.Fuse)
    self._foreign, self._before = foreign, _steps(inner.pre_tokenizer)
    self._bytes = isinstance(decoder, (decoders.ByteLevel, decoders.Sequence))
    if foreign:
      both = (*self._before, *_steps(decoder))
      self._bytes = any(step["type"] == "ByteLevel" for step in both)
    # what WordPiece puts before a piece that goes on with a word
    wordpiece = isinstance(model, models.WordPiece)
    self._continues = model.continuing_subword_prefix if wordpiece else ""

  @property
  def blank_wanted(self) -> bool:
    """Whether a text's first word differs from the same word inside it (GPT-2's)."""
    steps = [step for step in self._before if step["type"] == "ByteLevel"]
    return self._foreign and any(not step["add_prefix_space"] for step in steps)

  def byte_length(self, token: str) -> int:
    """How many bytes of text a piece stands for.

    Their sum is the UTF-8 length of a text in bytes and characters, less those of unknown
    characters; of bpe and unigram it is 1 more, for the blank they put in front (none where there
    is one); of words, each known one and a blank. Of other programs' it is that of GPT-2's and its
    like; near it for SentencePiece's, which puts a blank in front and may drop and change
    characters; and near it for WordPiece, which has a blank for each piece that begins a word
    (punctuation too) and forgets capitals and accents.
    """
    if not self._foreign or self._bytes:
      return len(token) if self._bytes else len(token.encode()) + self._words
    if FALLBACK.fullmatch(token):
      return 1
    if self._continues:
      inside = token.startswith(self._continues)
      return len(token.removeprefix(self._continues).encode()) + (not inside)
    return len(token.replace(METASPACE, " ").encode()) + self._words

  def starts_word(self, token: str) -> bool:
    """Whether a piece begins a word, which is a blank and what follows it. All do, of a tokenizer
    of words; of WordPiece all that do not go on with one."""
    if self._continues:
      return not token.startswith(self._continues)
    if self._characters and not self._foreign:
      return token.isspace()
    blanks = (METASPACE,) if self._foreign and not self._bytes else BLANKS
    return self._words or token[:1] in blanks

  def shown(self, token: str) -> str:
    """A piece as a person reads it: of bytes the text they are, where they are whole characters; a
    blank is SentencePiece's, a line's end an arrow."""
    text = token.removeprefix(ABSENT)
    if self._bytes and BROKEN not in (decoded := decoders.ByteLevel().decode([text])):
      text = decoded
    return text.translate(VISIBLE)


def _steps(part) -> list[dict]:
  """A pre-tokenizer's or decoder's settings, one dict for each step."""
  if part is None:
    return []
  made = json.loads(part.__getstate__())
  return made.get("pretokenizers") or made.get("decoders") or [made]
