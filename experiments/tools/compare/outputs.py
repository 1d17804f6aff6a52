"""Chooses the outputs of several runs to compare, and formats the tests of their scores."""

import shlex
from collections.abc import Sequence

from experiments.tools.compare import significance
from experiments.tools.compare.trained import TrainedRun, task_settings
from experiments.tools.report import tables
from train.evaluation import prefixed


def tests(runs: Sequence[TrainedRun], split: str, evaluation: str, samples: int) -> str:
  """Tests whether the scores of each run differ from the first's by more than chance.

  `evaluation` is the name of what train.evaluate wrote, such as best-beam4; "" for the newest that
  all runs have, or else each run's newest. Raises UserError where outputs have other references.
  """
  notes, available = [], {}
  for run in runs:
    if any(significance.kind_of(task) for task in task_settings(run.cfg).values()):
      names = run.evaluations(split).items()
      available[run.name] = {x: results for x, results in names if run.outputs(split, x)}
    else:
      notes.append(f"{run.name} has a loss and no score: nothing to test.")
  chosen = _choose(available, evaluation)
  used = [run for run in runs if run.name in chosen]
  left = [run for run in runs if run.name in available.keys() - chosen.keys()]
  notes += [_missing(run, split, available, chosen, evaluation) for run in left]
  if used:
    notes.append(_used(available, chosen))
  blocks = []
  if used[:1] == runs[:1]:
    for part in runs[0].outputs(split, chosen[runs[0].name]):
      blocks += _test_part(used, split, chosen, part, samples, notes)
  elif used:
    notes.append(f"The baseline {runs[0].name} has no outputs, so nothing is tested.")
  if blocks and len(used) > 2:
    notes.append("Each p is that of one comparison, not corrected for several comparisons.")
  return "\n\n".join([*notes, *blocks])


def _choose(available, evaluation) -> dict[str, str]:
  """Returns the evaluation to use of each run that has one."""
  if evaluation:
    return {run: evaluation for run, names in available.items() if evaluation in names}
  having = {run: list(names) for run, names in available.items() if names}
  first = next(iter(having.values()), ())
  common = [name for name in first if all(name in names for names in having.values())]
  return {run: (common or names)[-1] for run, names in having.items()}


def _used(available, chosen) -> str:
  """Names the outputs that are used; in bold where they were made in different ways."""
  texts = []
  for run, name in chosen.items():
    steps = available[run][name].get("steps", ())
    texts.append(f"{run} as {name} (step {', '.join(map(str, steps))})")
  alike = len(set(chosen.values())) == 1
  what = "Outputs" if alike else "**The outputs were made in different ways**"
  return f"{what}: {'; '.join(texts)}."


def _missing(run, split, available, chosen, evaluation) -> str:
  """Names a run without outputs, and the command that makes them as the others' were made."""
  results = next((available[other][name] for other, name in chosen.items()), {})
  best = "best" if run.cfg.checkpoint.keep_best else "latest"
  command = ["python", "-m", "train.evaluate", "--workdir", str(run.path), "--split", split]
  command += ["--checkpoint", results.get("checkpoint", best)]
  beam = results.get("settings", {}).get("beam")
  if "decoding" in run.cfg.task and beam not in (None, run.cfg.task.decoding.beam):
    command += ["--beam", str(beam)]
  others = ", ".join(available[run.name])
  what = f"{split} named {evaluation} (there are {others})" if evaluation and others else split
  return f"{run.name} has no outputs of {what}; this makes them: `{shlex.join(command)}`"


def _test_part(runs, split, chosen, part, samples, notes) -> list[str]:
  """Returns tables of the tests of a task (or a mixture's part) between runs with the same kind of
  outputs as the first, and adds to the notes."""
  judged = []
  for run in runs:
    task, file = task_settings(run.cfg).get(part), run.outputs(split, chosen[run.name]).get(part)
    if not (task and file and significance.kind_of(task)):
      notes.append(f"{run.name} has no outputs of {part}.")
      continue
    outputs = significance.judge(run.name, task, significance.read(file))
    first = judged[0] if judged else outputs
    if outputs.kind != first.kind:
      kinds = f"{run.name} is scored as {outputs.kind}, {first.run} as {first.kind}"
      notes.append(f"{kinds}: they share no score.")
      continue
    judged.append(outputs)
    if outputs.bleu != first.bleu:
      own, used = (
        ", ".join(f"{key}={value}" for key, value in options.items())
        for options in (outputs.bleu, first.bleu)
      )
      notes.append(f"{run.name} has its BLEU with {own}; here all have it with {used}.")
  if len(judged) < 2:
    return []
  return [_format(test, part) for test in significance.tests(judged, samples)]


def _format(test, part) -> str:
  """Formats a test as a heading and a table."""
  first = test.rows[0]
  heads = ["run", test.metric, "95% interval", "difference", "p"]
  if any(row.only for row in test.rows):
    heads += [f"right here, wrong in {first.run}", f"wrong here, right in {first.run}"]
  rows = []
  for row in test.rows:
    cells = [row.run, f"{row.score:.2f}", f"{row.low:.2f} to {row.high:.2f}"]
    if row.p is not None:
      difference = f"{row.score - first.score:+.2f}"
      cells += [difference, f"{row.p:.4f}" if row.p >= 1e-4 else f"{row.p:.1e}"]
      cells += map(str, row.only or ())
    rows.append(cells + [""] * (len(heads) - len(cells)))
  table = tables.markdown([heads, *rows])
  return f"**{prefixed(part, test.metric, '/')}**: {test.how}.\n\n{table}"
