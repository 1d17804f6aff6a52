"""Compiles a small translation step for chips that are not installed."""

from train import resolve
from train.planning import chips, estimate


def translation(topology: str, **model) -> tuple[estimate.Plan, int]:
  """Returns the plan with these settings of the model, and the model's number of attentions."""
  changes = [f"model.{name}={value}" for name, value in model.items()]
  cfg = resolve.load("configs/wmt14.py:small,data_dir=/nowhere", changes)
  plan = estimate.make_plan(cfg, chips.parse(topology))
  return plan, cfg.model.encoder_layers + 2 * cfg.model.decoder_layers
