"""Converts SentencePiece models (Kudo and Richardson 2018) to `tokenizers.Tokenizer`s."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tokenizers
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from google.protobuf.unknown_fields import UnknownFieldSet
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from train.common import json_files
from train.common.errors import UserError

BLANK = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
LONGEST = 1000  # characters of a piece: _merges tries each place to cut one
# The part of sentencepiece_model.proto that is read: (name, number, type, default) of each field;
# a message's name is the type of a field that holds it. Its enums are whole numbers here.
MESSAGES = {
  "Piece": (("piece", 1, "BYTES", ""), ("score", 2, "FLOAT", "0"), ("type", 3, "INT32", "1")),
  "Trainer": (("model_type", 3, "INT32", "1"), ("byte_fallback", 35, "BOOL", "false")),
  "Normalizer": (
    ("precompiled_charsmap", 2, "BYTES", ""),
    ("add_dummy_prefix", 3, "BOOL", "true"),
    ("remove_extra_whitespaces", 4, "BOOL", "true"),
  ),
  "Model": (
    ("pieces", 1, "Piece", None),
    ("trainer_spec", 2, "Trainer", None),
    ("normalizer_spec", 3, "Normalizer", None),
  ),
}


class Piece(NamedTuple):
  """A token, its score (log-probability, or a merge's rank), and one of the kinds above."""

  text: str
  score: float
  kind: int


class Model(NamedTuple):
  """The content of a SentencePiece file; a piece's id is its index."""

  pieces: list[Piece]
  kind: int  # UNIGRAM, BPE, or one that is not read here
  byte_fallback: bool
  charsmap: bytes  # of the normalizer, b"" for none
  dummy_prefix: bool  # a blank is put in front of a text
  single_blanks: bool  # blanks at the ends are removed, and several in a row become one


def load(path: pathlib.Path) -> Model:
  """Reads a unigram or BPE model; raises UserError for any other kind or file."""
  try:
    model = _parse(json_files.read_bytes(path))
  except (ValueError, message.DecodeError) as error:
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


def _parse(content: bytes) -> Model:
  proto = _MODEL.FromString(content)
  trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
  for part in (proto, trainer, normalizer, *proto.pieces):  # a field of a wrong type is skipped
    for field in UnknownFieldSet(part):
      if field.field_number in part.DESCRIPTOR.fields_by_number:
        raise ValueError(f"field {field.field_number} has another type")
  if not all(piece.HasField("piece") for piece in proto.pieces):
    raise ValueError("a piece has no text")
  return Model(
    [Piece(piece.piece.decode(), _rounded(piece.score), piece.type) for piece in proto.pieces],
    kind=trainer.model_type,
    byte_fallback=trainer.byte_fallback,
    charsmap=normalizer.precompiled_charsmap,
    dummy_prefix=normalizer.add_dummy_prefix,
    single_blanks=normalizer.remove_extra_whitespaces,
  )


def _rounded(score: float) -> float:
  """Returns a float32 with the nine digits that identify it: the tokenizers library reads longer
  numbers of a JSON file with an error in the last place."""
  return float(f"{score:.9g}")


def _message_class():
  """Returns the class of protocol buffers that MESSAGES describes."""

  def field(name, number, kind, default):
    if kind in MESSAGES:
      label = "LABEL_REPEATED" if name == "pieces" else "LABEL_OPTIONAL"
      return dict(name=name, number=number, label=label, type_name=f".spm.{kind}")
    kind = f"TYPE_{kind}"
    return dict(name=name, number=number, label="LABEL_OPTIONAL", type=kind, default_value=default)

  file = descriptor_pb2.FileDescriptorProto(
    name="spm.proto",
    package="spm",
    message_type=[
      dict(name=name, field=[field(*row) for row in rows]) for name, rows in MESSAGES.items()
    ],
  )
  pool = descriptor_pool.DescriptorPool()  # not the default one, whose names all libraries share
  pool.AddSerializedFile(file.SerializeToString())
  return message_factory.GetMessageClass(pool.FindMessageTypeByName("spm.Model"))


_MODEL = _message_class()


def convert(
  model: Model, pieces: Sequence[tuple[str, float]] | None = None, unk: int | None = None
) -> tokenizers.Tokenizer:
  """Returns the tokenizer that splits texts as the model does, with the same ids.

  Where the tokens have other ids, `pieces` (name and score, by id) and `unk` (the unknown piece's
  id) replace the model's own.
  """
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
  tokenizer = tokenizers.Tokenizer(inner)
  tokenizer.normalizer = normalizers.Sequence(list(_normalizers(model)))
  # splitting into words first is faster and gives the same pieces, unless one has a blank inside
  if not any(BLANK in piece.text[1:] for piece in model.pieces):
    tokenizer.pre_tokenizer = pre_tokenizers.Split(BLANK, "merged_with_next")
  tokenizer.decoder = decoders.Sequence(list(_decoders(model)))
  known = {name for name, _ in pieces}
  names = [piece.text for piece in model.pieces if piece.kind in (CONTROL, UNKNOWN)]
  # no merges lead to a user's symbols; in a unigram model their score of 0 makes them win
  if model.kind == BPE:
    own = [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in own])
  tokenizer.add_special_tokens(
    [AddedToken(name, normalized=False) for name in names if name in known]
  )
  return tokenizer


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
  """Returns the pairs that join to a piece, the best piece first, as SentencePiece merges them."""
  scores = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL}
  pairs = []
  for whole, score in scores.items():
    for place in range(1, len(whole)):
      left, right = whole[:place], whole[place:]
      if left in scores and right in scores:
        pairs.append((-score, vocab[left], vocab[right], left, right))
  return [(left, right) for *_, left, right in sorted(pairs)]
