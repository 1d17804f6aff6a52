"""Which outputs of several runs are held against each other, and what that tells, in Markdown."""

import shlex
from collections.abc import Mapping, Sequence

from experiments.tools.compare import significance
from experiments.tools.compare.sides import Side, tasks_of
from experiments.tools.report.markdown import table


def tests(runs: Sequence[Side], split: str, evaluation: str, samples: int) -> str:
  """Whether the scores of each run differ from the first's by more than chance.

  evaluation: the name of what train.evaluate wrote, such as best-beam4; "" for the newest that all
  runs have, or else each one's newest. UserError where outputs are for other references.
  """
  notes, scored = [], []
  for run in runs:
    if any(significance.kind_of(task) for task in tasks_of(run.cfg).values()):
      scored.append(run)
    else:
      notes.append(f"{run.name} has a loss and no score: nothing to test.")
  there = {run.name: _with_outputs(run, split) for run in scored}
  chosen = _chosen(there, evaluation)
  notes += [
    _missing(run, split, there, chosen, evaluation) for run in scored if run.name not in chosen
  ]
  used = [run for run in scored if run.name in chosen]
  if used:
    notes.append(_used(used, there, chosen))
  if used and used[0] is not runs[0]:
    notes.append(f"Others are held against {runs[0].name}: without its outputs nothing is tested.")
  blocks, first = [], used[:1] if used[:1] == runs[:1] else []
  for part in first and first[0].outputs(split, chosen[first[0].name]):
    tables, more = _of_part(used, split, chosen, part, samples)
    blocks += tables
    notes += more
  if blocks and len(used) > 2:
    notes.append("Each p is of one comparison, not corrected for there being several.")
  return "\n\n".join([*notes, *blocks])


def _with_outputs(run, split) -> dict[str, Mapping]:
  """The evaluations that left outputs, the newest last."""
  found = run.evaluations(split)
  return {name: results for name, results in found.items() if run.outputs(split, name)}


def _chosen(there, evaluation) -> dict[str, str]:
  """The evaluation to take of each run that has one to take."""
  if evaluation:
    return {run: evaluation for run, names in there.items() if evaluation in names}
  having = {run: names for run, names in there.items() if names}
  common = [
    name
    for name in next(iter(having.values()), ())
    if all(name in names for names in having.values())
  ]
  return {run: (common or list(names))[-1] for run, names in having.items()}


def _used(runs, there, chosen) -> str:
  """Which outputs they are; in bold where they were not made alike."""
  told = []
  for run in runs:
    steps = there[run.name][chosen[run.name]].get("steps", ())
    told.append(f"{run.name} as {chosen[run.name]} (step {', '.join(map(str, steps))})")
  alike = len({chosen[run.name] for run in runs}) == 1
  what = "Outputs" if alike else "**The outputs were made in different ways**"
  return f"{what}: {'; '.join(told)}."


def _missing(run, split, there, chosen, evaluation) -> str:
  """That a run has no outputs, and the command that makes them as the others' were made."""
  results = next((there[other][name] for other, name in chosen.items()), {})
  best = "best" if run.cfg.checkpoint.keep_best else "latest"
  command = ["python", "-m", "train.evaluate", "--workdir", str(run.path), "--split", split]
  command += ["--checkpoint", results.get("checkpoint", best)]
  beam = results.get("settings", {}).get("beam")
  own = run.cfg.task.decoding.beam if "decoding" in run.cfg.task else beam
  if beam is not None and beam != own:
    command += ["--beam", str(beam)]
  others = ", ".join(there[run.name])
  what = f"{split} named {evaluation} (there are {others})" if evaluation and others else split
  return f"{run.name} has no outputs of {what}; this makes them: `{shlex.join(command)}`"


def _of_part(runs, split, chosen, part, samples) -> tuple[list[str], list[str]]:
  """Tables of the tests of a task (a mixture's part), and notes: of the runs that are judged as the
  first is."""
  judged, notes = [], []
  for run in runs:
    task, file = tasks_of(run.cfg).get(part), run.outputs(split, chosen[run.name]).get(part)
    if task and file and significance.kind_of(task):
      judged.append(significance.judge(run.name, task, significance.read(file)))
    else:
      notes.append(f"{run.name} has no outputs of {part}.")
  alike = []
  for one in judged:
    first = judged[0]
    if one.kind != first.kind:
      notes.append(
        f"{one.run} is judged as {one.kind}, {first.run} as {first.kind}: they share no score."
      )
      continue
    alike.append(one)
    if one.bleu != first.bleu:
      notes.append(
        f"{one.run} has its BLEU with {_said(one.bleu)}; here all have it with {_said(first.bleu)}."
      )
  if len(alike) < 2:
    return [], notes
  return [_shown(test, part) for test in significance.tests(alike, samples)], notes


def _said(bleu):
  return ", ".join(f"{key}={value}" for key, value in bleu.items())


def _shown(test, part) -> str:
  """A test as a heading and a table."""
  first = test.rows[0].run
  heads = ["run", test.metric, "95% interval", "difference", "p"]
  if any(row.only for row in test.rows):
    heads += [f"right here, wrong in {first}", f"wrong here, right in {first}"]
  rows = []
  for row in test.rows:
    cells = [row.run, f"{row.score:.2f}", f"{row.low:.2f} to {row.high:.2f}"]
    if row.p is not None:
      cells += [f"{row.difference:+.2f}", f"{row.p:.4f}" if row.p >= 1e-4 else f"{row.p:.1e}"]
      cells += map(str, row.only or ())
    rows.append(cells + [""] * (len(heads) - len(cells)))
  name = f"{part}/{test.metric}" if part else test.metric
  return f"**{name}**: {test.how}.\n\n{table(heads, rows)}"
