"""Compares what an export answers with what its source answers, on inputs of the run's data."""

import importlib.util
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from train import evaluation, inference
from train.common.errors import UserError, indented
from train.data import languages
from train.interop import served

COUNT = 20  # inputs
NEAR = 1e-4  # difference of log-probabilities, or of other numbers, that rounding may explain
LONGEST = 128  # tokens of an output that are compared
PROMPT = 30  # characters
PACKAGES = dict(hf=("transformers", "torch"), ctranslate2=("ctranslate2",))
WORDS = (
  "A dog runs through the red garden .",
  "Who wrote the first letter of the year ?",
  "I have read this book twice and liked it .",
  "The price rose by 3 percent in May .",
)


def check(workdir, checkpoint: str, folder: pathlib.Path, form: str, task, decoding: Any) -> str:
  """Compares the export in `folder`, of the format `form`, with the model in `workdir`.

  `task` is the source's task and `decoding` the exported settings of generation. Returns a sentence
  with the result. Raises UserError, with the inputs, if outputs differ by more than rounding.
  """
  missing = [name for name in PACKAGES[form] if importlib.util.find_spec(name) is None]
  if missing:
    return (
      f"not checked: {' and '.join(missing)} is not installed (pip install {' '.join(missing)})"
    )
  if task.hf_kind == "choice":
    return "not checked: a model of choices is not compared with others' answers"
  roles = task.tokenizer.roles
  if decoding and any(languages.lacks(roles, field) for field in languages.FIELDS):
    return "not checked: the model has several languages, and no direction of its own"
  examples = inputs(task)
  settings = {}
  if decoding:
    longest = min(decoding.max_len_extra, LONGEST)
    settings = dict(beam=1, nbest=1, max_len_ratio=0.0, max_len_extra=longest)
  predictor = inference.load(workdir, checkpoint, **settings)
  run = predictor.run
  name = "transformers" if form == "hf" else "CTranslate2"
  ours = _outputs(run, predictor.step, examples, predictor.settings)
  try:
    serve = served.OPENED[form](folder, run.task, settings)
    _check_tokens(serve, run.task, examples)
    theirs = _outputs(run, serve.step, examples, predictor.settings)
  except UserError:
    raise
  except Exception as error:
    raise UserError(
      f"{name} fails on the export ({type(error).__name__}: {error}), and nothing was written;"
      " --no-check writes it all the same"
    ) from error
  wrong, near = [], 0
  for example, (a, x), (b, y) in zip(examples, zip(*ours), zip(*theirs)):
    if a["text"] == b["text"]:
      continue
    if is_near(run, x, y):
      near += 1
    else:
      wrong.append(f"{example}: {a['text'][:80]!r} here, {b['text'][:80]!r} there")
  if wrong:
    raise UserError(
      f"{name} gives other outputs than the source for {len(wrong)} of {len(examples)} inputs, and"
      f" nothing was written (--no-check writes it all the same):{indented(wrong, 5)}"
    )
  ties = f", {near} of them but for near ties" if near else ""
  how = "greedy outputs" if decoding else "outputs"
  return f"{name} gives the same {how} for {len(examples)} inputs{ties}"


def inputs(task) -> list[Mapping]:
  """Returns examples of the run's data without their answers, or made-up ones without data."""
  examples = []
  for split in ("test", "validation", "train"):
    try:
      source = task.examples(split)
      examples = [source[i] for i in range(min(COUNT, len(source)))]
      break
    except Exception as error:  # no such split, or data of another machine
      logging.debug("no inputs to check with in %s: %s", split, error)
  if not examples:
    texts = [" ".join(words) for words in itertools.permutations(WORDS, 2)]
    values = itertools.cycle(texts + list(WORDS))
    columns = [key for key in task.columns if key != task.label_column]
    examples = [
      {key: next(values).split() if key == "words" else next(values) for key in columns}
      for _ in range(COUNT)
    ]
  kind = task.hf_kind
  if kind in ("mlm", "causal"):
    return [{"text": _cut(task, examples, number)} for number in range(COUNT)]
  return examples


def _cut(task, examples, number: int) -> str:
  """Returns a part of a text: the start of a line, or with a mask for one of its words."""
  lines = examples[number % len(examples)]["text"].split("\n\n")
  line = lines[(7 * number) % len(lines)]
  if task.hf_kind == "causal":
    return line[:PROMPT]
  words = line.split()[:12] or ["a"]
  words[number % len(words)] = task.tokenizer.mask_name
  return " ".join(words)


def _outputs(run, step: Callable, examples, settings) -> tuple[list[dict], list[dict]]:
  """Returns the outputs of the examples by `step`, and the predictions that they are made of."""
  requests = run.task.requests(examples)
  predictions = evaluation.predict(run.task, step, run.params, run.mesh, requests, settings)
  outputs = run.task.outputs(examples, requests, predictions, settings)
  numbers = _owners(requests, len(examples))
  return outputs, [
    dict(
      parts=[predictions[i] for i in mine],
      sources=[requests.read([i], [0])[0]["source"] for i in mine],
    )
    for mine in numbers
  ]


def _owners(requests, count: int) -> list[list[int]]:
  """Returns the numbers of the requests of each example: a long text may have several windows."""
  index = getattr(requests, "index", None)
  if index is None:
    return [[i] for i in range(count)]
  owned: list[list[int]] = [[] for _ in range(count)]
  for number, (example, _) in enumerate(index):
    owned[example].append(number)
  return owned


def is_near(run, ours: Mapping, theirs: Mapping) -> bool:
  """Returns whether two predictions differ by rounding alone."""
  for source, x, y in zip(ours["sources"], ours["parts"], theirs["parts"]):
    if "lengths" in x:
      if not _is_tie(run, source, *(part["tokens"][0].tolist() for part in (x, y))):
        return False
    elif any(
      np.abs(np.asarray(x[key], np.float32) - np.asarray(y[key], np.float32)).max() > NEAR
      for key in x
      if np.issubdtype(np.asarray(x[key]).dtype, np.floating)
    ):
      return False
  return True


def _is_tie(run, source, ours: Sequence[int], theirs: Sequence[int]) -> bool:
  """Returns whether the first tokens that differ have log-probabilities within NEAR."""
  pairs = list(zip(ours, theirs))
  at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
  if at is None:
    return True
  model, roles = nnx.merge(run.graph, run.params), run.task.tokenizer.roles
  before = list(ours[:at])
  if model.cfg.encoder_layers:
    forced = roles.target_first if roles.force else ()
    source_BS = jnp.asarray([source])
    ids_BT = jnp.asarray([[roles.start, *forced, *before]])
    memory, seen = model.encode(source_BS, jnp.ones_like(source_BS)), jnp.ones_like(source_BS)
    x_BTD = model.decode(ids_BT, memory, seen, jnp.ones_like(ids_BT))
  else:
    ids_BT = jnp.asarray([[*source, *before]])
    x_BTD = model.decode(ids_BT, segments=jnp.ones_like(ids_BT))
  log_V = jax.nn.log_softmax(model.logits(x_BTD)[0, -1])
  return bool(abs(log_V[ours[at]] - log_V[theirs[at]]) <= NEAR)


def _check_tokens(serve, task, examples) -> None:
  """Raises UserError where the exported tokenizer gives other ids of a text than the source's."""
  if serve.encode is None:
    return
  for example in examples:
    texts = _texts(task, example)
    requests = task.requests([example])
    if texts is None or len(requests.lengths()) != 1:
      continue
    ids = list(requests.read([0], [0])[0]["source"])
    if len(ids) < (task.source_len or task.target_len) and (theirs := serve.encode(*texts)) != ids:
      raise UserError(
        f"the exported tokenizer gives {texts} other ids than the source's: {theirs[:20]} for"
        f" {[int(i) for i in ids[:20]]}, and nothing was written"
      )


def _texts(task, example) -> tuple[str, ...] | None:
  """Returns the texts that a tokenizer takes for an example; None for a list of words."""
  for fields in (getattr(task, "fields", ()), ("question", "context"), ("source",), ("text",)):
    if fields and all(isinstance(example.get(field), str) for field in fields):
      return tuple(example[field] for field in fields)
  return None
