"""Writes what a run predicts for a split of its data as a file to train on (sequence-level
distillation: Kim & Rush 2016)."""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Callable, Mapping

from absl import logging

from train import tasks
from train.common import json_files, paths
from train.common.errors import UserError, indented
from train.common.files import write_atomically
from train.common.trees import checksum, flatten
from train.data.languages import FIELDS
from train.data.source import read_many
from train.scoring import scores
from train.tasks.translation import Translation

CHUNK = 512  # examples that are predicted, and written, together


def best_by_bleu(task, output: Mapping, example: Mapping) -> str:
  """Returns the one of the n best outputs that is most like the reference (section 3.3), by the
  task's kind of BLEU."""
  options = task.bleu_options() if isinstance(task, Translation) else {}
  texts = [x["text"] for x in output["nbest"]]
  return max(texts, key=lambda text: scores.sentence(text, example["target"], **options))


CHOICES: dict[str, Callable[..., str]] = {
  "score": lambda task, output, example: output["text"],
  "bleu": best_by_bleu,
}


def write(predictor, split: str, out: paths.Path, choice: str) -> None:
  """Writes a JSON line with `source` and `target`, the output, for each example of a split.

  A file that is there is continued, if it was written by the same weights, settings and data.
  choice: which of the n best is the target, one of CHOICES. Raises UserError for a task without
  sources and targets.
  """
  task, run = tasks.main_part(predictor.run.task), predictor.run
  if task.columns != ("source", "target"):
    raise UserError(f"--split: {type(task).__name__} is no task of sources and targets")
  if getattr(task, "piece_marker", ""):
    raise UserError("--split: outputs are joined words, and this task's data are pieces of words")
  examples = dataclasses.replace(task, data={**task.data, "stream": False}).examples(split)
  made = json.loads(
    json.dumps(
      dict(
        steps=run.steps,
        weights=checksum(flatten(run.params)),
        settings=dataclasses.asdict(predictor.settings),
        choice=choice,
        split=split,
        languages=[getattr(task, field, "") for field in FIELDS],
        source_len=task.source_len,
        data=examples.fingerprint,
        examples=len(examples),
      )
    )
  )
  record = out.with_name(f"{out.name}.made.json")
  with _alone(out):
    done = _continued(out, record, made)
    write_atomically(record, json.dumps(made, indent=2) + "\n")
    _append(predictor, task, examples, out, done, choice)


@contextlib.contextmanager
def _alone(out: paths.Path):
  """Keeps other processes from writing to `out`."""
  with out.open("a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(f"--out {out}: another process is writing to it") from None
    yield


def _append(predictor, task, examples, out: paths.Path, done: int, choice: str) -> None:
  """Adds the lines of the examples behind the first `done` ones."""
  with out.open("a", encoding="utf-8") as file:
    for start in range(done, len(examples), CHUNK):
      chunk = read_many(examples, range(start, min(start + CHUNK, len(examples))))
      for example, output in zip(chunk, predictor(chunk), strict=True):
        pair = dict(example, target=CHOICES[choice](task, output, example))
        file.write(json.dumps(pair, ensure_ascii=False) + "\n")
      file.flush()
      logging.info("%d of %d examples", start + len(chunk), len(examples))


def _continued(out: paths.Path, record: paths.Path, made: Mapping) -> int:
  """Returns how many examples the file has, after a line that was cut off is removed; raises
  UserError for one that was made otherwise."""
  if not out.stat().st_size:
    return 0
  if not record.exists():
    raise UserError(f"--out {out} is there, and {record.name} is not: name a new file")
  before = json_files.read(record)
  if differ := [key for key in made if before.get(key) != made[key]]:
    lines = (f"{key}: {before.get(key)} there, {made[key]} here" for key in differ)
    raise UserError(f"--out {out} was made otherwise; name a new file:{indented(lines)}")
  whole = out.read_bytes()
  end = whole.rfind(b"\n") + 1
  if end < len(whole):
    with out.open("r+b") as file:
      file.truncate(end)
  return whole[:end].count(b"\n")
