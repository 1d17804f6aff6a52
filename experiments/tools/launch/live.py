"""Shows the progress of runs: a live table on a terminal, lines elsewhere."""

import collections
import contextlib
import itertools
import json
import sys

from rich.live import Live
from rich.table import Table
from rich.text import Text

from train.record.writer import duration, number, started_between

TAIL = 16384  # bytes at the end of metrics.jsonl, which hold the last lines
STATES = {"train.main": "trains", "train.evaluate": "evaluates", "train.plan": "estimates"}
COLUMNS = ("run", "state", "step", "loss", "tokens/s", "left")


class Screen(contextlib.ExitStack):
  """A display of the runs of `local` (launchers.Local) until the block ends."""

  def __init__(self, local, runs, paths):
    super().__init__()
    self.local, self.runs, self.paths = local, runs, paths
    self.printed: dict[str, str] = {}  # name -> state
    self.live = self.enter_context(Live(refresh_per_second=2)) if sys.stdout.isatty() else None

  def show(self) -> None:
    """Updates the table, or prints the states that changed."""
    states = {run.name: self._state(run) for run in self.runs}
    if self.live:
      self.live.update(self._table(states))
      return
    for name, state in states.items():
      before, self.printed[name] = self.printed.get(name), state
      if state != before and state not in ("waits", "finished before"):
        print(f"{name}: {state}", flush=True)

  def _state(self, run):
    if run.name in self.local.running:
      return STATES.get(self.local.running[run.name].command[2], "makes")  # python -m MODULE
    if run.name in self.local.ended:
      return self.local.ended[run.name].partition("\n")[0]
    return "finished before" if run.name in self.local.done else "waits"

  def _table(self, states):
    counts = collections.Counter(states.values())
    table = Table(title=", ".join(f"{count} {state}" for state, count in counts.items())[:200])
    for name in COLUMNS:
      table.add_column(name, justify="left" if name in ("run", "state") else "right")
    order = {"trains": 0, "evaluates": 0, "waits": 2, "finished before": 3}
    runs = sorted(self.runs, key=lambda run: order.get(states[run.name], 1))
    most = max(5, self.live.console.size.height - 6)
    for run in runs[:most]:
      cells = [run.name, states[run.name], *progress(self.paths.workdir(run))]
      table.add_row(*map(Text, cells))
    if len(runs) > most:
      table.add_row(f"and {len(runs) - most} more")
    return table


def progress(workdir) -> tuple[str, str, str, str]:
  """Returns step, loss, tokens a second and time left of the run in a folder, as text."""
  try:
    total = json.loads((workdir / "config.json").read_text(encoding="utf-8"))["steps"]
    with open(workdir / "metrics.jsonl", "rb") as file:
      file.seek(max(0, file.seek(0, 2) - TAIL))
      texts = file.read().decode("utf-8", errors="replace").splitlines()
  except (OSError, ValueError, KeyError):
    return "", "", "", ""  # the run has not begun, or is writing its config
  lines = []
  for text in texts:
    with contextlib.suppress(ValueError):  # the first may be cut, the last half written
      lines.append(json.loads(text))
  train = [line for line in lines if line.get("split") == "train"]
  if not train:
    return f"0/{total:,}", "", "", ""
  starts = [line for before, line in itertools.pairwise(train) if started_between(before, line)]
  first, last, left = [train[0], *starts][-1], train[-1], ""
  if first["step"] < last["step"] < total:
    pace = (last["time"] - first["time"]) / (last["step"] - first["step"])
    left = duration(pace * (total - last["step"]))
  loss, speed = (number(float(last[key])) for key in ("loss", "tokens_per_second"))
  return f"{last['step']:,}/{total:,}", loss, speed, left
