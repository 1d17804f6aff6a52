"""A small translation step, compiled for chips that are not here."""

from train import resolve
from train.planning import chips, estimate


def translation(topology: str, **model) -> tuple[estimate.Plan, int]:
  """Its plan with these settings of the model, and how many attentions it has."""
  changes = [f"model.{name}={value}" for name, value in model.items()]
  cfg = resolve.load("configs/wmt14.py:small,data_dir=/nowhere", changes)
  plan = estimate.make(cfg, chips.parse(topology))
  return plan, cfg.model.encoder_layers + 2 * cfg.model.decoder_layers
