"""Defines the table of M2M-100, which NLLB-200 shares: translators between many languages."""

import dataclasses

from train.common.errors import UserError
from train.interop.families.encoder_decoders import BART


def _read(config, tensors):
  pad = config.get("pad_token_id", 1)
  if type(pad) is not int or pad < 0:
    raise UserError(f"pad_token_id is {pad}; the first position is the number after it")
  return BART.read(config, tensors) | dict(position_offset=pad + 1)


def _write(model):
  return BART.write(model) | dict(pad_token_id=max(model["position_offset"] - 1, 0))


def _with_default(setting):
  """Returns one of BART's settings with M2M-100's default."""
  ours = dict(activation="relu", attention_dropout=0.1, embed_scale=True, vocab_size=128112)
  return setting._replace(default=ours.get(setting.ours, setting.default))


M2M_100 = dataclasses.replace(
  BART,
  model_type="m2m_100",
  classes={"M2M100ForConditionalGeneration": "translation", "M2M100Model": "translation"},
  settings=tuple(map(_with_default, BART.settings)),
  constants=BART.constants
  | dict(
    positions="sinusoidal_t2t",
    norm_position="pre",
    embedding_norm=False,
    output_bias=False,
  ),
  fixed=dict(is_decoder=False, tie_word_embeddings=True),
  ignored=(
    *BART.ignored,
    "decoder_layerdrop",  # of training, where BART's family refuses it
    "encoder_layerdrop",
  ),
  read=_read,
  write=_write,
  heads={},
  computed=r"embed_positions\.weights?$",
)

FAMILIES = (M2M_100,)
