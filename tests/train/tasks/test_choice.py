"""Multiple choice and replaced tokens: their losses, predictions and scores."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from model.config import TransformerConfig
from model.transformer import Transformer
from tests.helpers import FIXTURES
from tests.train.tasks.helpers import first_batch
from train import predict, tasks
from train.common.errors import UserError
from train.data import choices
from train.tasks import defaults


def test_choices_of_packed_examples_compete_with_each_other_alone(tmp_path):
  """The loss of a batch of packed rows is that of each example's choices, read one by one."""
  rng = np.random.default_rng(0)
  rows = [
    dict(text="a dog", choices=["runs", "jumps on the ball", "sees"][: 2 + i % 2], label=i % 2)
    for i in range(6)
  ]
  (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  splits, columns = dict(train=str(tmp_path / "train.jsonl")), ("text", "choices", "label")
  data = dict(name="files", splits=splits, columns=columns)
  section = defaults("choice") | dict(data=data, tokenizer=dict(name="word"))
  task = tasks.build(ConfigDict(section | dict(source_len=64, choice_len=12)), tmp_path)
  cfg = TransformerConfig(
    vocab_size=task.tokenizer.vocab_size, dim=16, num_heads=2, mlp_dim=16, encoder_layers=1,
    decoder_layers=0, max_len=12, positions="learned",
  )  # fmt: skip
  model = Transformer(cfg, rngs=nnx.Rngs(0))
  model.head = task.head(cfg, nnx.Rngs(0))
  noise = jnp.asarray(rng.normal(size=model.head.labels.kernel.shape), jnp.float32)
  model.head.labels.kernel[...] = noise
  batch = first_batch(task)
  assert batch["source_segments"].max() > 1
  sums = task.loss(model, batch, None)
  expected = 0.0
  for row in rows:
    requests = task.requests([row])
    logits = []
    for item in requests.read(range(len(row["choices"])), range(len(row["choices"]))):
      source = np.asarray([item["source"]])
      ones = np.ones_like(source)
      logits.append(float(model.head(model.encode(source, ones), ones)[0, 0, 0]))
    expected -= float(jax.nn.log_softmax(jnp.asarray(logits))[row["label"]])
  assert float(sums["loss"][1]) == len(rows)
  np.testing.assert_allclose(float(sums["loss"][0]), expected, rtol=1e-5)


@pytest.mark.parametrize(
  "example, words",
  [
    (dict(choices=["a"]), "two texts or more"),
    (dict(choices='["a", 2]'), "two texts or more"),
    (dict(choices=["a", "b"], label="c"), "'c' is none of the 2 choices"),
    (dict(choices=["a", "b"], label="2"), "'2' is none of the 2 choices"),
  ],
)
def test_an_example_without_choices_is_named(example, words):
  with pytest.raises(UserError, match=words):
    choices.find_label(dict(text="x") | example)


def test_a_right_choice_is_a_number_or_the_text():
  example = dict(text="x", choices='["a", "b"]')
  assert [choices.find_label(example | dict(label=x)) for x in ("0", 1, "b")] == [0, 1, 1]
  assert choices.find_label(example) == -1


def test_a_long_example_names_the_settings(tmp_path):
  row = dict(text="a dog", choices=["runs far", "jumps"], label=0)
  (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
  data = dict(name="files", splits=dict(train=str(tmp_path / "train.jsonl")))
  data["columns"] = ("text", "choices", "label")
  section = defaults("choice") | dict(data=data, tokenizer=dict(name="word"), source_len=8)
  with pytest.raises(UserError, match=r"task.choice_len=128; task.source_len=8"):
    tasks.build(ConfigDict(section), tmp_path).items("train")


def test_replaced_tokens_are_marked():
  pipeline = predict.load(f"hf:{FIXTURES / 'electra_replaced'}")
  (output,) = pipeline(["The lazy fox jumps."])
  marked = [f"[{x}]" if p > 0.5 else x for x, p in zip(output["tokens"], output["probs"])]
  assert output["text"] == " ".join(marked)
  assert len({p > 0.5 for p in output["probs"]}) == 2
  scored = pipeline.run.task.render(output, scores=True, colour=False).split()
  assert scored[0] == f"{output['tokens'][0]}/{output['probs'][0]:.4f}"
