"""Converts SentencePiece models (Kudo and Richardson 2018) to `tokenizers.Tokenizer`s."""

import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tokenizers
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format
from google.protobuf.unknown_fields import UnknownFieldSet
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from train.common import json_files
from train.common.errors import UserError

BLANK = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
LONGEST = 1000  # characters of a piece: _merges tries each place to cut one
# The part of sentencepiece_model.proto that is read; its enums are whole numbers here.
PROTO = """
name: "spm.proto" package: "spm"
message_type { name: "Piece"
  field { name: "piece" number: 1 type: TYPE_BYTES }
  field { name: "score" number: 2 type: TYPE_FLOAT }
  field { name: "type" number: 3 type: TYPE_INT32 default_value: "1" }
}
message_type { name: "Trainer"
  field { name: "model_type" number: 3 type: TYPE_INT32 default_value: "1" }
  field { name: "treat_whitespace_as_suffix" number: 24 type: TYPE_BOOL }
  field { name: "byte_fallback" number: 35 type: TYPE_BOOL }
}
message_type { name: "Normalizer"
  field { name: "precompiled_charsmap" number: 2 type: TYPE_BYTES }
  field { name: "add_dummy_prefix" number: 3 type: TYPE_BOOL default_value: "true" }
  field { name: "remove_extra_whitespaces" number: 4 type: TYPE_BOOL default_value: "true" }
  field { name: "escape_whitespaces" number: 5 type: TYPE_BOOL default_value: "true" }
}
message_type { name: "Model"
  field { name: "pieces" number: 1 label: LABEL_REPEATED type_name: ".spm.Piece" }
  field { name: "trainer_spec" number: 2 type_name: ".spm.Trainer" }
  field { name: "normalizer_spec" number: 3 type_name: ".spm.Normalizer" }
}
"""


class Piece(NamedTuple):
  """A token, its score (log-probability, or a merge's rank), and one of the kinds above."""

  text: str
  score: float
  kind: int


class Model(NamedTuple):
  """The content of a SentencePiece file; a piece's id is its index."""

  pieces: list[Piece]
  trainer: message.Message  # a Trainer of PROTO
  normalizer: message.Message  # a Normalizer of PROTO


def load(path: pathlib.Path) -> Model:
  """Reads a unigram or BPE model; raises UserError for any other kind or file."""
  try:
    model = _parse(json_files.read_bytes(path))
  except (ValueError, message.DecodeError) as error:
    raise UserError(f"{path} is not a SentencePiece model: copy it anew") from error
  if not model.pieces:
    raise UserError(f"{path} is not a SentencePiece model, or has no pieces: copy it anew")
  if model.trainer.model_type not in (UNIGRAM, BPE):
    raise UserError(
      f"{path} is a SentencePiece model of words or characters: unigram and BPE are read"
    )
  for number, piece in enumerate(model.pieces):
    if len(piece.text) > LONGEST or not math.isfinite(piece.score):
      raise UserError(
        f"{path}: piece {number} has {len(piece.text)} characters (at most {LONGEST}) and the score"
        f" {piece.score}"
      )
  _check(model, path)
  return model


def _check(model: Model, path) -> None:
  """Raises UserError for a setting that changes pieces and has no counterpart here."""
  if model.trainer.treat_whitespace_as_suffix:
    raise UserError(
      f"{path}: treat_whitespace_as_suffix puts blanks behind words; here they precede"
    )
  if not model.normalizer.escape_whitespaces:
    raise UserError(f"{path}: escape_whitespaces is false: here blanks are {BLANK} in pieces")
  spec = model.normalizer
  charsmap = spec.precompiled_charsmap and normalizers.Precompiled(spec.precompiled_charsmap)
  for text in (piece.text for piece in model.pieces if piece.kind == USER_DEFINED):
    changed = charsmap and charsmap.normalize_str(text) != text
    if changed or (BLANK in text and spec.remove_extra_whitespaces):
      raise UserError(
        f"{path}: user_defined_symbols has {text!r}, which normalization would change here"
      )


def _parse(content: bytes) -> Model:
  proto = _MODEL.FromString(content)
  for part in (proto, proto.trainer_spec, proto.normalizer_spec, *proto.pieces):
    for field in UnknownFieldSet(part):  # the library puts fields of a wrong type there
      if field.field_number in part.DESCRIPTOR.fields_by_number:
        raise ValueError(f"field {field.field_number} has another type")
  if not all(piece.HasField("piece") for piece in proto.pieces):
    raise ValueError("a piece has no text")
  # nine digits identify a float32; tokenizers reads longer ones with an error in the last place
  scores = [float(f"{piece.score:.9g}") for piece in proto.pieces]
  pieces = [Piece(x.piece.decode(), score, x.type) for x, score in zip(proto.pieces, scores)]
  return Model(pieces, proto.trainer_spec, proto.normalizer_spec)


_POOL = descriptor_pool.DescriptorPool()  # not the default one, whose names all libraries share
_FILE = text_format.Parse(PROTO, descriptor_pb2.FileDescriptorProto())
_POOL.AddSerializedFile(_FILE.SerializeToString())
_MODEL = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("spm.Model"))


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
  own = [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]
  fallback, is_bpe = model.trainer.byte_fallback, model.trainer.model_type == BPE
  if is_bpe:
    vocab = {name: i for i, (name, _) in enumerate(pieces)}
    name = None if unk is None else pieces[unk][0]
    merges = _merges(model, vocab)
    inner = models.BPE(vocab, merges, unk_token=name, fuse_unk=True, byte_fallback=fallback)
    inner.ignore_merges = bool(own)  # no merges lead to a user's symbols, which stand alone
  else:
    inner = models.Unigram(list(pieces), unk_id=unk, byte_fallback=fallback)
  tokenizer = tokenizers.Tokenizer(inner)
  tokenizer.normalizer = normalizers.Sequence(list(_normalizers(model.normalizer)))
  steps = []
  if is_bpe and own:  # in a unigram model their score of 0 makes them win
    longest_first = sorted(own, key=len, reverse=True)
    steps.append(pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated"))
  # splitting into words first is faster and gives the same pieces, unless one has a blank inside
  if not any(BLANK in piece.text[1:] for piece in model.pieces):
    steps.append(pre_tokenizers.Split(BLANK, "merged_with_next"))
  if steps:
    tokenizer.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
  tokenizer.decoder = decoders.Sequence(list(_decoders(model)))
  known = {name for name, _ in pieces}
  names = [piece.text for piece in model.pieces if piece.kind in (CONTROL, UNKNOWN)]
  tokenizer.add_special_tokens(
    [AddedToken(name, normalized=False) for name in names if name in known]
  )
  return tokenizer


def _normalizers(spec):
  if spec.precompiled_charsmap:
    yield normalizers.Precompiled(spec.precompiled_charsmap)
  if spec.remove_extra_whitespaces:
    yield normalizers.Replace(Regex("^ +| +$"), "")
    yield normalizers.Replace(Regex(" {2,}"), " ")
  if spec.add_dummy_prefix:
    yield normalizers.Prepend(BLANK)
  yield normalizers.Replace(" ", BLANK)


def _decoders(model):
  yield decoders.Replace(BLANK, " ")
  if model.trainer.byte_fallback:
    yield decoders.ByteFallback()
  yield decoders.Fuse()
  if model.normalizer.add_dummy_prefix:
    yield decoders.Strip(" ", 1, 0)


def _merges(model: Model, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
  """Returns the pairs that join to a piece, the best piece first, as SentencePiece merges them."""
  scores = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL}
  pairs = [
    (-score, vocab[left], vocab[right], left, right)
    for whole, score in scores.items()
    for place in range(1, len(whole))
    if (left := whole[:place]) in scores and (right := whole[place:]) in scores
  ]
  return [(left, right) for *_, left, right in sorted(pairs)]
