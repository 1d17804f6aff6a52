"""Builds every task on made-up data, with a small model and the layout of its batches."""

import json
import random

from flax import nnx
from ml_collections import ConfigDict

from train import tasks
from train.build import build_model
from train.data.batches import Layout, eval_batches
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


def write_data(folder):
  """Writes made-up files of each kind: text, classes, numbers, tags, questions."""
  rng = random.Random(0)
  lines = [rng.choices(WORDS, k=rng.randint(4, 14)) for _ in range(40)]
  (folder / "train.txt").write_text("\n\n".join(map(" ".join, lines)))
  rows = [f"{' '.join(line)}\t{'dog' if 'dog' in line else 'none'}\n" for line in lines]
  (folder / "classes.tsv").write_text("".join(rows))
  rows = [f"{' '.join(line)}\t{len(line) / 4}\n" for line in lines]
  (folder / "numbers.tsv").write_text("".join(rows))
  rows = [f"{' '.join(line)}\t{','.join(sorted({*line} & {*NOUNS}))}\n" for line in lines]
  (folder / "sets.tsv").write_text("".join(rows))
  rows = [f"{' '.join(line)}\t{len(line) / 4}\t{line.count('a')}\n" for line in lines]
  (folder / "vectors.tsv").write_text("text\tsize\tarticles\n" + "".join(rows))
  rows = ["".join(f"{word}\t{TAGS[word]}\n" for word in line) for line in lines]
  (folder / "tags.conll").write_text("\n".join(rows))
  texts = list(map(" ".join, lines))
  rows = [dict(text=x, choices=[x[:20], "a dog"], label=0) for x in texts]
  (folder / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  paragraphs = []
  for i, line in enumerate(lines):
    text, word = " ".join(line), rng.choice(line)
    answer = [{"text": word, "answer_start": text.index(word)}]
    ask = {"id": str(i), "question": f"{word} with the", "answers": answer if i % 5 else []}
    paragraphs.append({"context": text, "qas": [ask | {"is_impossible": not i % 5}]})
  squad = {"data": [{"paragraphs": paragraphs}]}
  (folder / "questions.json").write_text(json.dumps(squad))


def text(folder):
  return dict(name="text", splits=dict(train=f"{folder}/train.txt"), unit="paragraph")


def table(path, columns=("text", "label")):
  return dict(name="files", splits=dict(train=str(path)), columns=columns)


TARGETS = {"text": "text", "label_0": "size", "label_1": "articles"}


def pairs(folder):
  return dict(
    name="formatted", of=table(folder / "classes.tsv"), source="class: {text}", target="{label}"
  )


def mixed(folder):
  """Returns the parts of a mixture: captions to classify as text, and to denoise."""
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
  "label sets": (
    lambda folder: table(folder / "sets.tsv", ("text", "labels")),
    defaults("multi_label") | dict(source_len=24),
    ENCODER,
  ),
  "vectors": (
    lambda folder: table(folder / "vectors.tsv", TARGETS),
    defaults("numbers") | dict(source_len=24, targets=("size", "articles")),
    ENCODER,
  ),
  "tagging": (
    lambda folder: dict(name="conll", splits=dict(train=f"{folder}/tags.conll")),
    defaults("tagging") | dict(source_len=24, stride=12),
    ENCODER,
  ),
  "choice": (
    lambda folder: table(folder / "choices.jsonl", ("text", "choices", "label")),
    defaults("choice") | dict(source_len=48, choice_len=20),
    ENCODER,
  ),
  "qa": (
    lambda folder: dict(name="squad", splits=dict(train=f"{folder}/questions.json")),
    defaults("qa") | dict(source_len=24, stride=6),
    ENCODER,
  ),
}


def plain(name):
  """Returns the entry of an objective with its defaults and short rows, on texts or on pairs."""
  lengths = {key: 24 for key in ("source_len", "target_len") if key in defaults(name)}
  depths = {"encoder_layers": "source_len", "decoder_layers": "target_len"}
  depths = {layers: int(length in lengths) for layers, length in depths.items()}
  is_paired = {"source", "target"} <= {*tasks.TASKS[name].columns}
  return pairs if is_paired else text, defaults(name) | lengths, depths


# A new objective needs no entry. Translation is in the mixture, and the others learn nothing.
TESTED = {section["name"] for _, section, _ in KINDS.values()}
TESTED |= {"translation", "embedding", "replaced"}
KINDS |= {name: plain(name) for name in tasks.TASKS if name not in TESTED}


def build(name, data, folder, body=MODEL, **changes):
  """Builds a task of KINDS with `changes`; returns it with the graph and the weights of a model."""
  source, section, model = KINDS[name]
  key = "parts" if name == "mixture" else "data"
  section = section | {key: source(data), "tokenizer": MASKS} | changes
  task = tasks.build(ConfigDict(section), folder)
  return task, *split(body | model, task)


def split(model, task):
  graph, state = nnx.split(build_model(model, task, seed=0))
  return graph, nnx.to_pure_dict(state)


def layout(task, **changes):
  sizes = dict(batch_size=4, source_len=task.source_len, target_len=task.target_len, pack=True)
  return Layout(**sizes | dict(most_hidden=task.most_hidden) | changes)


def first_batch(task):
  return next(iter(eval_batches(task.items("train"), layout(task))))
