"""Writes a run's metrics, settings and scores to Weights & Biases."""

import os
from collections.abc import Mapping


class WeightsAndBiases:
  """A run of Weights & Biases, in the project $WANDB_PROJECT, else scriptorium.

  $WANDB_MODE=offline writes into the folder `wandb` of the workdir, for `wandb sync`. Its process
  writes and sends every few seconds: a kill -9 loses what it still holds.
  """

  def __init__(self, folder, config: Mapping, run: str | None, start_step: int):
    import wandb

    self.writer = wandb.init(
      project=os.environ.get("WANDB_PROJECT", "scriptorium"),
      name=folder.resolve().name,
      dir=str(folder),
      id=run,
      resume="allow",
      settings=wandb.Settings(console="off"),  # the progress bar keeps its line
    )
    self.writer.config.update(dict(config), allow_val_change=True)
    self.writer.define_metric("*", step_metric="step")
    self.run = self.writer.id

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Adds a row with `step` and each `split/name`."""
    self.writer.log({f"{split}/{name}": value for name, value in values.items()} | {"step": step})

  def close(self, scores: Mapping[str, float], failed: bool) -> None:
    """Writes the scores into the run's summary, and waits until all is sent."""
    self.writer.summary.update(dict(scores))
    self.writer.finish(exit_code=int(failed))
