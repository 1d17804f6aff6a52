"""Builds the model that a config describes, for the vocabulary of its task."""

import dataclasses

import jax
from absl import logging
from flax import nnx
from ml_collections import ConfigDict

from model import kernels
from model.config import LSTMConfig, TransformerConfig
from model.lstm import LSTM
from model.settings import LEARNED
from model.transformer import Transformer
from train.common.errors import UserError, as_user_error, choose, did_you_mean

MODELS = {"transformer": (TransformerConfig, Transformer), "lstm": (LSTMConfig, LSTM)}


def build_model(cfg, task, seed: int, platform: str | None = None) -> Transformer | LSTM:
  """Returns the model of the section `model` with the task's head.

  model.attention_impl "auto" becomes what computes the model fastest on `platform` (by default this
  process's). Where a kernel named there cannot compute the model on it, "xla" or "einsum" takes its
  place, which is logged. Raises UserError for settings that describe no model, or a model that the
  task cannot use.
  """
  if cfg.get("positions") == "sinusoidal" and "position_offset" not in cfg:
    raise UserError(
      "model.positions: this run is of an older version, whose sinusoids had other wavelengths: use"
      " the commit in its run.json, or train it anew"
    )
  words = task.tokenizer.vocab_size
  name, config = model_config(cfg, words)
  if config.vocab_size < words:
    raise UserError(
      f"model.vocab_size is {config.vocab_size}, but the vocabulary has {words} tokens"
    )
  if name == "transformer":
    config = _fit(config, task, platform)
  elif task.prefix:
    raise UserError(
      "task.prefix: an lstm reads from left to right and cannot attend to a whole prefix:"
      " use an encoder-decoder (configs/prefix.py:model=encoder_decoder) or a Transformer"
    )
  for side, layers in (("source", config.encoder_layers), ("target", config.decoder_layers)):
    if not task.any_stack and bool(getattr(task, f"{side}_len")) != bool(layers):
      part = "encoder" if side == "source" else "decoder"
      needs = "needs" if not layers else "has no use for"
      raise UserError(f"model.{part}_layers is {layers}, but the task {needs} {part} layers")
  rngs = nnx.Rngs(seed)
  model = MODELS[name][1](config, rngs=rngs)
  if (head := task.head(config, rngs)) is not None:
    model.head = head
  return model


def without_kernels(cfg: ConfigDict) -> ConfigDict:
  """Returns the config of a run with attention by einsum, whose FLOPs a trace counts, unlike those
  of a kernel; returns `cfg` itself where that changes nothing."""
  if cfg.model.name != "transformer" or cfg.model.attention_impl == "einsum":
    return cfg
  cfg = ConfigDict(cfg.to_dict())
  cfg.model.attention_impl = "einsum"
  return cfg


def model_config(cfg, words: int = 1) -> tuple[str, TransformerConfig | LSTMConfig]:
  """Returns the name and the settings of the model of the section `model`, for a vocabulary of
  `words` tokens where the section has no vocab_size.

  Raises UserError for settings that describe no model.
  """
  # Older runs and Hugging Face's models have no name: they are Transformers.
  settings = dict(name="transformer") | dict(cfg)
  name, size = settings.pop("name"), settings.pop("vocab_size", None)
  _check_names(name, settings)
  with as_user_error("model", TypeError, ValueError):
    return name, MODELS[name][0](vocab_size=words if size is None else size, **settings)


def _check_names(name: str, settings) -> None:
  """Raises UserError for an unknown model, and for a setting that this model does not have."""
  choose(MODELS, name, "model.name")
  fields = {key: {x.name for x in dataclasses.fields(make)} for key, (make, _) in MODELS.items()}
  for key in sorted(settings.keys() - fields[name]):
    for other, theirs in fields.items():
      if key in theirs:
        raise UserError(
          f"model.{key} is a setting of model.name={other}, and this is {name}: a config that has"
          f" both takes the choice as an argument (configs/scan.py:model={name})"
        )
    near = did_you_mean(key, fields[name])
    raise UserError(f"model.{key}: model.name={name} has no such setting{near}")


def _fit(config: TransformerConfig, task, platform) -> TransformerConfig:
  """Returns the config with an attention_impl that `platform` has.

  Raises UserError where the task needs positions or rows that the config does not allow.
  """
  platform = platform or jax.default_backend()
  if config.attention_impl == "auto":
    config = kernels.chosen(config, platform)
  if lacks := kernels.lacks(config, platform):
    others = (dataclasses.replace(config, attention_impl=impl) for impl in ("xla", "einsum"))
    able = next(other for other in others if not kernels.lacks(other, platform))
    message = "model.attention_impl=%s: %s; %s is used instead"
    logging.log_first_n(
      logging.WARNING, message, 1, config.attention_impl, lacks, able.attention_impl
    )
    config = able
  tables = config.max_len, config.for_decoder().max_len
  for name, rows, used in zip(("max_len", "decoder_max_len"), tables, task.max_positions):
    if config.positions in LEARNED and used > rows:
      name = "max_len" if config.decoder_max_len is None else name
      raise UserError(
        f"model.{name} {rows} is less than the {used} positions that task.source_len,"
        " task.target_len and decoding (max_len_ratio, max_len_extra) may use: learned positions"
        " end there"
      )
  for name in ("global_tokens", "global_blocks"):
    if getattr(config, name) and task.pack:
      raise UserError(
        f"model.{name} are those of a row, and task.pack puts several texts in one: set"
        " task.pack=False"
      )
  if task.global_attention == "question" and 0 < config.global_tokens < task.source_len:
    message = (
      "model.global_tokens is %d: of a longer question, the tokens behind those are local, as the"
      " text's are (task.source_len is %d)"
    )
    logging.warning(message, config.global_tokens, task.source_len)
  return config
