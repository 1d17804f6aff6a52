"""Labels come from the last stack that a model has, and tasks choose which tokens are global."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.config import TransformerConfig
from model.heads import LabelHead
from model.transformer import Transformer
from tests.helpers import FIXTURES, train_config
from train import inheriting, predict
from train.common.errors import UserError
from train.data.roles import Roles
from train.interop import directory
from train.tasks.states import label_states
from train.tasks.tagging import Tagging

ROLES = Roles(pad=0, eos=2, start=1)
SETTINGS = dict(vocab_size=20, dim=8, num_heads=2, mlp_dim=12, encoder_layers=1, decoder_layers=1)


def build(**changes):
  return Transformer(TransformerConfig(**SETTINGS | changes), rngs=nnx.Rngs(0))


def batch(*rows):
  """Returns a packed row: the texts `rows` one after another."""
  texts = [np.asarray(row) for row in rows]
  return dict(
    source=np.concatenate(texts)[None],
    source_segments=np.concatenate([np.full(len(x), i + 1) for i, x in enumerate(texts)])[None],
    source_positions=np.concatenate([np.arange(len(x)) for x in texts])[None],
  )


def test_a_decoder_behind_an_encoder_reads_the_shifted_source():
  model, ids = build(), np.array([[5, 6, 7, 2]])
  expected = model.decode(np.array([[1, 5, 6, 7]]), model.encode(ids), (ids > 0).astype(np.int32))
  actual = label_states(model, batch(ids[0]), ROLES)
  np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize(
  "depths", [(1, 1), *(pytest.param(x, marks=pytest.mark.slow) for x in ((1, 0), (0, 1)))]
)
def test_texts_in_one_row_have_the_states_that_they_have_alone(depths):
  model = build(**dict(zip(("encoder_layers", "decoder_layers"), depths)))
  texts = [5, 6, 7, 2], [8, 2], [9, 4, 2]
  alone = [label_states(model, batch(text), ROLES)[0] for text in texts]
  packed = label_states(model, batch(*texts), ROLES)[0]
  np.testing.assert_allclose(packed, np.concatenate(alone), atol=1e-5)


def test_the_last_state_of_a_text_gets_its_class():
  cfg = TransformerConfig(**SETTINGS)
  head = LabelHead(cfg, 3, pool="last", transform="dense", rngs=nnx.Rngs(0))
  x_BTD = jax.random.normal(jax.random.key(0), (1, 5, 8))
  actual = head(x_BTD, jnp.array([[1, 1, 2, 2, 0]]))
  for first, last in ((0, 1), (2, 3)):
    expected = head.labels(jnp.tanh(head.dense(x_BTD[0, last])))
    np.testing.assert_allclose(actual[0, first], expected, atol=1e-6)


def test_a_decoders_first_state_gets_no_class(corpus, tmp_path):
  text = "classify.py:small,states=decoder,pool=first,data={folder}"
  with pytest.raises(UserError, match=r"task\.pool.*'last'"):
    train_config(text, corpus, tmp_path / "run")


@pytest.mark.slow
def test_a_classifier_learns_and_predicts_by_decoders_states(corpus, tmp_path):
  params = train_config("classify.py:small,states=decoder,data={folder}", corpus, tmp_path / "run")
  assert {"head/dense/kernel", "head/labels/kernel"} <= params.keys()
  outputs = predict.load(tmp_path / "run")(["the dog runs", "a cat"])
  assert all(0 < output["score"] <= 1 for output in outputs)


@pytest.mark.slow
def test_a_classifier_starts_from_a_bart_with_both_stacks(corpus, tmp_path):
  bart = FIXTURES / "bart"
  text = f"classify.py:small,states=decoder,init=hf:{bart},data={{folder}}"
  options = {"task.source_len": 24, "schedule.peak": 1e-9}
  params = train_config(text, corpus, tmp_path / "run", **options)
  theirs = directory.Directory(bart).params
  taken = [name for name in params if name.startswith(("encoder/", "decoder/", "embedding/"))]
  assert any(name.startswith("decoder/") for name in taken)
  for name in taken:
    np.testing.assert_allclose(params[name], np.asarray(theirs[name]), atol=1e-6)


@pytest.mark.parametrize("which, ones", [("none", 0), ("question", 3), ("first", None)])
def test_a_task_chooses_which_tokens_are_global(which, ones):
  tokenizer = directory.Directory(FIXTURES / "roberta_mlm").tokenizer
  task = Tagging(data={}, tokenizer=tokenizer, labels=("a",), global_attention=which)
  eos = tokenizer.roles.eos
  mask = task.global_mask(dict(source=jnp.array([[0, 9, 8, eos, eos, 7, eos]])))
  assert (mask is None) if ones is None else (mask[0].tolist() == [1] * ones + [0] * (7 - ones))
  settings = dict(decoder_layers=0, window=2, global_tokens=4, positions="learned")
  model, row = build(**settings), batch([1, 9, 8, 2, 7, 7, 7, 2])
  ours = task.encode(model, row)
  whole = model.encode(row["source"], global_mask=mask_of(which, row["source"]))
  np.testing.assert_allclose(ours, whole, atol=1e-6)


@pytest.mark.parametrize(
  "name, which, count",
  [("classification", "first", 1), ("qa", "question", 28), ("tagging", "none", 1)],
)
def test_a_start_from_a_longformer_has_its_global_tokens(name, which, count):
  section = dict(name=name, source_len=24, pool="first", pool_activation="tanh", transform="")
  start = dict(workdir=f"hf:{FIXTURES / 'longformer_mlm'}")
  config = inheriting.resolve(dict(model=dict(inherit="encoder"), init_from=start, task=section))
  assert config["task"]["global_attention"] == which
  assert not config["task"]["pack"]
  assert config["model"]["global_tokens"] == count
  assert config["model"]["global_projections"]


def mask_of(which, ids):
  """Returns 1 for the tokens that are global, by a loop."""
  if which == "first":
    return np.ones_like(ids)
  ends = [row.tolist().index(2) if which == "question" else 0 for row in ids]
  return np.array([[int(i < end) for i in range(ids.shape[1])] for end in ends])


def test_global_attention_has_known_values():
  tokenizer = directory.Directory(FIXTURES / "roberta_mlm").tokenizer
  with pytest.raises(UserError, match=r"task\.global_attention is 'all'"):
    Tagging(data={}, tokenizer=tokenizer, labels=("a",), global_attention="all")
