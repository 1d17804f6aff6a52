"""What a search found: a table of the best trials, the best as a command, and two pictures."""

import math
import pathlib

import optuna
from optuna.trial import TrialState

from experiments.tools.launch import launchers
from experiments.tools.launch.results import Place
from experiments.tools.report import markdown
from experiments.tools.search import study as studies
from experiments.tools.space import Search, with_values
from train.common.files import write_atomically
from train.record.curves import plain
from train.record.writer import number

BEST = 10  # trials of the table
BLUE, ORANGE, GREY = "#2a78d6", "#eb6834", "#52514e"  # as in train.record.writer


def report(study, search: Search, place: Place) -> None:
  """Prints all of it, and writes best.sh, history.png and importance.png beside the trials."""
  folder = place.root / "search"
  several = studies.attempts(study.get_trials(deepcopy=False))
  trials = {name: studies.result(tries) for name, tries in sorted(several.items())}
  done = {name: one for name, one in trials.items() if one.state == TrialState.COMPLETE}
  sign = -1 if search.mode == "max" else 1
  best = sorted(done, key=lambda name: (sign * done[name].value, name))
  shown = [row(name, done[name], search) for name in best[:BEST]]
  markdown.show(markdown.table(["trial", search.metric, *search.space], shown))
  print(counted(several))
  if not best:
    return
  run = with_values(search, done[best[0]].params, "best")
  command = launchers.pasted(launchers.commands(run, place)[0])
  value = f"{search.metric} {number(done[best[0]].value)}"
  text = f"#!/bin/sh\n# trial {best[0]} of {len(trials)}: {value} of validation\n{command}\n"
  folder.mkdir(parents=True, exist_ok=True)
  write_atomically(folder / "best.sh", text)
  print(f"The best, trial {best[0]} (also in {folder / 'best.sh'}):\n{command}")
  weighed = importance(study)
  draw_history(trials, search, folder / "history.png")
  if weighed:
    draw_importance(weighed, search, folder / "importance.png")
  told = [f"{key} {share:.0%}" for key, share in weighed.items()]
  print("What made the difference (fANOVA): " + (", ".join(told) or "not to be said so far"))


def row(name: int, trial, search: Search) -> list[str]:
  return [
    str(name),
    number(trial.value),
    *(_text(trial.params.get(key, "")) for key in search.space),
  ]


def counted(several) -> str:
  """How many trials there are in each state, and how many were put back."""
  counts = studies.tally([one for tries in several.values() for one in tries])
  told = [f"{count} {state}" for state, count in sorted(counts.items())]
  again = sum(len(tries) > 1 for tries in several.values())
  return f"{len(several)} trials: {', '.join(told)}; {again} went on after an interruption"


def importance(study) -> dict[str, float]:
  """Key -> its share of what made values differ (Hutter et al. 2014); {} if too little is known."""
  values = {one.value for one in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
  if len(values) < 2:
    return {}
  evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
  try:
    return optuna.importance.get_param_importances(study, evaluator=evaluator)
  except (RuntimeError, ValueError):  # a forest that sees no difference
    return {}


def draw_history(trials, search: Search, path: pathlib.Path) -> None:
  """Each trial's value by its number, and the best so far."""
  figure, axes = _figure(f"{search.metric}, trial by trial", (10, 4))
  better = max if search.mode == "max" else min
  line, best = [], None
  for trial in trials.values():
    if trial.state == TrialState.COMPLETE:
      best = trial.value if best is None else better(best, trial.value)
    line.append(math.nan if best is None else best)
  axes.step(list(trials), line, where="post", color=BLUE, linewidth=1.8, label="best so far")
  kinds = ((TrialState.COMPLETE, "o", BLUE), (TrialState.PRUNED, "x", ORANGE))
  for state, marker, colour in kinds:
    found = {n: t.value for n, t in trials.items() if t.state == state and t.value is not None}
    shown = dict(marker=marker, color=colour, s=22, label=state.name.lower(), zorder=3)
    axes.scatter(list(found), list(found.values()), **shown)
  values = [t.value for t in trials.values() if t.value is not None and t.value > 0]
  if search.metric in ("loss", "perplexity") and values and max(values) > 30 * min(values):
    axes.set_yscale("log")
  axes.set_xlabel("trial")
  axes.xaxis.get_major_locator().set_params(integer=True)
  axes.legend(frameon=False, fontsize=8)
  _save(figure, path)


def draw_importance(weighed, search: Search, path: pathlib.Path) -> None:
  """A bar for each setting."""
  figure, axes = _figure(
    f"what made {search.metric} differ (fANOVA)", (10, 1.2 + 0.45 * len(weighed))
  )
  names = list(weighed)[::-1]
  bars = axes.barh(names, [weighed[name] for name in names], color=BLUE, height=0.6)
  axes.bar_label(bars, [f"{weighed[name]:.0%}" for name in names], padding=4, fontsize=8)
  axes.set_xlim(0, 1.05)
  axes.set_xlabel("share of the variance")
  _save(figure, path)


def _figure(title, size):
  from matplotlib.figure import Figure  # a second, and only needed at the end

  figure = Figure(figsize=size, dpi=120, layout="constrained")
  axes = figure.add_subplot()
  axes.set_title(title.replace("_", " "), fontsize=10, loc="left")
  plain(axes)
  return figure, axes


def _save(figure, path):
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  FigureCanvasAgg(figure).print_png(path)


def _text(value) -> str:
  return f"{value:.3g}" if isinstance(value, float) else str(value)
