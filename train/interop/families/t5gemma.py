"""Defines the table of T5Gemma: an encoder and a decoder of Gemma 2's blocks, each with its own
table of words and its own section of config.json."""

import contextlib
import dataclasses

from model.config import TransformerConfig
from model.settings import DECODER
from train.common import json_files
from train.common.errors import UserError
from train.interop.families.base import Family, Row, attention, field, gains, linear, same
from train.interop.families.gemma import GEMMA2
from train.interop.settings import FIELDS, settings

SIDES = ("encoder", "decoder")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
# A section, which is read as a decoder. Its tokens attend to others at less than the window's
# distance; an encoder's also to those at that distance, so that its window here is 1 larger.
_SECTION = dataclasses.replace(GEMMA2, model_type="t5_gemma_module", classes={}, fixed={})
_SECTION = dataclasses.replace(
  _SECTION,
  settings=(*GEMMA2.settings, field("dropout_rate", "dropout", 0.0)),
  ignored=(*GEMMA2.ignored, "tie_word_embeddings"),
)
# Our fields in which the sections may differ, and those that are read of config.json itself.
_OWN = ("decoder_layers", *DECODER)
_WHOLE = ("attention_dropout", "dropout", "init_std", "logits_softcap", "tie_output")
_SET = ("cross_attention_hidden_size", "is_decoder")  # transformers sets them, whatever is there


def _rows():
  for side in SIDES:
    layer, ours = f"{side}.layers.{{}}", f"{side}/blocks/{{}}"
    yield from attention(f"{layer}.self_attn", f"{ours}/self_attention", _PROJECTIONS)
    yield from gains(f"{layer}.pre_self_attn_layernorm", f"{ours}/self_norm")
    yield from gains(f"{layer}.post_self_attn_layernorm", f"{ours}/self_output_norm")
    for part in ("up", "gate", "down"):
      yield from linear(f"{layer}.mlp.{part}_proj", f"{ours}/mlp/{part}")
    yield from gains(f"{layer}.pre_feedforward_layernorm", f"{ours}/mlp_norm")
    yield from gains(f"{layer}.post_feedforward_layernorm", f"{ours}/mlp_output_norm")
    yield from gains(f"{side}.norm", f"{side}/norm")
  cross, ours = "decoder.layers.{}", "decoder/blocks/{}"
  yield from attention(f"{cross}.cross_attn", f"{ours}/cross_attention", _PROJECTIONS)
  yield from gains(f"{cross}.pre_cross_attn_layernorm", f"{ours}/cross_norm")
  yield from gains(f"{cross}.post_cross_attn_layernorm", f"{ours}/cross_output_norm")


def _read(config, tensors):
  sections = {}
  for side in SIDES:
    if not (given := config.get(side)):
      raise UserError(f"the section {side} is missing")
    json_files.check(given, side, FIELDS)
    given = {name: x for name, x in given.items() if name not in _SET}
    sections[side] = settings(given, _SECTION, tensors, side)
  encoder, decoder = sections["encoder"], sections["decoder"]
  theirs = {setting.ours: setting.theirs[0] for setting in _SECTION.settings}
  for name in sorted(encoder.keys() - {*_OWN, *_WHOLE}):
    if encoder[name] != decoder[name]:
      field_of = theirs.get(name, name)
      raise UserError(
        f"encoder.{field_of} is {encoder[name]!r} and decoder.{field_of} is {decoder[name]!r};"
        f" here they are one value, model.{name}"
      )
  own = {ours: decoder[name] for name, ours in DECODER.items()} | dict(decoder_max_len=None)
  own["decoder_window"] = (None,) if decoder["window"] is None else decoder["window"]
  return (
    {name: x for name, x in encoder.items() if name not in _WHOLE}
    | own
    | dict(
      encoder_layers=encoder["decoder_layers"],
      decoder_layers=decoder["decoder_layers"],
      window=_shifted(encoder["window"], 1),
      logits_softcap=decoder["logits_softcap"],
      share_embeddings=False,
      activation_dropout=config.get("dropout_rate", 0.0),
    )
  )


def _shifted(window, step):
  """Returns a window, or a pattern of windows, that reaches further by `step`."""
  if isinstance(window, tuple):
    return tuple(_shifted(x, step) for x in window)
  return window and window + step


def _write(model):
  cfg = TransformerConfig(**model)
  try:
    encoder = dataclasses.replace(
      cfg,
      **dict.fromkeys(DECODER.values()),
      encoder_layers=0,
      decoder_layers=cfg.encoder_layers,
      window=_shifted(cfg.window, -1),
    )
  except ValueError:  # such an encoder is no decoder; without sections a comparison notices
    return {}
  decoder = dataclasses.replace(cfg.for_decoder(), encoder_layers=0)
  return dict(encoder=_section(encoder), decoder=_section(decoder), vocab_size=cfg.vocab_size)


def _section(cfg: TransformerConfig):
  """Returns a section of config.json for a decoder."""
  model = dataclasses.asdict(cfg)
  values = model | dict(
    num_kv_heads=cfg.kv_heads, head_dim=cfg.head_size, attention_scale=cfg.scale
  )
  section = {}
  for setting in _SECTION.settings:
    value = setting.default
    with contextlib.suppress(KeyError):  # the default differs, which a comparison notices
      value = value if values[setting.ours] is None else setting.to_theirs(values[setting.ours])
    section |= dict.fromkeys(setting.theirs, value)
  return section | _SECTION.write(model)


T5GEMMA = Family(
  model_type="t5gemma",
  prefix="model.",
  classes={"T5GemmaForConditionalGeneration": "translation", "T5GemmaModel": "translation"},
  settings=(
    field("dropout_rate", "dropout", 0.0),
    field("attention_dropout", "attention_dropout", 0.0),
    field("initializer_range", "init_std", 0.02),
    field("tie_word_embeddings", "tie_output", True),
  ),
  constants={},
  fixed=dict(is_encoder_decoder=True),
  ignored=("classifier_dropout_rate", "decoder", "encoder", "vocab_size"),
  rows=(
    *same("decoder.embed_tokens", "embedding"),
    *same("encoder.embed_tokens", "source_embedding"),
    *_rows(),
  ),
  heads=dict(translation=(Row("lm_head.out_proj.weight", "output/kernel", "linear", body=False),)),
  copies={"lm_head.out_proj.weight": "model.decoder.embed_tokens.weight"},
  computed=r"rotary_emb\.inv_freq$",
  read=_read,
  write=_write,
)

FAMILIES = (T5GEMMA,)
