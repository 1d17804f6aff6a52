"""Writes a run's metrics and settings to MLflow."""

import itertools
import os
import time
from collections.abc import Mapping

PARAMS = 100  # of one request, MLflow's limit
LONGEST = 6000  # characters of a parameter, MLflow's limit


class MLflow:
  """A run at $MLFLOW_TRACKING_URI (else MLflow's default), in the experiment
  $MLFLOW_EXPERIMENT_NAME, else scriptorium."""

  def __init__(self, folder, config: Mapping, run: str | None, start_step: int):
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    self.client, self.metric = MlflowClient(), Metric
    if run is None:
      name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "scriptorium")
      known = self.client.get_experiment_by_name(name)
      experiment = known.experiment_id if known else self.client.create_experiment(name)
      run = self.client.create_run(experiment, run_name=folder.resolve().name).info.run_id
    else:
      self.client.update_run(run, status="RUNNING")
    self.run, before = run, self.client.get_run(run).data.params
    values = {key: str(value)[:LONGEST] for key, value in config.items()}
    new = (Param(key, value) for key, value in values.items() if key not in before)
    while params := list(itertools.islice(new, PARAMS)):
      self.client.log_batch(run, params=params)
    for key in values.keys() & before.keys():
      if values[key] != before[key]:  # a parameter never changes, a tag may
        self.client.set_tag(run, f"since step {start_step + 1}: {key}", values[key])

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Adds a point to each curve `split/name`."""
    now = round(1000 * time.time())
    points = [self.metric(f"{split}/{name}", value, now, step) for name, value in values.items()]
    self.client.log_batch(self.run, metrics=points)

  def close(self, scores: Mapping[str, float], failed: bool) -> None:
    """Ends the run. MLflow shows the last value of each curve, so the scores are there."""
    self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")
