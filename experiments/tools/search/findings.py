"""Reports a search: a table of the best trials, the best as a command, and two pictures."""

import pathlib
import shlex
import warnings

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
  attempts = studies.attempts(study.get_trials(deepcopy=False))
  trials = {name: studies.result(several) for name, several in attempts.items()}
  done = {name: trial for name, trial in trials.items() if trial.state == TrialState.COMPLETE}
  sign = -1 if search.mode == "max" else 1
  best = sorted(done, key=lambda name: (sign * done[name].value, name))
  rows = [["trial", search.metric, *search.space]]
  for name in best[:BEST]:
    params = [done[name].params.get(key, "") for key in search.space]
    cells = [f"{x:.3g}" if isinstance(x, float) else str(x) for x in params]
    rows.append([str(name), number(done[name].value), *cells])
  tables.show(tables.markdown(rows))
  print(count(attempts))
  if not best:
    return
  run = with_values(search, done[best[0]].params, "best")
  command = shlex.join(launchers.commands(run, paths)[0])
  value = f"{search.metric} {number(done[best[0]].value)}"
  text = f"#!/bin/sh\n# trial {best[0]} of {len(trials)}: {value} on validation\n{command}\n"
  folder.mkdir(parents=True, exist_ok=True)
  write_atomically(folder / "best.sh", text)
  print(f"The best, trial {best[0]} (also in {folder / 'best.sh'}):\n{command}")
  shares = importance(study)
  texts = [f"{key} {share:.0%}" for key, share in shares.items()]
  print("Share of the variance (fANOVA): " + (", ".join(texts) or "not enough trials yet"))
  draw(study, search.metric, folder, bool(shares))


def count(attempts) -> str:
  """Formats how many trials there are in each state, and how many were resumed."""
  counts = studies.tally([trial for several in attempts.values() for trial in several])
  states = [f"{count} {state}" for state, count in sorted(counts.items())]
  resumed = sum(len(several) > 1 for several in attempts.values())
  return f"{len(attempts)} trials: {', '.join(states)}; {resumed} resumed after an interruption"


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
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # these plots of Optuna are experimental
    axes = plots.plot_optimization_history(study, target_name=metric)
    axes.figure.savefig(folder / "history.png", dpi=120, bbox_inches="tight")
    if importances:
      axes = plots.plot_param_importances(study, evaluator=evaluator, target_name=metric)
      axes.figure.savefig(folder / "importance.png", dpi=120, bbox_inches="tight")
