"""A student follows its teacher: equations of the loss, and runs that distil."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from flax import nnx

from tests.helpers import FIXTURES, ROOT, train_config
from tests.train.helpers import start
from tests.train.tasks import helpers
from train import export, inference, losses, resolve, schema
from train.checkpoint import Checkpoints
from train.common.errors import UserError
from train.common.trees import flatten, match_layers, replace
from train.compression import distillation, observing
from train.compression.distillation import DISTILL, Distilled, layer_map, token_weights
from train.data.batches import BatchBuilder
from train.step import losses_of, make_train_step

# Kinds whose loss another kind has too.
ALIKE = {"prefix decoder", "prefix", "drop", "mask", "bert", "deshuffle", "windows of classes"}
LEARNED = [
  pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else [])
  for name in helpers.KINDS
  if name != "electra"
]
DEEP = dict(encoder_layers=2, decoder_layers=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  helpers.write_data(folder)
  return folder


def distilled(task, graph, layers=(), **settings):
  none = dict(hard=0.0, soft=0.0)
  return Distilled(task, graph, DISTILL | none | settings, dict(layers))


def other(params, scale=0.05):
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda x: x + scale * rng.normal(size=x.shape).astype(x.dtype), params)


def test_the_divergence_is_that_of_scipy():
  rng = np.random.default_rng(0)
  ours, theirs = 3 * rng.normal(size=(2, 2, 5, 7))
  weights, temperature = rng.random((2, 5)), 2.5
  p, q = (scipy.special.softmax(x / temperature, -1) for x in (theirs, ours))
  expected = temperature**2 * (scipy.special.rel_entr(p, q).sum(-1) * weights).sum()
  total, weight = losses.divergence(ours, theirs, weights, temperature)
  np.testing.assert_allclose(total, expected, rtol=1e-5)
  np.testing.assert_allclose(weight, weights.sum(), rtol=1e-6)


@pytest.mark.parametrize("name", LEARNED)
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(name, data, tmp_path):
  task, graph, params = helpers.build(name, data, tmp_path)
  batch = helpers.first_batch(task)
  sums_of = losses_of(distilled(task, graph, soft=1.0), graph)

  @jax.jit
  def loss_and_gradient(params, teacher):
    def loss(params):
      sums = sums_of(params, batch, None, dict(teacher=teacher))
      return sums["loss"][0], sums

    return jax.value_and_grad(loss, has_aux=True)(params)

  (loss, sums), gradient = loss_and_gradient(params, params)
  assert abs(float(loss)) < 1e-4
  assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) < 1e-4
  # all parts have the weight of the task's own loss, by which the update divides
  own = jax.jit(task.loss)(nnx.merge(graph, params), batch, None)
  assert float(sums["soft"][1]) == float(own["loss"][1]) > 0
  for key in own.keys() - {"loss"}:
    np.testing.assert_allclose(sums[key], own[key], rtol=1e-5)
  (loss, _), gradient = loss_and_gradient(other(params), params)
  assert float(loss) > 1e-4
  assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) > 1e-4


@pytest.mark.parametrize("part", ["hidden", "attention"])
@pytest.mark.parametrize("name", ["classes", "span", "causal"])
def test_states_and_relations_equal_the_teachers_cost_nothing(name, part, data, tmp_path):
  task, graph, params = helpers.build(name, data, tmp_path)
  batch = helpers.first_batch(task)
  stacks = [stack for stack in ("encoder", "decoder") if stack in params]
  for hidden_loss in ("cosine", "mse")[: 1 + (part == "hidden")]:
    settings = {part: 1.0, "hidden_loss": hidden_loss}
    objective = distilled(task, graph, dict.fromkeys(stacks, (0,)), **settings)
    sums_of = jax.jit(losses_of(objective, graph))
    assert abs(float(sums_of(params, batch, None, dict(teacher=params))["loss"][0])) < 1e-3
    value = sums_of(other(params), batch, None, dict(teacher=params))
    assert float(value["loss"][0]) > 1e-3
    assert float(value[part][1]) == float(value["hard"][1])


def texts_of(values, segments):
  """Yields the values [L, ...] of each text of rows that several share."""
  for row, numbers in zip(np.asarray(values), np.asarray(segments)):
    for number in range(1, numbers.max() + 1):
      yield row[numbers == number]


def relations_of(vectors, heads):
  """Returns the distribution [heads, L, L] of each token over a text's tokens."""
  cut = vectors.reshape(len(vectors), heads, -1)
  products = np.stack([cut[:, i] @ cut[:, i].T for i in range(heads)])
  return scipy.special.softmax(products / np.sqrt(cut.shape[-1]), -1)


@pytest.mark.parametrize("relation_heads", [0, 2])
def test_states_and_relations_are_compared_text_by_text(relation_heads, data, tmp_path):
  """By loops in numpy, with a teacher of other heads, of which keys and values have fewer."""
  own = helpers.MODEL | dict(num_heads=2)
  task, graph, params = helpers.build("classes", data, tmp_path, own, pool="mean")
  more = dict(num_heads=8, num_kv_heads=4, encoder_layers=2)
  teacher_graph, teacher = helpers.split(own | DEEP | more, task)
  batch = helpers.first_batch(task)
  segments = batch["source_segments"]
  seen = []
  for one, weights in ((graph, params), (teacher_graph, teacher)):
    model = nnx.merge(one, weights)
    with observing.observe(model) as found:
      task.logits(model, batch)
    seen.append(found)
  ours, theirs = (found.states["encoder"][i] for found, i in zip(seen, (0, 1)))
  pairs = [*zip(texts_of(ours, segments), texts_of(theirs, segments), strict=True)]
  assert len(pairs) > len(segments)
  norm = np.linalg.norm
  distances = dict(
    mse=sum(np.square(x - y).mean() for x, y in pairs),
    cosine=sum(
      np.mean([1 - a @ b / (norm(a) * norm(b)) for a, b in zip(x, y, strict=True)])
      for x, y in pairs
    ),
  )
  for name, expected in distances.items():
    objective = distilled(task, teacher_graph, {"encoder": (1,)}, hidden=1.0, hidden_loss=name)
    sums = losses_of(objective, graph)(params, batch, None, dict(teacher=teacher))
    np.testing.assert_allclose(sums["hidden"][0], expected, rtol=1e-4)
  expected = 0.0
  for mine, other, heads in zip(
    seen[0].vectors["encoder"][0], seen[1].vectors["encoder"][1], (8, 4, 4), strict=True
  ):
    heads = relation_heads or heads
    for x, y in zip(texts_of(mine, segments), texts_of(other, segments), strict=True):
      p, q = relations_of(y, heads), relations_of(x, heads)
      expected += scipy.special.rel_entr(p, q).sum(-1).mean() / 3
  settings = dict(attention=1.0, relation_heads=relation_heads)
  objective = distilled(task, teacher_graph, {"encoder": (1,)}, **settings)
  sums = losses_of(objective, graph)(params, batch, None, dict(teacher=teacher))
  np.testing.assert_allclose(sums["attention"][0], expected, rtol=1e-3)


def test_vectors_that_cannot_be_cut_are_refused(data, tmp_path):
  task, graph, params = helpers.build("classes", data, tmp_path)
  objective = distilled(task, graph, {"encoder": (0,)}, attention=1.0, relation_heads=7)
  with pytest.raises(UserError, match=r"vectors of 32 numbers cannot be cut into 7"):
    losses_of(objective, graph)(params, helpers.first_batch(task), None, dict(teacher=params))


def test_a_state_of_zeros_has_a_gradient():
  """That of a padded token in a model without biases may be so; its weight is 0."""

  def loss(x):
    return (distillation._cosine(x, jnp.ones((2, 3))) * jnp.asarray([1.0, 0.0])).sum()

  gradient = jax.grad(loss)(jnp.asarray([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))
  assert np.isfinite(gradient).all()
  assert np.abs(gradient[0]).max() > 0


def test_all_parts_are_alike_for_packed_and_separate_rows_and_microbatches(data, tmp_path):
  """The weights of tokens follow the texts, not the rows that they share."""
  task, graph, params = helpers.build("classes", data, tmp_path, pool="mean")
  teacher = other(params)
  settings = dict(hard=0.3, soft=0.5, hidden=0.7, attention=0.9)
  objective = distilled(task, graph, {"encoder": (0,)}, **settings)
  sums_of, items = jax.jit(losses_of(objective, graph)), task.items("train")
  build = BatchBuilder(items, 48, 0)
  packed = build([[(0, 0), (1, 0), (2, 0)], [(3, 0)], [], [(4, 0), (5, 0)]])
  alone = build([[(number, 0)] for number in range(6)])
  both = [sums_of(params, batch, None, dict(teacher=teacher)) for batch in (packed, alone)]
  assert both[0].keys() >= {"hard", "soft", "hidden", "attention"}
  for name in both[0]:
    np.testing.assert_allclose(*(sums[name] for sums in both), rtol=1e-4, err_msg=name)

  def step(microbatches):
    sgd = optax.sgd(0.1)
    update = make_train_step(objective, graph, sgd, microbatches=microbatches, seed=0)
    state, sums = update(start(sgd, params), packed, dict(teacher=teacher))
    return flatten(jax.device_get(state["params"])), jax.device_get(sums)

  (once, sums), (twice, sums_twice) = step(1), step(2)
  for name in once:
    np.testing.assert_allclose(once[name], twice[name], atol=1e-6, err_msg=name)
  np.testing.assert_allclose(sums["loss"], sums_twice["loss"], rtol=1e-5)


def test_the_tokens_of_a_text_share_the_weight_of_its_targets():
  batch = dict(source_segments=np.asarray([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]]))
  weights = np.asarray([[1.0, 0, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0]])
  expected = [[1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2, 0], [1 / 3] * 6]
  np.testing.assert_allclose(token_weights(batch, "encoder", weights), expected, rtol=1e-6)
  both = dict(batch, segments=np.asarray([[1, 2, 2], [1, 1, 0]]))
  weights = np.asarray([[1.0, 1, 1], [1, 1, 0]])
  expected = [[1 / 3, 1 / 3, 1 / 3, 1, 1, 0], [1 / 3] * 6]
  np.testing.assert_allclose(token_weights(both, "encoder", weights), expected, rtol=1e-6)
  np.testing.assert_allclose(token_weights(both, "decoder", weights), weights, rtol=1e-6)


@pytest.mark.parametrize("changes", [{}, dict(scan_layers=True), dict(remat="full")])
def test_a_student_of_any_form_gives_the_same_states(changes, data, tmp_path):
  """Scanned or computed twice, it is unrolled for what it shows of its layers."""
  body = helpers.MODEL | DEEP
  task, *_ = helpers.build("classes", data, tmp_path, body)
  student, own = helpers.split(body | DEEP | changes, task)
  teacher, weights = helpers.split(helpers.MODEL | DEEP, task)
  taken = match_layers(flatten(weights), flatten(own))
  own = replace(own, taken)
  objective = distilled(task, teacher, {"encoder": (0, 1)}, hidden=1.0, attention=1.0)
  batch = helpers.first_batch(task)
  sums = jax.jit(losses_of(objective, student))(own, batch, None, dict(teacher=weights))
  assert abs(float(sums["loss"][0])) < 1e-3
  assert float(sums["hidden"][1]) > 0


def test_a_teacher_is_an_argument_and_no_constant(data, tmp_path):
  task, graph, params = helpers.build("classes", data, tmp_path)
  objective = distilled(task, graph, soft=1.0)
  sgd = optax.sgd(0.1)
  update = make_train_step(objective, graph, sgd, microbatches=1, seed=0)
  state, batch = start(sgd, params), helpers.first_batch(task)
  fixed = dict(teacher=params)
  lowered = update.lower(state, batch, fixed)
  leaves = len(jax.tree.leaves((state, batch, fixed)))
  assert len(jax.tree.leaves(lowered.args_info)) == leaves
  longest = max(map(len, re.findall('dense<"0x[^"]*"', lowered.as_text())), default=0)
  assert longest < 2 * min(x.nbytes for x in jax.tree.leaves(params) if x.ndim > 1)  # hexadecimal


def test_a_map_of_layers_is_spread_evenly_and_checked():
  def map_of(ours, theirs, **settings):
    def model(layers):
      return dict(encoder_layers=layers[0], decoder_layers=layers[1])

    return layer_map(DISTILL | settings, model(ours), model(theirs))

  assert map_of((3, 0), (6, 0)) == {"encoder": (1, 3, 5)}
  assert map_of((4, 1), (12, 6)) == {"encoder": (2, 5, 8, 11), "decoder": (5,)}
  assert map_of((2, 0), (6, 0), layers=(0, 5)) == {"encoder": (0, 5)}
  with pytest.raises(UserError, match=r"distill.layers is \(0,\).*each of the student's 2"):
    map_of((2, 0), (6, 0), layers=(0,))
  with pytest.raises(UserError, match="layers names layer 6: the teacher's"):
    map_of((2, 0), (6, 0), layers=(0, 6))
  with pytest.raises(UserError, match="names layer -1"):
    map_of((3, 0), (2, 0))
  with pytest.raises(UserError, match="teacher has no decoder"):
    map_of((2, 2), (6, 0))
  with pytest.raises(UserError, match="the student has no decoder"):
    map_of((2, 0), (6, 0), decoder_layers=(1,))


# Runs


@pytest.fixture(scope="module")
def teacher(corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "teacher"
  changes = {"model.encoder_layers": 2}
  return path, train_config("classify.py:small,data={folder}", corpus, path, **changes)


def student(path, corpus, folder, more="", **changes):
  text = f"classify.py:small,data={corpus},init={path},teacher={path},layers=1{more}"
  return train_config(text, corpus, folder, **changes)


def test_a_student_starts_from_chosen_layers(teacher, corpus, tmp_path):
  path, before = teacher
  after = student(path, corpus, tmp_path, **{"schedule.peak": 0.0, "distill.hidden": 1.0})
  layer = {name for name in before if name.startswith("encoder/blocks/1/")}
  assert layer
  assert not any(name.startswith("encoder/blocks/1/") for name in after)
  for name in layer:
    np.testing.assert_array_equal(after[name.replace("blocks/1", "blocks/0")], before[name])
  for name in before:
    if not name.startswith(("encoder/blocks/", "head/")):
      np.testing.assert_array_equal(after[name], before[name], err_msg=name)
  with pytest.raises(UserError, match=r"init_from.encoder_layers: .*start anew"):
    resolve.load_again(tmp_path, ["init_from.encoder_layers=(0,)"])
  with pytest.raises(UserError, match=r"init_from.encoder_layers has no effect"):
    resolve.load_again(path, ["init_from.encoder_layers=(0,)"])


def test_a_run_that_distils_writes_the_parts_and_is_loaded_as_any_other(teacher, corpus, tmp_path):
  path, before = teacher
  changes = {"distill.hidden": 1.0, "distill.attention": 1.0, "model.dim": 16, "log_every": 1}
  text = f"classify.py:small,data={corpus},tokenizer={path},teacher={path}"
  after = train_config(text, corpus, tmp_path, **changes)
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  trained = next(line for line in lines if line["split"] == "train")
  assert {"hard", "soft", "hidden", "attention"} <= trained.keys()
  # the layers to the teacher's size are saved with the optimizer's state alone
  assert not any(name.startswith("distill/") for name in after)
  with Checkpoints(tmp_path) as checkpoints:
    rest = checkpoints._metadata(checkpoints.directory / str(checkpoints.latest))["optimizer"]
  assert {*rest["distill"]} == {"encoder"}
  assert sum(x.size for x in after.values()) < sum(x.size for x in before.values())
  assert inference.load(tmp_path)(["the dog runs"])[0]["text"] in ("dog", "none")


def test_a_run_that_distils_resumes_as_if_it_had_not_stopped(teacher, corpus, tmp_path):
  path, _ = teacher
  changes = {"distill.hidden": 1.0, "model.dim": 16, "ema": 0.9}
  text = f"classify.py:small,data={corpus},tokenizer={path},teacher={path}"
  whole = train_config(text, corpus, tmp_path / "whole", **changes, steps=4)
  train_config(text, corpus, tmp_path / "parts", **changes, steps=2)
  parts = train_config(text, corpus, tmp_path / "parts", **changes, steps=4)
  for name in whole:
    np.testing.assert_array_equal(whole[name], parts[name], err_msg=name)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("classify.py:small,data={other},teacher={run}", "its tokenizer is not this run's"),
    ("tag.py:small,suffix=.conll,data={folder},init={run},teacher={run}", "this one is of Tagging"),
    ("classify.py:small,data={folder},init={run},layers=0+2", "no layer 2, but layers 0 to 1"),
    ("classify.py:small,data={other},init={run},teacher={run}", "dog, none, and this task dog"),
  ],
)
def test_a_teacher_that_cannot_answer_is_refused(text, message, teacher, corpus, tmp_path):
  lines = (corpus / "train.tsv").read_text().replace("\tnone", "\tother").replace("man", "men")
  for name in ("train", "dev", "test"):
    (tmp_path / f"{name}.tsv").write_text(lines)
  text = text.format(folder=corpus, other=tmp_path, run=teacher[0])
  with pytest.raises(UserError, match=message):
    train_config(text, corpus, tmp_path / "run")


@pytest.mark.parametrize(
  ("origin", "layers"),
  [
    ("modernbert_mlm", "0+2"),
    *(pytest.param("gemma2", x, marks=pytest.mark.slow) for x in ("1", "1+0")),
  ],
)
def test_chosen_layers_with_windows_of_their_own_are_exported(origin, layers, corpus, tmp_path):
  run, out = tmp_path / "run", tmp_path / "out"
  text = f"classify.py:small,data={{folder}},init=hf:{FIXTURES / origin},layers={layers}"
  changes = {"task.source_len": 24, "schedule.peak": 0.01}
  train_config(text, corpus, run, **changes)
  export.main(["--workdir", str(run), "--out", str(out), "--no-check"])
  texts = ["the dog runs", "a ball"]
  ours, theirs = (inference.load(x).arrays(texts)["logits"] for x in (run, f"hf:{out}"))
  np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_teacher_of_other_texts_or_global_tokens_is_refused(corpus, tmp_path):
  words, tags = tmp_path / "words", tmp_path / "tags"
  train_config("causal.py:small,data={folder}/prose", corpus, words)
  text = f"multi30k.py:small,data={corpus},tokenizer={words},teacher={words}"
  with pytest.raises(UserError, match=r"reads no sources, and this task \(Translation\) does"):
    train_config(text, corpus, tmp_path / "a")
  whole = {"model.window": 4, "model.global_tokens": 2, "task.pack": False}
  tag = "tag.py:small,suffix=.conll,data={folder}"
  train_config(tag, corpus, tags, **whole)
  text = f"{tag},tokenizer={tags},teacher={tags}"
  with pytest.raises(UserError, match=r"model.global_tokens are those of a row"):
    train_config(text, corpus, tmp_path / "b")
  separate = {"task.pack": False, "task.global_attention": "question"}
  with pytest.raises(UserError, match=r"has task.global_attention=first: set it"):
    train_config(text, corpus, tmp_path / "c", **separate)


def test_another_teacher_under_the_same_name_is_refused(corpus, tmp_path):
  path, run = tmp_path / "teacher", tmp_path / "run"
  make = functools.partial(train_config, "classify.py:small,data={folder}", corpus)
  make(path)
  text = f"classify.py:small,data={corpus},tokenizer={path},teacher={path}"
  train_config(text, corpus, run, steps=2)
  make(path, steps=6)
  with pytest.raises(UserError, match=r"learns from .*no longer those that it was trained with"):
    train_config(text, corpus, run, steps=4)
  train_config(text, corpus, tmp_path / "other")


def test_settings_without_effect_are_refused(teacher, corpus):
  text = f"{ROOT}/configs/classify.py:small,data={corpus}"
  with pytest.raises(UserError, match="names layers of init"):
    resolve.load(f"{text},layers=0")
  with pytest.raises(UserError, match="write numbers of layers"):
    resolve.load(f"{text},init={teacher[0]},layers=0-2")
  with pytest.raises(UserError, match="are all 0"):
    resolve.load(f"{text},init={teacher[0]},teacher={teacher[0]}", ["distill.soft=0.0"])
  with pytest.raises(UserError, match=r"distill.layers is \('0\+1',\): '0\+1' is no number"):
    resolve.load(f"{text},init={teacher[0]},teacher={teacher[0]}", ["distill.layers=0+1"])
  with pytest.raises(UserError, match="hidden_loss"):
    resolve.load(f"{text},init={teacher[0]}", ["distill.hidden_loss=l1"])


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (["distill.hidden=1.0"], r"distill.hidden=1.0 has no effect while distill.teacher is ''"),
    (["distill.teacher=runs/x", "distill.relation_heads=7"], "while distill.attention is 0.0"),
    (["distill.teacher=runs/x", "distill.hidden_loss=mse"], "while distill.hidden is 0.0"),
    (["distill.teacher=runs/x", "distill.soft=0", "distill.hidden=1", "distill.temperature=3"],
     "while distill.soft is 0.0"),
    (["distill.teacher=runs/x", "distill.cache_top=3"], "while distill.cache is ''"),
    (["lora.alpha=32"], r"lora.alpha=32.0 has no effect while lora.rank is 0"),
    (["lora.layers=('nonsense',)"], r"lora.layers=\('nonsense',\) has no effect"),
    (["quantize.skip=('^head/',)"], r"quantize.skip=.* while quantize.weights is ''"),
  ],
)  # fmt: skip
def test_a_setting_whose_switch_is_off_is_named(settings, message, corpus):
  """And not refused: a trial of a search may switch off what another one sets."""
  cfg = resolve.load(f"{ROOT}/configs/classify.py:small,data={corpus}", settings)
  (sentence,) = schema.idle_settings(cfg)
  assert re.search(message, sentence)
  assert not schema.idle_settings(resolve.load(f"{ROOT}/configs/classify.py:small,data={corpus}"))


def test_a_map_without_states_to_follow_is_refused(teacher, corpus, tmp_path):
  with pytest.raises(UserError, match="layers has no effect"):
    student(teacher[0], corpus, tmp_path, **{"distill.layers": (1,)})
