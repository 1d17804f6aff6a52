"""Loads a trained run, or hf:DIR, to evaluate and to predict with."""

import argparse
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from train import evaluation, pretrained, sharding, tasks
from train.common import entry, intervals, paths
from train.common.errors import UserError
from train.data import given
from train.data.languages import FIELDS
from train.step import make_predict_step
from train.tasks.embedding import Embedding

CHECKPOINTS = "latest, best, STEP, average:N (the last N) or average:STEP,STEP,..."


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained run, or hf:DIR with cfg=None, ready to evaluate or predict."""

  cfg: Any
  task: Any
  graph: Any
  params: Any
  mesh: jax.sharding.Mesh
  steps: list[int]


def load_run(
  workdir,
  checkpoint: str,
  *,
  pair: bool = False,
  rows: int | None = None,
  source_lang: str = "",
  target_lang: str = "",
  **decoding,
) -> Run:
  """Loads a run or hf:DIR onto all devices of this machine.

  checkpoint: latest, best, STEP, average:N or average:STEP,STEP,...; hf:DIR has "latest" alone.
  pair: a classifier of hf:DIR reads two texts. rows: of a batch to predict from (None: the task's).
  source_lang, target_lang: of texts that name none ("": the run's). `decoding` changes the settings
  of prediction; raises UserError where the model has fewer positions than they need.
  """
  if not isinstance(pair, bool):
    raise UserError(f"pair is {pair!r}: expects True or False")
  mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
  origin = pretrained.open(workdir)
  task = task_of(origin, rows, source_lang, target_lang, decoding, pair)
  origin.check_sizes(checkpoint)
  graph, like = sharding.split(origin.build(origin.model, task), mesh)
  params, steps = origin.place(checkpoint, like)
  logging.info("%s: checkpoint %s, steps %s", workdir, checkpoint, steps)
  return Run(origin.config, task, graph, params, mesh, steps)


def task_of(
  origin: pretrained.Pretrained,
  rows: int | None,
  source_lang: str,
  target_lang: str,
  decoding: Mapping,
  pair: bool = False,
):
  """Returns the task of a trained model with settings of prediction, see `load_run`."""
  if rows is not None:
    intervals.check("batch_size", rows, int, "[1, inf)")
  strict = decoding.get("generation") == "transformers"
  return origin.task(pair, strict).directed(source_lang, target_lang).configured(rows, **decoding)


class Predictor:
  """A function from inputs to outputs by a trained run: `load(workdir)(["jump twice"])`."""

  def __init__(self, run, settings):
    self.run, self.settings = run, settings
    self.step = make_predict_step(run.task, run.graph)

  def __call__(self, inputs: Sequence) -> list[dict]:
    """Returns a dict with `text` and more for each input.

    An input is a text, a pair of texts (two texts to classify, a question and its context), or an
    example of the task's data.
    """
    examples = self._examples(inputs)
    return evaluation.decode(self.run.task, self._predict, examples, self.settings)

  def arrays(self, inputs: Sequence) -> dict[str, np.ndarray]:
    """Returns what the model computes for the inputs, a row for each of their requests.

    Of searches: `tokens` [R, N, T] (int32, the vocabulary's padding at the end), `scores` and
    `lengths` [R, N]; of classes: `logits` [R, C]; of embeddings: `embedding` [R, D]; of tags and
    answers a value for each token of the request, [R, S]. `input` [R] is the number of a request's
    input, of which a long text has several, its windows; `request_lengths` [R] counts its tokens,
    behind which values of tokens mean nothing.
    """
    run, examples = self.run, self._examples(inputs)
    requests = run.task.requests(examples)
    rows = self._predict(run.task, requests, self.settings)
    index = getattr(requests, "index", None)
    numbers = range(len(rows)) if index is None else [number for number, _ in index]
    pad = run.task.tokenizer.roles.pad
    arrays = {key: _stack([row[key] for row in rows], pad) for key in (rows[0] if rows else ())}
    arrays.pop("row", None)
    lengths = np.asarray(requests.lengths(), np.int32).reshape(-1, 2).max(1)
    return arrays | dict(input=np.asarray(list(numbers), np.int32), request_lengths=lengths)

  def encode(self, texts: Sequence[str], **pooling) -> np.ndarray:
    """Returns a vector for each text, float32 [N, D]: that of an embedding model, or of another
    model's encoder, whose states are pooled.

    `pooling` replaces the settings `pool` (mean, max, or the first or last token's) and `normalize`
    (False) of tasks/embedding.py. Raises UserError for a model without an encoder.
    """
    task = self.run.task
    if isinstance(task, Embedding):
      task = dataclasses.replace(task, **pooling)
    elif not task.source_len:
      raise UserError("this model has no encoder, whose states would be a text's vector")
    else:
      settings = dict(normalize=False) | pooling
      task = Embedding(data={}, tokenizer=task.tokenizer, source_len=task.source_len, **settings)
    encoder = Predictor(dataclasses.replace(self.run, task=task), task.settings())
    return encoder.arrays(texts)["embedding"]

  def _predict(self, task, requests, settings) -> list[dict[str, np.ndarray]]:
    """Returns a row of what the task predicts for each request."""
    run = self.run
    return evaluation.predict(task, self.step, run.params, run.mesh, requests, settings)

  def _examples(self, inputs) -> list[Mapping]:
    """Returns the inputs as examples; raises UserError for what is no list of inputs."""
    if isinstance(inputs, str | Mapping):
      raise UserError(f"{inputs!r} is one input: pass a list of inputs")
    if not isinstance(inputs, Iterable):
      raise UserError(f"{inputs!r} is no list of inputs: pass a list of texts, pairs or dicts")
    return [_example(self.run.task, x) for x in inputs]


def direction(args) -> dict[str, str]:
  """Returns the languages that were given as flags."""
  return {name: code for name in FIELDS if (code := vars(args)[name])}


def _stack(rows: Sequence[np.ndarray], pad: int) -> np.ndarray:
  """Returns rows as one array; behind a shorter one stand nan or, among integers, `pad`."""
  shape = np.max([row.shape for row in rows], axis=0)
  fill = np.nan if np.issubdtype(rows[0].dtype, np.floating) else pad
  whole = np.full((len(rows), *shape), fill, rows[0].dtype)
  for number, row in enumerate(rows):
    whole[(number, *map(slice, row.shape))] = row
  return whole


def on_file(task, file: str, columns: str = ""):
  """Returns the task with a file as its split given.SPLIT, which its other settings read as they
  read the data of the run; of a mixture the part `main` has the file."""
  if isinstance(task, tasks.Mixture):
    main = on_file(tasks.main_part(task), file, columns)
    return dataclasses.replace(task, parts={**task.parts, task.main: main})
  labels = task.labels if task.label_column == "label" and not task.data else ()
  data = given.describe(file, task.data, task.columns, columns, labels)
  return dataclasses.replace(task, data=data)


def limited(task, split: str, count: int):
  """Returns the task with only the first `count` examples of a split, or of each part's."""
  if isinstance(task, tasks.Mixture):
    parts = {name: limited(part, split, count) for name, part in task.parts.items()}
    return dataclasses.replace(task, parts=parts)
  return dataclasses.replace(task, data={**task.data, "limit": {split: count}})


def _example(task, value) -> Mapping:
  """Returns an input as an example; raises UserError for what is none."""
  if isinstance(value, Mapping):
    read = [key for key in task.columns if not given.is_answer(key)]
    if missing := [key for key in read if key not in value]:
      raise UserError(f"the example {value!r} has no {missing[0]!r}, which this task reads")
    for key in read:
      texts = value[key] if key == "words" else [value[key]]
      is_list = isinstance(texts, Sequence) and not isinstance(texts, str)
      if not (is_list and all(isinstance(text, str) for text in texts)):
        kind = "a list of texts" if key == "words" else "a text"
        raise UserError(f"the example {value!r}: {key!r} must be {kind}")
    return value
  texts = [value] if isinstance(value, str) else value
  if (
    not isinstance(texts, Sequence) or not texts or not all(isinstance(text, str) for text in texts)
  ):
    raise UserError(f"{value!r} is no input: pass a text, a pair of texts or a dict")
  return task.example("\t".join(texts))


def load(
  workdir,
  checkpoint="latest",
  *,
  pair: bool = False,
  batch_size: int | None = None,
  source_lang: str = "",
  target_lang: str = "",
  **decoding,
) -> Predictor:
  """Loads the run in `workdir`, or hf:DIR, with the settings of prediction changed by `decoding`.

  checkpoint: as in `load_run`, or a step's number. pair: a classifier of hf:DIR reads two texts.
  The directory does not record how many. batch_size: inputs that are predicted at a time.
  source_lang, target_lang: what a translator of several languages reads and writes ("deu_Latn"),
  where an input, a dict, has no such keys of its own.
  """
  direction = dict(source_lang=source_lang, target_lang=target_lang)
  run = load_run(workdir, str(checkpoint), pair=pair, rows=batch_size, **direction, **decoding)
  return Predictor(run, run.task.settings(**decoding))


def parser(
  doc: str, model: str = "a run's folder, or hf:DIR, a Hugging Face directory"
) -> argparse.ArgumentParser:
  """Returns a parser with the arguments that every use of a run has; `model` is what it may use."""
  parser = entry.make_parser(doc)
  parser.add_argument(
    "--workdir",
    "--model",
    required=True,
    dest="workdir",
    type=paths.of,
    help=model,
  )
  parser.add_argument(
    "--checkpoint",
    default="latest",
    help=CHECKPOINTS,
  )
  return parser


def add_decoding(parser: argparse.ArgumentParser) -> None:
  """Adds a flag for each setting of how the tasks predict (train/tasks), and --batch_size."""
  parser.add_argument("--batch_size", type=int, help="inputs or rows that are computed at a time")
  for name, fields in tasks.prediction_options().items():
    text = "; ".join(dict.fromkeys(field.metadata["help"] for field in fields))
    kind = fields[0].type
    parsed = dict(action="store_true") if kind is bool else dict(type=kind)
    parser.add_argument(f"--{name}", default=None, help=text, **parsed)


def add_data(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that name other data than a run's, --pair, and those of languages."""
  parser.add_argument(
    "--data",
    metavar="FILE",
    help="a file in a form that configs read: .tsv, .csv, .jsonl, CoNLL, SQuAD's JSON, texts, or"
    " source=FILE,target=FILE; a part of it is FILE[:10%%]",
  )
  parser.add_argument(
    "--columns", default="", help="names or numbers of the columns in FILE: review+sentiment, 2+1"
  )
  parser.add_argument("--limit", type=_positive, metavar="N", help="the first N examples alone")
  parser.add_argument("--pair", action="store_true", help="a classifier of hf:DIR reads two texts")
  for name, what in zip(FIELDS, ("sources", "outputs")):
    text = f"the language of {what} for which the data name none (deu_Latn)"
    parser.add_argument(f"--{name}", default="", metavar="CODE", help=text)


def _positive(text: str) -> int:
  """Returns a number from 1; argparse makes a ValueError a message."""
  if (number := int(text)) < 1:
    raise argparse.ArgumentTypeError(f"{text}: give a number from 1")
  return number


def decoding_changes(args) -> dict:
  """Returns the settings of prediction that were given as flags."""
  given = {name: vars(args)[name] for name in tasks.prediction_options()}
  return {name: value for name, value in given.items() if value is not None}
