"""Each objective's loss against a slower or plainer way to compute it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from model import heads
from model.config import TransformerConfig
from tests.train.tasks.helpers import (
  DECODER,
  ENCODER,
  KINDS,
  MASKS,
  MODEL,
  build,
  first_batch,
  layout,
  mixed,
  split,
)
from train import losses, tasks
from train.common.errors import UserError
from train.data.batches import eval_batches
from train.record import meter
from train.scoring import scores
from train.tasks import class_weights, defaults


def test_masked_loss_is_that_of_the_logits_of_all_tokens(data, tmp_path):
  task, graph, params = build("mlm", data, tmp_path)
  model, batch = nnx.merge(graph, params), first_batch(task)
  x_BSD = model.encode(batch["source"], batch["source_segments"], batch["source_positions"])
  everywhere = losses.cross_entropy(
    model.logits(model.head(x_BSD)), batch["labels"], jnp.asarray(batch["weights"])
  )
  sums = task.loss(model, batch, None)
  for name in ("loss", "nll", "right"):
    np.testing.assert_allclose(sums[name], everywhere[name], rtol=1e-5)


@pytest.mark.parametrize("name", ["mlm", "electra"])
def test_short_texts_have_a_hidden_token_each_and_all_count(name, tmp_path):
  (tmp_path / "train.txt").write_text("\n\n".join(["the cat sat", "dog ran"] * 20))
  task, graph, params = build(name, tmp_path, tmp_path)
  count = 0.0
  for batch in eval_batches(task.items("train"), layout(task)):
    assert (batch["weights"] > 0).sum() > 0
    count += task.loss(nnx.merge(graph, params), batch, None)["nll"][1]
  assert count == 40


def test_bits_per_byte_divide_by_the_bytes_of_the_text(data, tmp_path):
  counts = {}
  for name in ("word", "char", "byte"):
    section = KINDS["causal"][1] | dict(data=KINDS["causal"][0](data), tokenizer=dict(name=name))
    section |= dict(target_len=120)
    (tmp_path / name).mkdir()
    task = tasks.build(ConfigDict(section), tmp_path / name)
    graph, params = split(MODEL | DECODER, task)
    total = weight = bits = 0.0
    for batch in eval_batches(task.items("train"), layout(task)):
      sums = task.loss(nnx.merge(graph, params), batch, None)
      total, bits = total + sums["nll"][0], bits + sums["bits_per_byte"][0]
      weight += sums["bits_per_byte"][1]
    np.testing.assert_allclose(bits, total / math.log(2), rtol=1e-6)
    counts[name] = weight
  documents = (data / "train.txt").read_text().split("\n\n")
  assert counts["char"] == counts["byte"] == sum(len(text.encode()) for text in documents)
  # a word counts the blank behind it, which the last word of a document has not
  assert counts["word"] == counts["byte"] + len(documents)


def changed_outputs(task, graph, params, batch, place):
  """Returns which outputs [T] of the first row change with the input at `place`."""
  model = nnx.merge(graph, params)

  def outputs(inputs):
    return model.decode(
      inputs, None, None, batch["segments"], batch["positions"], prefix=batch.get("prefix")
    )[0]

  other = np.array(batch["inputs"])
  other[0, place] = other[0, place] % 7 + 8
  difference = outputs(jnp.asarray(batch["inputs"])) - outputs(jnp.asarray(other))
  return np.abs(np.asarray(difference)).max(-1) > 1e-6


@pytest.mark.parametrize("name", ["causal", "prefix decoder"])
def test_only_a_prefix_is_seen_by_what_stands_before_it(name, data, tmp_path):
  task, graph, params = build(name, data, tmp_path)
  batch = first_batch(task)
  mine = batch["segments"][0] == 1
  last = int(mine.sum()) - 1
  prefix = batch.get("prefix", np.zeros_like(batch["inputs"]))[0] * mine
  inside = int(prefix.sum()) - 1
  if name == "causal":
    assert not prefix.any()
  else:
    assert 0 < inside < last
    assert changed_outputs(task, graph, params, batch, inside)[mine].all()
    np.testing.assert_array_equal(batch["weights"][0][mine][:inside], 0)  # shown, not learned
    np.testing.assert_array_equal(batch["weights"][0][mine][inside:], 1)
  changed = changed_outputs(task, graph, params, batch, last)
  assert changed[last]
  assert not changed[:last].any()
  assert not changed[last + 1 :].any()  # another segment


def test_pointers_are_a_softmax_over_their_own_window(data, tmp_path):
  task, graph, params = build("qa", data, tmp_path)
  model, items = nnx.merge(graph, params), task.items("train")
  sums = np.zeros(2)
  for batch in eval_batches(items, layout(task, source_len=48)):
    sums += np.asarray(jnp.stack(task.loss(model, batch, None)["loss"]))
  expected, alone = 0.0, jax.jit(lambda row: model.head(model.encode(row[None]), None)[0])
  for item in items.read(range(len(items.lengths())), range(len(items.lengths()))):
    length = len(item["source"])
    logits_SC = alone(np.pad(item["source"], (0, 24 - length)))[:length]
    logits_SC = np.where(np.asarray(item["answerable"])[:, None] > 0, logits_SC, -np.inf)
    log_SC = jax.nn.log_softmax(logits_SC, axis=0)
    first, last = np.argmax(item["starts"]), np.argmax(item["ends"])
    expected -= float(log_SC[first, 0] + log_SC[last, 1]) / 2
  assert sums[1] == len(items.lengths())
  np.testing.assert_allclose(sums[0], expected, rtol=1e-5)


def test_a_pooled_head_reads_its_own_segment():
  cfg = TransformerConfig(vocab_size=9, dim=32)
  rng = np.random.default_rng(0)
  x_BTD = jnp.asarray(rng.normal(size=(1, 7, 32)), jnp.float32)
  segments_BT = jnp.asarray([[1, 1, 1, 2, 2, 2, 0]])
  mean = heads.LabelHead(cfg, 3, pool="mean", rngs=nnx.Rngs(0))
  both = mean(x_BTD, segments_BT)[0]
  for start in (0, 3):
    alone = mean(x_BTD[:, start : start + 3].mean(1, keepdims=True), jnp.ones((1, 1)))
    np.testing.assert_allclose(both[start], alone[0, 0], rtol=1e-5)
  for pool, place in (("max", lambda x: x.max(0)), ("last", lambda x: x[-1])):
    head = heads.LabelHead(cfg, 3, pool=pool, rngs=nnx.Rngs(0))
    both = head(x_BTD, segments_BT)[0]
    for start in (0, 3):
      state = place(np.asarray(x_BTD)[0, start : start + 3])
      expected = state @ np.asarray(head.labels.kernel[...])
      np.testing.assert_allclose(both[start], expected, rtol=1e-4, atol=1e-6)
  first = heads.LabelHead(cfg, 3, pool="first", rngs=nnx.Rngs(0))
  np.testing.assert_allclose(
    first(x_BTD, segments_BT)[0, 3], first(x_BTD[:, 3:6], jnp.ones((1, 3)))[0, 0], rtol=1e-5
  )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("setting", ["the:3+a:0.5", "balanced"])
def test_weights_of_classes_are_those_of_a_weighted_mean(setting, smoothing, data, tmp_path):
  section = dict(class_weights=setting, label_smoothing=smoothing)
  rows = ["the dog\tthe\n"] * 5 + ["a dog\ta\n", "dog\tnone\n", "cat\tnone\n"]
  (tmp_path / "classes.tsv").write_text("".join(rows))
  task, graph, params = build("classes", tmp_path, tmp_path, **section)
  plain = dataclasses.replace(task, class_weights="")
  model, batch = nnx.merge(graph, params), first_batch(task)
  sums, before = (x.loss(model, batch, None) for x in (task, plain))
  weights = {"a": 0.5, "none": 1.0, "the": 3.0}
  if setting == "balanced":  # each of three labels has a third of the eight examples
    weights = {"a": 8 / 3, "none": 8 / 6, "the": 8 / 15}
  assert task.labels == ("a", "none", "the")
  logits_NC = np.asarray(task.logits(model, batch), np.float64)[batch["weights"] > 0]
  labels_N = batch["labels"][batch["weights"] > 0]
  log_NC = logits_NC - np.log(np.exp(logits_NC).sum(-1, keepdims=True))
  target_NC = (1 - smoothing) * np.eye(3)[labels_N] + smoothing / 3
  weights_N = np.asarray([weights[task.labels[label]] for label in labels_N])
  expected = (-(target_NC * log_NC).sum(-1) * weights_N).sum(), weights_N.sum()
  np.testing.assert_allclose(sums["loss"], expected, rtol=1e-5)
  for name in ("nll", "right"):  # are of examples, whatever they weigh
    np.testing.assert_allclose(sums[name], before[name], rtol=1e-6)
  assert sums["right"][1] == 8


@pytest.mark.parametrize(
  "setting, message",
  [
    ("thee:3", "no label is 'thee'; did you mean the.*known: a, none, the"),
    ("the", "'the' is no label with its weight; write LABEL:NUMBER"),
    ("the:0", "weight of 'the' is '0', no number above 0"),
    ("the:x", "'x', no number"),
    ("the:nan+a:2", "'nan', no number"),
    ("the:inf", "'inf', no number"),
  ],
)
def test_weights_of_no_class_are_reported(setting, message, tmp_path):
  (tmp_path / "classes.tsv").write_text("the dog\tthe\na dog\ta\ncat\tnone\n")
  with pytest.raises(UserError, match=f"task.class_weights is '.*{message}"):
    build("classes", tmp_path, tmp_path, class_weights=setting)
  (tmp_path / "numbers.tsv").write_text("the dog\t1\n")
  with pytest.raises(UserError, match="a regression has no classes"):
    build("regression", tmp_path, tmp_path, class_weights=setting)


def test_a_label_may_hold_a_colon():
  assert class_weights.parse("a:b:2", ("a", "a:b")) == [1.0, 2.0]


@pytest.mark.parametrize(
  "section, changed, message",
  [
    (defaults("mlm"), dict(rate=0.0), "task.rate is 0.0"),
    (defaults("mlm"), dict(rate=1.0), "task.rate is 1.0"),
    (
      defaults("mlm"),
      dict(tokenizer=dict(name="word")),
      "no <mask>: train it with .*special",
    ),
    (defaults("span"), dict(mean_span=0.5), "task.mean_span is 0.5"),
    (
      defaults("span"),
      dict(tokenizer=dict(name="word")),
      "needs sentinels .*tokenizer.sentinels=100",
    ),
    (defaults("span"), dict(style="spam"), "did you mean spans"),
    (defaults("span"), dict(length=200), "task.length=200 tokens of text can become"),
    (defaults("classification"), dict(pool="median"), "task.pool"),
    (defaults("classification"), dict(fields=("tekst",)), "tekst"),
  ],
)
def test_settings_that_make_no_task_are_named(section, changed, message, data, tmp_path):
  kind = "classes" if section["name"] == "classification" else "mlm"
  section = section | dict(data=KINDS[kind][0](data), tokenizer=MASKS) | changed
  with pytest.raises(UserError, match=message):
    tasks.build(ConfigDict(section), tmp_path).items("train").lengths()


def parts(**changes):
  """Returns a mixture of masked words and masked words, the second with changes."""
  part = dict(name="mlm", data={"name": "text"}, share=1.0, rate=0.3)
  return dict(a=dict(part), b=part | changes)


@pytest.mark.parametrize(
  "changed, message",
  [
    (dict(main="c"), "task.main is 'c'; known: a, b"),
    (dict(parts=parts(share=0.0)), "task.parts.b.share is 0.0"),
    (dict(parts=parts(rate=0.2)), r"parts.b cannot share a loss with task.parts.a: .*0\.2.*0\.3"),
    (dict(parts=parts(rat=0.2)), "task.rat: a mlm task has no such setting; did you mean rate"),
    (dict(size_cap=9), r"task\.size_cap=9 .*alpha"),
  ],
)
def test_parts_that_make_no_mixture_are_named(changed, message, data, tmp_path):
  section = dict(name="mixture", main="a", parts=parts(), tokenizer=MASKS, source_len=24) | changed
  for part in section["parts"].values():
    part["data"] = KINDS["mlm"][0](data)
  with pytest.raises(UserError, match=message):
    tasks.build(ConfigDict(section), tmp_path)


def test_several_sources_of_one_objective_are_mixed(data, tmp_path):
  """Of masked words too, whose rows have no target: each part as often as its share says."""
  section = dict(name="mixture", main="a", parts=parts(share=3.0), tokenizer=MASKS, source_len=24)
  for part in section["parts"].values():
    part["data"] = KINDS["mlm"][0](data)
  task = tasks.build(ConfigDict(section), tmp_path)
  graph, params = split(MODEL | ENCODER, task)
  items = task.items("train")
  count, order = len(items.lengths()) // 2, items.order(0)
  numbers = [order(place) for place in range(1000)]
  assert sum(number >= count for number in numbers) == 750
  sums = task.loss(nnx.merge(graph, params), first_batch(task), None)
  assert np.isfinite(sums["loss"][0])


@pytest.mark.parametrize("name, style", [("prefix", "prefix"), ("denoise", "bert")])
def test_some_styles_are_tasks_by_name(name, style, data, tmp_path):
  section = defaults("span") | dict(
    data=KINDS["span"][0](data), tokenizer=MASKS, length=16, name=name
  )
  with pytest.raises(UserError, match=r"task.style is 'spans'"):
    tasks.build(ConfigDict(section), tmp_path)
  del section["style"]
  assert tasks.build(ConfigDict(section), tmp_path).style == style


def test_labels_that_training_has_and_the_config_has_not_are_named(data, tmp_path):
  task, *_ = build("classes", data, tmp_path)
  other = dataclasses.replace(task, labels=("cat", "none"))
  with pytest.raises(UserError, match=r"task.labels are cat, none; training also has 'dog' \("):
    other.items("train")


def answer(example):
  """Returns an output that is right, as each kind of task writes it."""
  text = example.get("label", example.get("target", "text"))
  values = dict(size=1.0, articles=2.0)
  tags = list(example.get("tags", ()))
  return dict(text=text, value=len(text), tags=tags, labels=["dog"], values=values, choice=0)


@pytest.mark.parametrize("name", KINDS)
def test_a_task_declares_the_names_that_its_evaluation_reports(name, data, tmp_path):
  task, graph, params = build(name, data, tmp_path)
  batch = first_batch(task)
  sums = jax.eval_shape(lambda: task.loss(nnx.merge(graph, params), batch, None))
  section = KINDS[name][1] | dict(parts=mixed(data))
  section = {key: section[key] for key in section if key != "parts" or name == "mixture"}
  losses_of, scores_of = tasks.metric_names(section)
  assert meter.means(dict.fromkeys(sums, (1.0, 1.0))).keys() == {*losses_of}
  parts = task.scored_parts("train") if task.has_score else {}
  assert bool(scores_of) == bool(parts)
  for prefix, part in parts.items():
    examples = list(part.examples("train"))
    scored = part.score([answer(example) for example in examples], examples)
    numbers = {f"{prefix}{key}" for key, x in scored.items() if not isinstance(x, str)}
    assert numbers <= {*scores_of}
    assert name == "tagging" or numbers == {*scores_of}


def test_bio_tags_have_all_scores_of_tags():
  assert scores.tags([["B-a"]], [["B-a"]]).keys() == {*scores.NAMES["tags"]}
