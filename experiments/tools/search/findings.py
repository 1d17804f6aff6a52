"""Reports a search: a table of the best trials, the best as a command, and two pictures."""

import pathlib
import shlex

import optuna
from optuna.trial import TrialState

from experiments.tools.launch import launchers
from experiments.tools.launch.results import Paths
from experiments.tools.report import tables
from experiments.tools.search import study as studies
from experiments.tools.space import Search, with_values
from train.common.files import write_atomically
from train.record.writer import number

BEST = 10  # trials of the table


def report(study, search: Search, paths: Paths) -> None:
  """Prints the results and writes best.sh, history.png and importance.png beside the trials."""
  folder = paths.root / "search"
  trials = study.get_trials(deepcopy=False)
  attempts = studies.attempts(trials)
  done = [x for x in map(studies.result, attempts.values()) if x.state == TrialState.COMPLETE]
  done.sort(key=lambda trial: trial.value, reverse=search.mode == "max")
  rows = [["trial", search.metric, *search.space]]
  for trial in done[:BEST]:
    params = [trial.params.get(key, "") for key in search.space]
    cells = [f"{x:.3g}" if isinstance(x, float) else str(x) for x in params]
    rows.append([str(studies.original(trial)), number(trial.value), *cells])
  tables.show(tables.markdown(rows))
  states = [f"{count} {state}" for state, count in sorted(studies.tally(trials).items())]
  resumed = sum(len(several) > 1 for several in attempts.values())
  print(f"{len(attempts)} trials: {', '.join(states)}; {resumed} resumed after an interruption")
  if not done:
    return
  best, name = done[0], studies.original(done[0])
  command = shlex.join(launchers.commands(with_values(search, best.params, "best"), paths)[0])
  value = f"{search.metric} {number(best.value)}"
  text = f"#!/bin/sh\n# trial {name} of {len(attempts)}: {value} on validation\n{command}\n"
  folder.mkdir(parents=True, exist_ok=True)
  write_atomically(folder / "best.sh", text)
  print(f"The best, trial {name} (also in {folder / 'best.sh'}):\n{command}")
  shares = importance(study)
  texts = [f"{key} {share:.0%}" for key, share in shares.items()]
  print("Share of the variance (fANOVA): " + (", ".join(texts) or "not enough trials yet"))
  draw(study, search.metric, folder, bool(shares))


def importance(study) -> dict[str, float]:
  """Returns each key's share of the variance of the value (Hutter et al. 2014); {} if unknown."""
  values = {trial.value for trial in study.get_trials(False, (TrialState.COMPLETE,))}
  if len(values) < 2:
    return {}
  evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
  try:
    return optuna.importance.get_param_importances(study, evaluator=evaluator)
  except (RuntimeError, ValueError):  # a forest in which no trial differs
    return {}


def draw(study, metric: str, folder: pathlib.Path, importances: bool) -> None:
  """Draws history.png, the values by trial, and importance.png, the shares of `importance`."""
  import matplotlib
  from optuna.visualization import matplotlib as plots

  matplotlib.use("agg")
  evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
  axes = plots.plot_optimization_history(study, target_name=metric)
  axes.figure.savefig(folder / "history.png", dpi=120, bbox_inches="tight")
  if importances:
    axes = plots.plot_param_importances(study, evaluator=evaluator, target_name=metric)
    axes.figure.savefig(folder / "importance.png", dpi=120, bbox_inches="tight")
