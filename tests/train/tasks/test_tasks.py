"""What holds for every objective: packed = separate, and one batch can be learned by heart."""

import functools
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from ml_collections import ConfigDict

from train import tasks
from train.build import build_model
from train.data.batches import Batches, Layout, eval_batches
from train.record.meter import means
from train.step import make_eval_step, make_train_step
from train.tasks import defaults

NOUNS = ("man", "dog", "cat", "ball", "house")
WORDS = (*NOUNS, "a", "the", "red", "blue", "runs", "sees", "jumps", "on", "two", "with", "green")
TAGS = {word: "NP" if word in NOUNS else "O" for word in WORDS}
MODEL = dict(
  name="transformer",
  dim=32,
  num_heads=2,
  mlp_dim=48,
  norm_position="pre",
  positions="rotary",
  dropout=0.0,
)
LSTM = dict(name="lstm", dim=32, dropout=0.0)
MASKS = dict(name="word", special=("<mask>",), sentinels=20)
ENCODER = dict(encoder_layers=1, decoder_layers=0)
DECODER = dict(encoder_layers=0, decoder_layers=1)
BOTH = dict(encoder_layers=1, decoder_layers=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Made-up files of each kind: text, classes, numbers, tags, questions."""
  folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
  lines = [rng.choices(WORDS, k=rng.randint(4, 14)) for _ in range(40)]
  (folder / "train.txt").write_text("\n\n".join(map(" ".join, lines)))
  rows = [f"{' '.join(line)}\t{'dog' if 'dog' in line else 'none'}\n" for line in lines]
  (folder / "classes.tsv").write_text("".join(rows))
  rows = [f"{' '.join(line)}\t{len(line) / 4}\n" for line in lines]
  (folder / "numbers.tsv").write_text("".join(rows))
  rows = ["".join(f"{word}\t{TAGS[word]}\n" for word in line) for line in lines]
  (folder / "tags.conll").write_text("\n".join(rows))
  paragraphs = []
  for i, line in enumerate(lines):
    text, word = " ".join(line), rng.choice(line)
    answer = [{"text": word, "answer_start": text.index(word)}]
    ask = {"id": str(i), "question": f"{word} with the", "answers": answer if i % 5 else []}
    paragraphs.append({"context": text, "qas": [ask | {"is_impossible": not i % 5}]})
  squad = {"data": [{"paragraphs": paragraphs}]}
  (folder / "questions.json").write_text(json.dumps(squad))
  return folder


def text(folder):
  return dict(name="text", splits=dict(train=f"{folder}/train.txt"), unit="paragraph")


def table(path):
  return dict(name="files", splits=dict(train=str(path)), columns=("text", "label"))


def pairs(folder):
  return dict(
    name="formatted", of=table(folder / "classes.tsv"), source="class: {text}", target="{label}"
  )


def mixed(folder):
  """The parts of a mixture: captions to classify as text, and to denoise."""
  lengths = ("tokenizer", "source_len", "target_len", "pack")
  denoising = {key: value for key, value in defaults("span").items() if key not in lengths}
  labels = {key: value for key, value in defaults("translation").items() if key not in lengths}
  return dict(
    labels=labels | dict(data=pairs(folder), label_smoothing=0.0, share=0.5),
    denoising=denoising | dict(data=text(folder), length=16, share=0.5),
  )


# name -> (the data under a folder, what differs from the section, what differs in the model)
KINDS = {
  "mlm": (text, defaults("mlm") | dict(source_len=24, rate=0.3), ENCODER),
  "causal": (text, defaults("causal") | dict(target_len=24, cross_documents=False), DECODER),
  "prefix decoder": (
    text,
    defaults("causal") | dict(target_len=24, cross_documents=False, prefix=True),
    DECODER,
  ),
  "span": (text, defaults("span") | dict(length=16, source_len=24, target_len=24), BOTH),
  "prefix": (
    text,
    defaults("span") | dict(style="prefix", length=16, source_len=24, target_len=24),
    BOTH,
  ),
  **{
    style: (
      text,
      defaults("span") | dict(style=style, length=16, source_len=24, target_len=24),
      BOTH,
    )
    for style in ("drop", "mask", "bert", "deshuffle")
  },
  "text to text": (
    pairs,
    defaults("text_to_text") | dict(source_len=24, target_len=8),
    BOTH,
  ),
  "mixture": (
    mixed,
    dict(name="mixture", main="labels", source_len=24, target_len=24, pack=True),
    BOTH,
  ),
  "classes": (
    lambda folder: table(folder / "classes.tsv"),
    defaults("classification") | dict(source_len=24),
    ENCODER,
  ),
  "windows of classes": (
    lambda folder: table(folder / "classes.tsv"),
    defaults("classification") | dict(source_len=10, stride=4, pool="mean"),
    ENCODER,
  ),
  "regression": (
    lambda folder: table(folder / "numbers.tsv"),
    defaults("classification") | dict(source_len=24, regression=True),
    ENCODER,
  ),
  "tagging": (
    lambda folder: dict(name="conll", splits=dict(train=f"{folder}/tags.conll")),
    defaults("tagging") | dict(source_len=24, stride=12),
    ENCODER,
  ),
  "qa": (
    lambda folder: dict(name="squad", splits=dict(train=f"{folder}/questions.json")),
    defaults("qa") | dict(source_len=24, stride=6),
    ENCODER,
  ),
}


def plain(name):
  """Returns the entry of an objective on plain texts, with its defaults and short rows."""
  lengths = {key: 24 for key in ("source_len", "target_len") if key in defaults(name)}
  depths = {"encoder_layers": "source_len", "decoder_layers": "target_len"}
  depths = {layers: int(length in lengths) for layers, length in depths.items()}
  return text, defaults(name) | lengths, depths


# A new objective needs no entry. Translation is in the mixture, and an embedding learns nothing.
TESTED = {section["name"] for _, section, _ in KINDS.values()} | {"translation", "embedding"}
KINDS |= {name: plain(name) for name in tasks.TASKS if name not in TESTED}

# Of an LSTM one of each head and of each kind of stack.
BY_LSTM = ("mlm", "causal", "prefix", "text to text", "mixture", "classes", "tagging", "qa")
every_kind = pytest.mark.parametrize(
  "name, body",
  [*((name, MODEL) for name in KINDS), *((name, LSTM) for name in BY_LSTM)],
  ids=[*KINDS, *(f"{name} by an lstm" for name in BY_LSTM)],
)


def build(name, data, folder, body=MODEL):
  """The task and a model for it: its graph and weights."""
  source, section, model = KINDS[name]
  key = "parts" if name == "mixture" else "data"
  task = tasks.build(ConfigDict(section | {key: source(data), "tokenizer": MASKS}), folder)
  return task, *split(body | model, task)


def split(model, task):
  graph, state = nnx.split(build_model(model, task, seed=0))
  return graph, nnx.to_pure_dict(state)


def layout(task, **changes):
  return Layout(
    **dict(batch_size=4, source_len=task.source_len, target_len=task.target_len, pack=True)
    | changes
  )


@every_kind
def test_packed_rows_lose_what_separate_rows_lose(name, body, data, tmp_path):
  task, graph, params = build(name, data, tmp_path, body)
  # a fresh model's biases and heads are alike everywhere: shake it
  params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params)
  # rows twice as long as a window, where a task does not hold them to be as long
  wide = dict(source_len=2 * task.source_len) if "stride" in KINDS[name][1] else {}
  step, totals, rows = make_eval_step(task, graph), [], []
  for pack in (True, False):
    shape = layout(task, pack=pack, **wide)
    batches = list(eval_batches(task.items("train"), shape))
    sums = [jax.device_get(step(params, batch)) for batch in batches]
    totals.append(jax.tree.map(lambda *parts: np.float64(sum(parts)), *sums))
    rows.append(len(batches))
  assert rows[0] < 0.8 * rows[1]  # something was packed
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5), *totals)


@every_kind
def test_a_batch_is_learned_by_heart(name, body, data, tmp_path):
  task, graph, params = build(name, data, tmp_path, body)
  with Batches(task.items("train"), layout(task, batch_size=2), seed=0) as stream:
    batch = next(stream)
  tx = optax.adam(1e-2)
  step = make_train_step(task, graph, tx, microbatches=1, seed=0)
  state, losses = dict(step=jnp.int32(0), params=params, opt_state=tx.init(params)), []
  for _ in range(60):
    state, sums = step(state, batch)
    losses.append(means(sums)["loss"])
  assert losses[-1] < 0.1 * losses[0]
