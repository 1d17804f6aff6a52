"""A teacher's logits are computed once: a student learns from the folder as from the teacher."""

import functools
import json
import types

import jax
import numpy as np
import pytest

from tests.helpers import assert_same_arrays, load_config, train_config
from tests.train.helpers import mesh_of
from tests.train.tasks import helpers
from train import export, inference, schema, sharding
from train.common.errors import UserError
from train.common.trees import flatten
from train.compression.distillation import DISTILL, IDS, Distilled
from train.data.batches import BatchBuilder
from train.record.lock import KernelLock
from train.step import losses_of
from train.teacher_cache import TeacherCache

FAST = ("classes", "qa", "causal")
OTHERS = ("regression", "label sets", "tagging", "choice", "text to text")
DRAWN = ("mlm", "span", "mixture", "prefix decoder")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  helpers.write_data(folder)
  return folder


def cache_of(task, graph, params, folder, words, **settings):
  mesh = mesh_of(1, 1, 1)
  tree = dict(params=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params))
  like = sharding.abstract(tree, sharding.place(tree, mesh))["params"]
  teacher = types.SimpleNamespace(
    name="teacher",
    model={},
    config=None,
    weights=lambda which: (flatten(params), [1]),
    place=lambda which, like: (params, [1]),
  )
  settings = DISTILL | dict(cache=str(folder), hard=0.0, soft=1.0) | settings
  return TeacherCache(settings, task, teacher, graph, like, mesh, words)


def other(params):
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda x: x + 0.05 * rng.normal(size=x.shape).astype(x.dtype), params)


def batches_of(task, cache):
  """Returns a batch of all training examples with their logits, each row in another order."""
  items = cache.items(task.items("train"), helpers.layout(task))
  count = min(len(items.lengths()), 12)
  rows = [[(number, number)] for number in reversed(range(count))]
  return BatchBuilder(items, task.source_len, task.target_len)(rows)


@pytest.mark.parametrize(
  "name",
  [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)],
)
def test_logits_of_the_folder_are_the_teachers(name, data, tmp_path):
  task, graph, params = helpers.build(name, data, tmp_path)
  words = name in ("causal", "text to text")
  teacher = other(params)
  cache = cache_of(task, graph, teacher, tmp_path / "cache", words, cache_top=10**6)
  batch = batches_of(task, cache)
  assert (IDS in batch) == words
  kept = Distilled(task, None, cache.settings, {})
  asked = Distilled(task, graph, cache.settings, {})

  def loss(objective, params, fixed):
    return jax.value_and_grad(
      lambda p: losses_of(objective, graph)(p, batch, None, fixed)["loss"][0]
    )(params)

  one, one_gradient = jax.jit(lambda p: loss(kept, p, {}))(params)
  two, two_gradient = jax.jit(lambda p, t: loss(asked, p, dict(teacher=t)))(params, teacher)
  assert float(two) > 1e-4
  np.testing.assert_allclose(one, two, rtol=1e-4)
  for a, b in zip(jax.tree.leaves(one_gradient), jax.tree.leaves(two_gradient)):
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3)


def test_words_beyond_the_largest_count_as_one(data, tmp_path):
  """The divergence of the few is below that of all, and 0 with its gradient where they are
  equal."""
  task, graph, params = helpers.build("causal", data, tmp_path)
  teacher, found = other(params), {}

  @functools.partial(jax.jit, static_argnums=0)
  def value(top, params, batch):
    settings = DISTILL | dict(cache="folder", hard=0.0, soft=1.0, cache_top=top)
    sums_of = losses_of(Distilled(task, None, settings, {}), graph)
    return jax.value_and_grad(lambda p: sums_of(p, batch, None)["loss"][0])(params)

  for top in (1, 4, 10**6):
    batch = batches_of(
      task, cache_of(task, graph, teacher, tmp_path / str(top), True, cache_top=top)
    )
    found[top] = float(value(top, params, batch)[0])
    equal, gradient = value(top, teacher, batch)
    assert abs(float(equal)) < 1e-3
    assert max(float(abs(g).max()) for g in jax.tree.leaves(gradient)) < 1e-3
  assert 0 < found[1] < found[4] < found[10**6]


@pytest.mark.parametrize("name", DRAWN)
def test_inputs_that_are_drawn_anew_are_refused(name, data, tmp_path):
  task, graph, params = helpers.build(name, data, tmp_path)
  cache = cache_of(task, graph, params, tmp_path / "cache", True)
  with pytest.raises(UserError, match="draws its inputs anew in every epoch"):
    cache.items(task.items("train"), helpers.layout(task))
  assert not (tmp_path / "cache").exists()


def test_logits_of_some_tokens_alone_are_refused(data, tmp_path):
  task, graph, params = helpers.build("mlm", data, tmp_path, fixed_masks=True)
  cache = cache_of(task, graph, params, tmp_path / "cache", True)
  with pytest.raises(UserError, match="some tokens alone have logits"):
    cache.items(task.items("train"), helpers.layout(task))


class Reversed:
  """Items of the same data and lengths whose inputs are others."""

  def __init__(self, of):
    self._of = of

  def __getattr__(self, name):
    return getattr(self._of, name)

  def read(self, indices, positions):
    return [item | dict(source=item["source"][::-1]) for item in self._of.read(indices, positions)]


def test_files_that_are_not_whole_or_of_other_inputs_are_named(data, tmp_path):
  task, graph, params = helpers.build("classes", data, tmp_path)
  folder, layout = tmp_path / "cache", helpers.layout(task)
  cache = cache_of(task, graph, params, folder, False)
  folder.mkdir()
  (folder / "starts.npy").touch()  # left by a process that was killed while it made the files
  cache.items(task.items("train"), layout)
  with pytest.raises(UserError, match="logits of another inputs"):
    cache.items(Reversed(task.items("train")), layout)
  file = folder / "teacher_values.bin"
  whole = file.read_bytes()
  file.write_bytes(whole[:-4])
  with pytest.raises(UserError, match=r"teacher_values\.bin has [\d,]+ of [\d,]+ bytes"):
    cache.items(task.items("train"), layout)
  file.unlink()
  with pytest.raises(UserError, match=r"teacher_values\.bin has 0 of"):
    cache.items(task.items("train"), layout)


def test_a_process_waits_for_the_one_that_fills_the_folder(data, tmp_path, monkeypatch):
  task, graph, params = helpers.build("classes", data, tmp_path)
  folder, waited = tmp_path / "cache", []
  folder.mkdir()
  lock = KernelLock(folder)

  def sleep(seconds):
    waited.append(seconds)
    if len(waited) == 2:
      lock.close()

  monkeypatch.setattr("train.teacher_cache.time.sleep", sleep)
  cache_of(task, graph, params, folder, False).items(task.items("train"), helpers.layout(task))
  assert len(waited) == 2
  assert json.loads((folder / "facts.json").read_text())["done"]


def test_a_folder_that_was_interrupted_is_completed(data, tmp_path, monkeypatch):
  monkeypatch.setattr("train.teacher_cache.BLOCK", 3)
  task, graph, params = helpers.build("tagging", data, tmp_path)
  whole = cache_of(task, graph, params, tmp_path / "whole", False)
  whole.items(task.items("train"), helpers.layout(task))
  seen = []

  def stops(*arguments):
    seen.append(arguments)
    if len(seen) == 2:
      raise KeyboardInterrupt
    return put(*arguments)

  put = sharding.put
  cut = cache_of(task, graph, params, tmp_path / "cut", False)
  monkeypatch.setattr("train.sharding.put", stops)
  with pytest.raises(KeyboardInterrupt):
    cut.items(task.items("train"), helpers.layout(task))
  facts = json.loads((tmp_path / "cut/facts.json").read_text())
  assert 0 < facts["done"] < facts["items"]
  monkeypatch.setattr("train.sharding.put", put)
  cut.items(task.items("train"), helpers.layout(task))
  for file in (tmp_path / "whole").iterdir():
    if file.name != ".lock":
      assert file.read_bytes() == (tmp_path / "cut" / file.name).read_bytes(), file.name


# Runs


@pytest.fixture(scope="module")
def teacher(corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "teacher"
  train_config("classify.py:small,data={folder}", corpus, path)
  return path


def student(teacher, corpus, path, **changes):
  return train_config(
    f"classify.py:small,data={corpus},init={teacher},teacher={teacher}", corpus, path, **changes
  )


def test_students_of_a_folder_learn_what_those_of_the_teacher_do(teacher, corpus, tmp_path, caplog):
  caplog.set_level("INFO")
  changes = {"distill.cache": str(tmp_path / "cache"), "schedule.peak": 1e-2}
  asked = student(teacher, corpus, tmp_path / "asked", **changes | {"distill.cache": ""})
  kept = student(teacher, corpus, tmp_path / "kept", **changes)
  for name in asked:
    np.testing.assert_allclose(kept[name], asked[name], atol=1e-5, err_msg=name)
  assert sum("GB of logits of" in line for line in caplog.messages) == 1
  again = student(teacher, corpus, tmp_path / "again", **changes, workers=1)
  assert sum("GB of logits of" in line for line in caplog.messages) == 1
  assert_same_arrays(kept, again)
  # what is made of such a student is read as any other run
  out = tmp_path / "int8"
  export.main(["--workdir", str(tmp_path / "kept"), "--quantize", "int8", "--out", str(out)])
  assert inference.load(out)(["the dog runs"])[0]["text"] in ("dog", "none")


def test_a_folder_of_other_logits_is_refused(teacher, corpus, tmp_path):
  changes = {"distill.cache": str(tmp_path / "cache")}
  student(teacher, corpus, tmp_path / "first", **changes)
  another = tmp_path / "another"
  train_config(f"classify.py:small,data={corpus},init={teacher}", corpus, another)
  with pytest.raises(UserError, match="logits of another teacher"):
    student(another, corpus, tmp_path / "of another", **changes)
  lines = (corpus / "train.tsv").read_text().splitlines(keepends=True)
  for name in ("train", "dev", "test"):
    (tmp_path / f"{name}.tsv").write_text("".join(lines[1:]))
  with pytest.raises(UserError, match="logits of another data"):
    student(teacher, tmp_path, tmp_path / "shorter", **changes)
  (tmp_path / "notes").mkdir()
  (tmp_path / "notes/a.txt").touch()
  with pytest.raises(UserError, match="holds other files"):
    student(teacher, corpus, tmp_path / "run", **{"distill.cache": str(tmp_path / "notes")})
  assert [*(tmp_path / "notes").iterdir()] == [tmp_path / "notes/a.txt"]


def test_a_wrong_split_is_named_before_the_teacher_computes(teacher, corpus, tmp_path):
  changes = {"distill.cache": str(tmp_path / "cache"), "evaluate.split": "dev2"}
  with pytest.raises(UserError, match="dev2"):
    student(teacher, corpus, tmp_path / "run", **changes)
  assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"distill.hidden": 1.0}, "distill.hidden: distill.cache holds logits alone"),
    ({"distill.teacher": ""}, "distill.teacher, which is ''"),
    ({"distill.cache": "gs://bucket/cache"}, "a folder on a disk"),
  ],
)
def test_settings_that_a_folder_cannot_serve_are_refused(
  changes, message, teacher, corpus, tmp_path
):
  cfg = load_config(f"classify.py:small,data={corpus},init={teacher},teacher={teacher}", corpus)
  with cfg.unlocked():
    cfg.update_from_flattened_dict({"distill.cache": str(tmp_path)} | changes)
  with pytest.raises(UserError, match=message):
    schema.check(cfg)
