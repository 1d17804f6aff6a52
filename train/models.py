"""The model a config names, for the vocabulary a task has."""

from flax import nnx

from model.config import TransformerConfig
from model.transformer import Transformer
from train.errors import UserError


def build(cfg, task, seed: int) -> Transformer:
  """A Transformer of the section `model`; UserError for settings that make none."""
  try:
    config = TransformerConfig(vocab_size=task.tokenizer.vocab_size, **cfg)
  except (TypeError, ValueError) as error:
    raise UserError(f"model: {error}") from error
  if config.positions == "learned" and task.longest > config.max_len:
    raise UserError(
      f"model.max_len {config.max_len} is less than the {task.longest} positions that"
      " task.source_len, task.target_len and decoding may use: learned positions end there"
    )
  return Transformer(config, rngs=nnx.Rngs(seed))
