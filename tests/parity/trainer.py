"""python tests/parity/trainer.py TASK --data DIR --seed N [--scratch] [--no_test] [--out FILE]

Trains the tasks of experiments/minilm.py with `transformers`' Trainer: same weights, examples,
scores and settings, but 32 examples an update where ours packs rows. Needs an environment with
torch, transformers and accelerate beside our requirements (`make parity` makes one). Prints the
test scores of the epoch that was best on validation, and the seconds.
"""

import time

BEGAN = time.monotonic()  # before the imports: our runs are timed from the command's start too

import argparse  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import pathlib  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch is slow on a shared machine without

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from experiments import minilm  # noqa: E402
from train.data import sources  # noqa: E402
from train.data.source import read_many  # noqa: E402
from train.record.config import read as read_config  # noqa: E402
from train.scoring import schemes, scores  # noqa: E402

IGNORED = -100  # torch's label of a token without a label
INPUTS = ("input_ids", "token_type_ids", "attention_mask")  # of which a model may lack the second


class Classes:
  """A class for a text."""

  model = transformers.AutoModelForSequenceClassification
  collator = transformers.DataCollatorWithPadding
  best = "accuracy"

  def __init__(self, tokenizer, train):
    self.tokenizer = tokenizer
    self.names = sorted({example["label"] for example in train})

  def features(self, examples, training):
    del training
    rows = self.tokenizer(
      [example["text"] for example in examples], truncation=True, max_length=128
    )
    labels = [self.names.index(example["label"]) for example in examples]
    return [dict(unzip(rows, i), labels=label) for i, label in enumerate(labels)]

  def score(self, logits, features, examples):
    del features
    predictions = [self.names[best] for best in np.argmax(logits, -1)]
    return scores.classes(predictions, [example["label"] for example in examples])


class Tags:
  """A tag for each word, at its first token."""

  model = transformers.AutoModelForTokenClassification
  collator = transformers.DataCollatorForTokenClassification

  def __init__(self, tokenizer, train):
    self.tokenizer = tokenizer
    self.names = sorted({tag for example in train for tag in example["tags"]})
    self.number = {name: number for number, name in enumerate(self.names)}
    self.best = "f1" if schemes.has_scheme(self.names) else "accuracy"

  def features(self, examples, training):
    features = []
    for example in examples:
      words = example["words"]
      row = self.tokenizer(words, is_split_into_words=True, truncation=True, max_length=128)
      words = [None, *row.word_ids()]
      labels = [
        IGNORED if word is None or word == before else self.number.get(example["tags"][word], 0)
        for before, word in itertools.pairwise(words)
      ]
      features.append(dict(row, labels=labels))
      if not training:  # some words have no token, others are cut off
        features[-1]["seen"] = set(words) - {None}
    return features

  def score(self, logits, features, examples):
    rows = []
    for row, feature, example in zip(logits, features, examples):
      labels = np.array(feature["labels"])
      tags = iter(np.argmax(row[: len(labels)], -1)[labels != IGNORED])
      words = range(len(example["words"]))
      rows.append([self.names[next(tags)] if word in feature["seen"] else "O" for word in words])
    return scores.tags(rows, [example["tags"] for example in examples])


class Answers:
  """The first and last token of an answer, in windows of 256 tokens that begin every 128."""

  model = transformers.AutoModelForQuestionAnswering
  collator = transformers.DataCollatorWithPadding
  best = "f1"
  names = ()

  def __init__(self, tokenizer, train):
    del train
    self.tokenizer = tokenizer

  def features(self, examples, training):
    rows = self.tokenizer(
      [example["question"].strip() for example in examples],
      [example["context"] for example in examples],
      truncation="only_second",
      max_length=256,
      stride=128,
      return_overflowing_tokens=True,
      return_offsets_mapping=True,
    )
    features = []
    for i, number in enumerate(rows["overflow_to_sample_mapping"]):
      spans = [
        span if part == 1 else None
        for span, part in zip(rows["offset_mapping"][i], rows.sequence_ids(i))
      ]
      answer = examples[number]["answers"][0]
      start, stop = answer["answer_start"], answer["answer_start"] + len(answer["text"])
      inside = [
        place for place, span in enumerate(spans) if span and span[0] < stop and span[1] > start
      ]
      first = next(span for span in spans if span)
      last = next(span for span in reversed(spans) if span)
      whole = inside and first[0] <= start and stop <= last[1]
      ends = (inside[0], inside[-1]) if whole else (0, 0)
      feature = {key: rows[key][i] for key in INPUTS if key in rows}
      features.append(feature | dict(start_positions=ends[0], end_positions=ends[1]))
      if not training:
        features[-1] |= dict(spans=spans, example=number)
    return features

  def score(self, logits, features, examples):
    best = [(-np.inf, "")] * len(examples)
    for start_row, end_row, feature in zip(*logits, features):
      spans, context = feature["spans"], examples[feature["example"]]["context"]
      places = [place for place, span in enumerate(spans) if span]
      for start in sorted(places, key=lambda place: -start_row[place])[:20]:
        for end in sorted(places, key=lambda place: -end_row[place])[:20]:
          total = start_row[start] + end_row[end]
          if start <= end < start + 30 and total > best[feature["example"]][0]:
            best[feature["example"]] = total, context[spans[start][0] : spans[end][1]]
    references = [[answer["text"] for answer in example["answers"]] for example in examples]
    return scores.answers([text for _, text in best], references)


def read(data, split):
  """Reads a split with our own reader, so that the examples are the same."""
  source = sources.open_split(data, split)
  return read_many(source, range(len(source)))


def unzip(rows, i):
  return {key: values[i] for key, values in rows.items()}


def open_task(name, data, folder, splits):
  """Returns the tokenizer, the kind of task, its examples by split, and its model's labels."""
  config = f"configs/{minilm.TASKS[name].config}".format(data=data)
  source = read_config(config).task.to_dict()["data"]
  examples = {split: read(source, split) for split in splits}
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  kinds = {"classify": Classes, "tag": Tags, "qa": Answers}
  kind = kinds[minilm.TASKS[name].config.split(".")[0]](tokenizer, examples["train"])
  return tokenizer, kind, examples, dict(num_labels=len(kind.names)) if kind.names else {}


def predict(model, tokenizer, features):
  """Returns logits in the order of features; Trainer's own predict sorts them by length."""
  logits = []
  model.eval()
  for start in range(0, len(features), 64):
    rows = features[start : start + 64]
    batch = [{key: row[key] for key in INPUTS if key in row} for row in rows]
    with torch.no_grad():
      output = model(**tokenizer.pad(batch, return_tensors="pt").to(model.device))
    ends = "logits" not in output
    logits.append((output.start_logits, output.end_logits) if ends else output.logits)
  if isinstance(logits[0], tuple):
    return [[row for part in side for row in part.cpu().numpy()] for side in zip(*logits)]
  return [row for part in logits for row in part.cpu().numpy()]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[2])
  parser.add_argument("task", choices=minilm.TASKS)
  parser.add_argument("--data", required=True)
  parser.add_argument("--model", default=minilm.MODEL)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--scratch", action="store_true")
  parser.add_argument("--max_steps", type=int, default=-1, help="for a trial")
  parser.add_argument("--no_test", action="store_true", help="scores validation alone")
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  task = minilm.TASKS[args.task]
  splits = ("train", "validation") if args.no_test else ("train", "validation", "test")
  transformers.set_seed(args.seed)
  tokenizer, kind, examples, labels = open_task(args.task, args.data, args.model, splits)
  if args.scratch:
    config = transformers.AutoConfig.from_pretrained(args.model, **labels)
    model = kind.model.from_config(config)
  else:
    model = kind.model.from_pretrained(args.model, **labels)
  held_out = kind.features(examples["validation"], training=False)
  best = {"score": -np.inf}

  class KeepBest(transformers.TrainerCallback):
    """Scores the validation set after each epoch, as our runs do."""

    def on_step_end(self, args, state, control, **unused):
      if state.global_step == 1:
        print("first step", flush=True)  # which experiments/benchmark/start.py waits for

    def on_epoch_end(self, *unused, **also_unused):
      results = kind.score(predict(model, tokenizer, held_out), held_out, examples["validation"])
      print(results, flush=True)
      if results[kind.best] > best["score"]:
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        best.update(score=results[kind.best], weights=weights)

  with tempfile.TemporaryDirectory() as folder:
    settings = transformers.TrainingArguments(
      folder,
      seed=args.seed,
      per_device_train_batch_size=task.batch,
      train_sampling_strategy="group_by_length",
      num_train_epochs=task.epochs,
      max_steps=args.max_steps,
      learning_rate=minilm.PEAKS["scratch" if args.scratch else "pretrained"],
      lr_scheduler_type="linear",
      warmup_steps=0.1,
      weight_decay=0.0,
      max_grad_norm=1.0,
      save_strategy="no",
      report_to="none",
      logging_steps=100,
      disable_tqdm=True,
      use_cpu=not torch.cuda.is_available(),
      tf32=torch.cuda.is_available() or None,  # as XLA multiplies float32 on a GPU
    )
    trainer = transformers.Trainer(
      model,
      settings,
      train_dataset=kind.features(examples["train"], training=True),
      data_collator=kind.collator(tokenizer),
      processing_class=tokenizer,
      callbacks=[KeepBest()],
    )
    trainer.train()
  model.load_state_dict(best["weights"])
  if args.no_test:
    return
  test = kind.features(examples["test"], training=False)
  results = kind.score(predict(model, tokenizer, test), test, examples["test"])
  seconds = round(time.monotonic() - BEGAN, 1)
  record = dict(task=args.task, seed=args.seed, scratch=args.scratch, seconds=seconds, **results)
  print(json.dumps(record))
  if args.out:
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
