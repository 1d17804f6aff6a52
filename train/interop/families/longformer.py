"""Defines the tables of Longformer and LED: windows, and tokens that are global."""

import dataclasses

from train.common import json_files
from train.common.errors import UserError
from train.interop.families.base import attention, field, linear, question_tokens, renamed
from train.interop.families.encoder_decoders import BART, bart_read, bart_write
from train.interop.families.encoders import BLOCK, LAYER, ROBERTA

PROJECTIONS = ("query", "key", "value")


def _global_rows(theirs):
  """Returns the rows of the projections of global tokens."""
  names = (f"{name}_global" for name in PROJECTIONS)
  rows = (linear(f"{theirs}.{name}", f"{BLOCK}/self_attention/{name}") for name in names)
  return tuple(row for pair in rows for row in pair)


def _window(config, layers):
  """Returns `window` for config.json's attention_window, of which half is on each side."""
  given = config.get("attention_window", 512)
  windows = given if isinstance(given, list) else [given] * layers
  if not json_files.fits(windows, list[int]) or len(windows) != layers:
    raise UserError(f"attention_window is {given!r}: it must be a number, or one for each layer")
  if odd := [number for number in windows if number < 2 or number % 2]:
    raise UserError(f"attention_window has {odd[0]}; it must be even and above 0")
  sizes = tuple(number // 2 + 1 for number in windows)
  return sizes[0] if len(set(sizes)) == 1 else sizes


def _written(model) -> dict:
  """Returns attention_window for `window`; one that is None or 1 has no counterpart."""
  window, layers = model["window"], model["encoder_layers"]
  pattern = window if isinstance(window, tuple) else (window,)
  each = [pattern[layer % len(pattern)] for layer in range(layers)]
  if any(size is None or size < 2 for size in each):
    return {}
  return dict(attention_window=[2 * (size - 1) for size in each])


def _longformer_read(config, tensors):
  del tensors
  name = (config.get("architectures") or [""])[0]
  # as many tokens of a question are global; only the first one of other texts
  longest = question_tokens(config.get("max_position_embeddings", 512) - 2)
  return dict(
    window=_window(config, config.get("num_hidden_layers", 12)),
    global_tokens=longest if name.endswith("QuestionAnswering") else 1,
  )


LONGFORMER = dataclasses.replace(
  ROBERTA,
  model_type="longformer",
  prefix="longformer.",
  classes={
    name.replace("Roberta", "Longformer"): kind
    for name, kind in ROBERTA.classes.items()
    if kind != "choice"
  },
  settings=tuple(
    setting._replace(default=30522) if setting.ours == "vocab_size" else setting
    for setting in ROBERTA.settings
  ),
  constants=ROBERTA.constants | dict(global_tokens=1, global_projections=True),
  ignored=(
    *(*ROBERTA.ignored, "attention_window"),  # _longformer_read reads it
    *("attention_mode", "ignore_attention_mask", "onnx_export"),
  ),
  rows=(*ROBERTA.rows, *_global_rows(f"{LAYER}.attention.self")),
  copies=renamed(ROBERTA.copies, "roberta", "longformer"),
  left_out=r"^longformer\.pooler\.",
  read=_longformer_read,
  write=_written,
  global_attention=dict(
    classification="first", qa="question", mlm="none", tagging="none", body="none"
  ),
)


def _led_rows():
  """Yields the rows of self-attention that LED's encoder has in place of BART's."""
  layer, ours = "encoder.layers.{}.self_attn", "encoder/blocks/{}/self_attention"
  names = (*(f"longformer_self_attn.{name}" for name in PROJECTIONS), "output")
  yield from attention(layer, ours, names)
  yield from _global_rows(f"{layer}.longformer_self_attn")


def _led_read(config, tensors):
  return bart_read(config, tensors) | dict(window=_window(config, config.get("encoder_layers", 12)))


def _led_write(model):
  longest = model["decoder_max_len"] or model["max_len"]
  own = bart_write(model) | _written(model)
  return own | dict(max_decoder_position_embeddings=longest)


LED = dataclasses.replace(
  BART,
  model_type="led",
  prefix="led.",
  classes={
    "LEDForConditionalGeneration": "translation",
    "LEDModel": "translation",
    "LEDForQuestionAnswering": "qa",
  },
  settings=(
    *(setting for setting in BART.settings if setting.ours not in ("max_len", "embed_scale")),
    field("max_encoder_position_embeddings", "max_len", 16384),
    field("max_decoder_position_embeddings", "decoder_max_len", 1024),
  ),
  constants=BART.constants
  | dict(
    position_offset=0,
    embed_scale=False,
    decoder_window=(None,),
    global_tokens=1,
    global_projections=True,
  ),
  ignored=(*BART.ignored, "attention_window"),
  rows=(*BART.rows, *_led_rows()),
  copies=renamed(BART.copies, "model.", "led."),
  read=_led_read,
  write=_led_write,
)

FAMILIES = (LONGFORMER, LED)
