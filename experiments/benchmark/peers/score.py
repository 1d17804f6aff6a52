"""Scores a validation split by transformers, sorted by length, 64 rows a batch, for
experiments/benchmark/finetune.py."""

import sys

from experiments.benchmark.sides import serve
from tests.parity import trainer


def main(name, data, folder):
  tokenizer, kind, examples, labels = trainer.open_task(name, data, folder, ("train", "validation"))
  model = kind.model.from_pretrained(folder, **labels)

  def score():
    features = kind.features(examples["validation"], training=False)
    features.sort(key=lambda feature: -len(feature["input_ids"]))
    trainer.predict(model, tokenizer, features)

  serve(score=score)


if __name__ == "__main__":
  main(*sys.argv[1:])
