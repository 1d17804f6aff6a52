"""Trains a Marian model of random weights by transformers' Seq2SeqTrainer, for
experiments/benchmark/train.py."""

import json
import pathlib
import sys
import tempfile

import torch
import transformers

from experiments.benchmark.sides import serve, stopwatch

BATCH = 64  # sentences of an update
WARM = 2  # first updates of a call, which are not timed
SETTINGS = dict(
  per_device_train_batch_size=BATCH,
  learning_rate=1e-3,
  label_smoothing_factor=0.1,
  optim="adamw_torch_fused",
  save_strategy="no",
  report_to="none",
  logging_steps=1000,
  disable_tqdm=True,
  use_cpu=not torch.cuda.is_available(),
)


class Collator:
  """Pads pairs to the longest of a batch, and keeps the number of target tokens of each batch."""

  def __init__(self, pad, model):
    self.pad, self.model, self.tokens = pad, model, []

  def __call__(self, features):
    rows = {}
    fills = dict(input_ids=self.pad, attention_mask=0, labels=-100)
    for name, fill in fills.items():
      values = [torch.tensor(feature[name]) for feature in features]
      rows[name] = torch.nn.utils.rnn.pad_sequence(values, True, fill)
    self.tokens.append(int((rows["labels"] != -100).sum()))
    inputs = self.model.prepare_decoder_input_ids_from_labels(labels=rows["labels"])
    return rows | dict(decoder_input_ids=inputs)


class Clock(transformers.TrainerCallback):
  """Measures the updates behind the first WARM ones."""

  def on_step_end(self, args, state, control, **more):
    if state.global_step == WARM:
      self.block = stopwatch()
      self.elapsed = self.block.__enter__()
    self.took = self.elapsed() if state.global_step > WARM else None


def build(data, shape):
  """Returns a Marian model of the shape that experiments/benchmark/train.py gives."""
  sizes = dict(d_model=shape["dim"], max_position_embeddings=512, activation_function="relu")
  for side in ("encoder", "decoder"):
    sizes |= {
      f"{side}_layers": shape[f"{side}_layers"],
      f"{side}_attention_heads": shape["num_heads"],
      f"{side}_ffn_dim": shape["mlp_dim"],
    }
  config = transformers.MarianConfig(
    vocab_size=data["vocab_size"],
    dropout=0.1,
    attention_dropout=0.0,
    activation_dropout=0.0,
    scale_embedding=True,
    pad_token_id=data["pad"],
    eos_token_id=data["eos"],
    decoder_start_token_id=data["start"],
    attn_implementation="sdpa",
    **sizes,
  )
  return transformers.MarianMTModel(config)


def multiply(size, times=4):
  """Times products of two large matrices."""
  x = torch.ones(size, size)
  with torch.inference_mode():
    x @ x
    with stopwatch() as elapsed:
      for _ in range(times):
        x @ x
      took = elapsed()._asdict()
  return took | dict(flops=2 * times * size**3)


def main(pairs, shape):
  data = json.loads(pathlib.Path(pairs).read_text("utf-8"))
  examples = [
    dict(input_ids=source, attention_mask=[1] * len(source), labels=target)
    for source, target in data["pairs"]
  ]
  model = build(data, json.loads(shape))

  def train(steps, sampling):
    collator, clock = Collator(data["pad"], model), Clock()
    with tempfile.TemporaryDirectory() as folder:
      settings = transformers.Seq2SeqTrainingArguments(
        folder, max_steps=steps + WARM, train_sampling_strategy=sampling, **SETTINGS
      )
      parts = dict(train_dataset=examples, data_collator=collator, callbacks=[clock])
      transformers.Seq2SeqTrainer(model, settings, **parts).train()
    return clock.took._asdict() | dict(tokens=sum(collator.tokens[WARM : WARM + steps]))

  serve(train=train, multiply=multiply)


if __name__ == "__main__":
  main(*sys.argv[1:])
