"""Defines the table of encoder-decoders of two BERTs or of two RoBERTas (Rothe et al. 2020), each
half with its own table of words and its own section of config.json."""

import contextlib
import dataclasses

import numpy as np
from absl import logging

from model.config import TransformerConfig
from train.common import json_files
from train.common.errors import UserError, choose
from train.interop.families.base import Family, attention, norm
from train.interop.families.encoders import BERT, LAYER, ROBERTA, SELF
from train.interop.settings import FIELDS, settings

SIDES = ("encoder", "decoder")
_PARTS = {part.model_type: part for part in (BERT, ROBERTA)}
_CAUSAL = dict(is_decoder=True, add_cross_attention=True)
# Fields in which the halves may differ -> the decoder's own.
_OWN = dict(num_heads="decoder_heads", mlp_dim="decoder_mlp_dim", max_len="decoder_max_len")
# Depths; the decoder's tying of its words; token types, of which positions take in the first.
_APART = ("encoder_layers", "tie_output", "token_types")
# Fields that change no output, of which the encoder's count.
_TRAINING = ("attention_dropout", "dropout", "init_std")
_BY_OFFSET = {0: BERT, 2: ROBERTA}  # model.position_offset -> the family of both halves
_TYPES = dict(bert=2, roberta=1)  # rows of each table of token types that is written


def _part(config) -> Family:
  """Returns the family of both halves."""
  kinds = [(config.get(side) or {}).get("model_type") for side in SIDES]
  for side, kind in zip(SIDES, kinds):
    choose(_PARTS, kind, f"{side}.model_type")
  if kinds[0] != kinds[1]:
    raise UserError(
      f"encoder.model_type is {kinds[0]!r} and decoder.model_type is {kinds[1]!r}; here both are"
      " of one family"
    )
  return _PARTS[kinds[0]]


def _read(config, tensors) -> dict:
  part, halves = _part(config), {}
  for side, fixed in zip(SIDES, ({}, _CAUSAL)):
    json_files.check(config[side], side, FIELDS)
    given = dict.fromkeys(_CAUSAL, False) | config[side]  # transformers' defaults
    family = dataclasses.replace(part, fixed=part.fixed | fixed)
    halves[side] = settings(given, family, tensors, side)
  encoder, decoder = halves["encoder"], halves["decoder"]
  theirs = {setting.ours: setting.theirs[0] for setting in part.settings}
  for name in sorted(theirs.keys() - {*_OWN, *_APART}):
    if encoder[name] != decoder[name]:
      field = theirs[name]
      message = f"encoder.{field} is {encoder[name]!r} and decoder.{field} is {decoder[name]!r}"
      if name not in _TRAINING:
        raise UserError(f"{message}; here they are one value, model.{name}")
      logging.warning("%s, of which the encoder's counts here", message)
  if part is ROBERTA and config.get("decoder_start_token_id") == part.fixed["pad_token_id"]:
    raise UserError("decoder_start_token_id is padding's, which a RoBERTa gives no position")
  own = {ours: None if decoder[x] == encoder[x] else decoder[x] for x, ours in _OWN.items()}
  return (
    encoder
    | own
    | dict(
      decoder_layers=decoder["encoder_layers"],
      token_types=0,
      share_embeddings=False,
      tie_output=decoder["tie_output"],
      output_transform=part.mlm_activation or decoder["activation"],
    )
  )


def _write(model) -> dict:
  cfg = TransformerConfig(**model)
  part = _BY_OFFSET.get(cfg.position_offset)
  if part is None:  # without sections a comparison notices
    return {}
  decoder = dataclasses.asdict(cfg.for_decoder()) | dict(encoder_layers=cfg.decoder_layers)
  encoder = model | dict(tie_output=True)
  sections = dict(encoder=_section(part, encoder), decoder=_section(part, decoder) | _CAUSAL)
  padding = {name: x for name, x in part.fixed.items() if name == "pad_token_id"}
  return sections | padding | dict(vocab_size=cfg.vocab_size)


def _section(part: Family, model) -> dict:
  """Returns a section of config.json for one half."""
  section = dict(part.fixed, model_type=part.model_type)
  for setting in part.settings:
    value = setting.default
    with contextlib.suppress(KeyError):  # the default differs, which a comparison notices
      own = model[setting.ours]
      value = value if own is None else setting.to_theirs(own)
    section |= dict.fromkeys(setting.theirs, value)
  return section | dict(type_vocab_size=_TYPES[part.model_type])


def _flat(config):
  """Returns config.json with the decoder's fields where it has none, as transformers reads them."""
  decoder = config.get("decoder") or {}
  fields = {name: value for name, value in config.items() if value is not None}
  return decoder | fields | dict(model_type=decoder.get("model_type"), is_encoder_decoder=True)


def _stack(side: str, table: str, prefix: str):
  """Yields the rows of a half, whose tensors have the prefix and whose words are in `table`."""
  types = f"{prefix}embeddings.token_type_embeddings.weight"
  for row in BERT.rows:
    ours = row.ours.replace("encoder/", f"{side}/")
    ours = f"{table}/embedding" if ours == "embedding/embedding" else ours
    plus = types if ours.endswith("/positions/embedding") else ""
    if not ours.endswith("/types/embedding"):
      yield row._replace(theirs=prefix + row.theirs, ours=ours, plus=plus)


def _decoder(part: Family):
  prefix, block = f"decoder.{part.prefix}", "decoder/blocks/{}"
  yield from _stack("decoder", "embedding", prefix)
  cross = f"{prefix}{LAYER}.crossattention"
  yield from attention(cross, f"{block}/cross_attention", SELF)
  yield from norm(f"{cross}.output.LayerNorm", f"{block}/cross_norm")


def _words(part: Family):
  for row in part.heads["mlm"]:
    ours = row.ours.replace("head/", "output_transform/")
    yield row._replace(theirs=f"decoder.{row.theirs}", ours=ours)


def _in_decoder(names) -> dict:
  return {f"decoder.{name}": f"decoder.{other}" for name, other in names.items()}


def _zeros(model) -> dict:
  """Returns the tensors that count for nothing: token types, and the encoder's pooler."""
  dim, part = model["dim"], _BY_OFFSET[model["position_offset"]]
  stacks = ("encoder", f"decoder.{part.model_type}")
  types = (_TYPES[part.model_type], dim)
  shapes = {f"{stack}.embeddings.token_type_embeddings.weight": types for stack in stacks}
  shapes |= {"encoder.pooler.dense.weight": (dim, dim), "encoder.pooler.dense.bias": (dim,)}
  return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


ENCODER_DECODER = Family(
  model_type="encoder-decoder",
  prefix="",
  classes={"EncoderDecoderModel": "translation"},
  settings=(),
  constants=dict(embed_scale=False),
  fixed=dict(is_encoder_decoder=True),
  ignored=("decoder", "encoder", "tie_word_embeddings", "vocab_size"),  # the decoder's count
  rows=(*_stack("encoder", "source_embedding", "encoder."), *_decoder(BERT)),
  heads=dict(translation=tuple(_words(BERT))),
  rows_with=dict(position_offset=(*_decoder(ROBERTA), *_words(ROBERTA))),
  copies=_in_decoder(BERT.copies | ROBERTA.copies),
  untied=_in_decoder(BERT.untied | ROBERTA.untied),
  left_out=r"^encoder\.pooler\.|^decoder\.(bert|roberta)\.pooler\.",
  make=_zeros,
  read=_read,
  write=_write,
  flat=_flat,
)

FAMILIES = (ENCODER_DECODER,)
