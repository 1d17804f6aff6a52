"""Writes a run's metrics, settings and scores as TensorBoard files."""

import time
from collections.abc import Mapping


class TensorBoard:
  """The folder `tensorboard` of a run, with a file for each start."""

  run = None  # the folder is the run

  def __init__(self, folder, config: Mapping, run: str | None, start_step: int):
    from tensorboardX import SummaryWriter, summary

    self.config, self.hparams = config, summary.hparams
    self.writer = SummaryWriter(
      str(folder / "tensorboard"),
      # TensorBoard drops what an earlier start wrote after its last checkpoint.
      purge_step=start_step + 1 if start_step else 0,
      flush_secs=10,
      # The suffix gives two starts in the same second a file each.
      filename_suffix=f".{time.time_ns()}",
    )

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Adds a point to each curve `split/name`."""
    for name, value in values.items():
      self.writer.add_scalar(f"{split}/{name}", value, step)

  def close(self, scores: Mapping[str, float], failed: bool) -> None:
    """Writes the settings and scores for the tab HParams, and closes the file."""
    if scores:
      plain = {
        key: x if isinstance(x, bool | int | float) else str(x) for key, x in self.config.items()
      }
      for part in self.hparams(plain, dict(scores)):
        self.writer.file_writer.add_summary(part)
    self.writer.close()
