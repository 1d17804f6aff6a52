"""SentencePiece models (Kudo and Richardson 2018) as `tokenizers.Tokenizer`s of the same ids.

The file is a protocol buffer of few fields, read here without the library.
"""

import math
import pathlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from train.common import json_files
from train.common.errors import UserError

BLANK = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
LONGEST = 1000  # characters of a piece: _merges tries each place to cut one


class Piece(NamedTuple):
  """A token, its score (log-probability, or a merge's rank), and one of the kinds above."""

  text: str
  score: float
  kind: int


class Model(NamedTuple):
  """What a SentencePiece file says; a piece's id is its place."""

  pieces: list[Piece]
  kind: int  # UNIGRAM, BPE, or what is not read here
  byte_fallback: bool
  charsmap: bytes  # of the normalizer, b"" for none
  dummy_prefix: bool  # a blank is put in front of a text
  single_blanks: bool  # blanks at the ends go, and several are one


def load(path: pathlib.Path) -> Model:
  """The file's content; UserError for another file or another kind than unigram and BPE."""
  try:
    model = _model(json_files.bytes_of(path))
  except (ValueError, LookupError, TypeError, struct.error) as error:
    raise UserError(f"{path} is not a SentencePiece model: copy it anew") from error
  if not model.pieces:
    raise UserError(f"{path} is not a SentencePiece model, or has no pieces: copy it anew")
  if model.kind not in (UNIGRAM, BPE):
    raise UserError(
      f"{path} is a SentencePiece model of words or characters: unigram and BPE are read"
    )
  for number, piece in enumerate(model.pieces):
    if len(piece.text) > LONGEST or not math.isfinite(piece.score):
      raise UserError(
        f"{path}: piece {number} has {len(piece.text)} characters (at most {LONGEST}) and the score"
        f" {piece.score}"
      )
  return model


def _model(content: bytes) -> Model:
  pieces, trainer, normalizer = [], {}, {}
  for field, value in _fields(content):
    if field == 1:
      one = dict(_fields(value))
      score, kind = _float(one.get(2, bytes(4))), _as(int, one.get(3, NORMAL))
      pieces.append(Piece(_as(bytes, one[1]).decode(), score, kind))
    elif field == 2:
      trainer = dict(_fields(value))
    elif field == 3:
      normalizer = dict(_fields(value))
  return Model(
    pieces,
    kind=_as(int, trainer.get(3, UNIGRAM)),
    byte_fallback=bool(trainer.get(35, 0)),
    charsmap=_as(bytes, normalizer.get(2, b"")),
    dummy_prefix=bool(normalizer.get(3, 1)),
    single_blanks=bool(normalizer.get(4, 1)),
  )


def _as(kind, value):
  if not isinstance(value, kind):
    raise TypeError(f"a field is a {type(value).__name__}")
  return value


def _float(value: bytes) -> float:
  """The number in as few digits as tell it from the next: the tokenizers library reads longer ones
  of a JSON file with an error in the last place."""
  return float(f"{struct.unpack('<f', value)[0]:.9g}")


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
  """Number and value of each field of a message: whole numbers as such, others as bytes."""
  at = 0
  while at < len(content):
    tag, at = _varint(content, at)
    kind = tag & 7
    if kind == 0:
      value, at = _varint(content, at)
    elif kind in (1, 2, 5):
      length = {1: 8, 5: 4}.get(kind)
      if length is None:
        length, at = _varint(content, at)
      value, at = content[at : at + length], at + length
      if at > len(content):
        raise ValueError("a field is cut")
    else:
      raise ValueError(f"a field of kind {kind}")
    yield tag >> 3, value


def _varint(content, at):
  value = shift = 0
  for byte in content[at : at + 10]:  # of 64 bits
    value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
    if byte < 128:
      return value, at
  raise ValueError("a number is cut, or of more than 64 bits")


def convert(
  model: Model, pieces: Sequence[tuple[str, float]] | None = None, unk: int | None = None
) -> tokenizers.Tokenizer:
  """The tokenizer that splits texts as the model does. `pieces` (name and score, by id) and the
  unknown one's id replace the model's own where its tokens have other numbers."""
  if pieces is None:
    pieces = [(piece.text, piece.score) for piece in model.pieces]
    unk = next((i for i, piece in enumerate(model.pieces) if piece.kind == UNKNOWN), None)
  if model.kind == UNIGRAM:
    inner = models.Unigram(list(pieces), unk_id=unk, byte_fallback=model.byte_fallback)
  else:
    vocab = {name: i for i, (name, _) in enumerate(pieces)}
    inner = models.BPE(
      vocab,
      _merges(model, vocab),
      unk_token=None if unk is None else pieces[unk][0],
      fuse_unk=True,
      byte_fallback=model.byte_fallback,
    )
  made = tokenizers.Tokenizer(inner)
  made.normalizer = normalizers.Sequence(list(_normalizers(model)))
  # a piece with a blank inside needs the whole text; others find the same word by word
  if not any(BLANK in piece.text[1:] for piece in model.pieces):
    made.pre_tokenizer = pre_tokenizers.Split(BLANK, "merged_with_next")
  made.decoder = decoders.Sequence(list(_decoders(model)))
  known = {name for name, _ in pieces}
  names = [piece.text for piece in model.pieces if piece.kind in (CONTROL, UNKNOWN)]
  if model.kind == BPE:  # no merges make a user's symbols; unigram prefers them, their score is 0
    own = [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]
    made.add_tokens([AddedToken(name, normalized=False) for name in own])
  made.add_special_tokens([AddedToken(name, normalized=False) for name in names if name in known])
  return made


def _normalizers(model):
  if model.charsmap:
    yield normalizers.Precompiled(model.charsmap)
  if model.single_blanks:
    yield normalizers.Replace(Regex("^ +| +$"), "")
    yield normalizers.Replace(Regex(" {2,}"), " ")
  if model.dummy_prefix:
    yield normalizers.Prepend(BLANK)
  yield normalizers.Replace(" ", BLANK)


def _decoders(model):
  yield decoders.Replace(BLANK, " ")
  if model.byte_fallback:
    yield decoders.ByteFallback()
  yield decoders.Fuse()
  if model.dummy_prefix:
    yield decoders.Strip(" ", 1, 0)


def _merges(model: Model, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
  """Pairs whose sum is a piece, the best piece first, as SentencePiece merges them."""
  scores = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL}
  found = []
  for whole, score in scores.items():
    for place in range(1, len(whole)):
      left, right = whole[:place], whole[place:]
      if left in scores and right in scores:
        found.append((-score, vocab[left], vocab[right], left, right))
  return [(left, right) for *_, left, right in sorted(found)]
