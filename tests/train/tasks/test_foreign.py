"""Tasks with tokenizers of other programs, whose special tokens are others: what models read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import heads
from model.config import TransformerConfig
from model.transformer import Transformer
from tests.train.data.helpers import BART, BERT, GPT2
from train.data import batches
from train.data.tokenizer import Tokenizer
from train.tasks import causal, mlm, tagging, translation

TABLE = 270  # rows: more than any of the vocabularies has
CFG = dict(vocab_size=TABLE, dim=16, num_heads=2, mlp_dim=16, dropout=0.0, attention_dropout=0.0)
SHORT = dict(beam=1, max_len_ratio=0.0, max_len_extra=6)


def asked(task, examples):
  items = task.requests(examples)
  (batch,) = batches.requests(items, len(examples), task.source_len or task.target_len)
  return {key: jnp.asarray(value) for key, value in batch.items()}


@pytest.mark.parametrize("beam, forced", [(1, (256,)), (2, (256,)), (1, ())])
def test_what_begins_a_target_is_forced_and_has_no_score(beam, forced):
  model = Transformer(
    TransformerConfig(**CFG, encoder_layers=1, decoder_layers=1), rngs=nnx.Rngs(0)
  )
  one = Tokenizer(BART._inner, dataclasses.replace(BART.roles, target_first=forced))
  task = translation.Translation(
    data={}, tokenizer=one, source_len=8, target_len=8, decoding=SHORT | dict(beam=beam)
  )
  batch = asked(task, [{"source": "cat"}])
  assert batch["source"][0].tolist() == [256, *BART.encode_batch(["cat"])[0], 258, 0, 0, 0]
  found = jax.jit(task.predict, static_argnums=2)(model, batch, task.settings())
  said = found["tokens"][0, 0, : int(found["lengths"][0, 0])].tolist()
  assert len(said) <= 6 == found["tokens"].shape[-1]
  assert said[-1] == 258
  memory_BSD = model.encode(batch["source"], batch["source_segments"], batch["source_positions"])
  inputs_BT = jnp.asarray([[258, *forced, *said[:-1]]])
  log_TV = np.array(
    jax.nn.log_softmax(
      model.logits(
        model.decode(inputs_BT, memory_BSD, batch["source_segments"], jnp.ones_like(inputs_BT))
      )[0, len(forced) :]
    )
  )
  if beam == 1:
    log_TV[:, 257] = -np.inf  # pad
    assert said[:-1] == log_TV.argmax(-1)[:-1].tolist()
  total = sum(log[i] for log, i in zip(log_TV, said))
  # what is forced counts in an output's length, not in its probability
  weight = ((5 + len(forced) + len(said)) / 6) ** (0.6 if beam > 1 else 0)
  assert float(found["scores"][0, 0]) == pytest.approx(total / weight, rel=1e-4)


def test_a_prompt_is_behind_what_begins_a_text_or_the_start():
  for one, first, start in ((GPT2, [], [258]), (BART, [256], [256])):
    task = causal.Causal(data={}, tokenizer=one, target_len=3, decoding=SHORT)
    rows = task.requests([{"text": "ca"}, {"text": ""}, {"text": "cats"}]).ids
    cats = one.encode_batch(["cats"])[0]
    assert rows == [[*first, *cats[:2]], start, [*first, *cats[len(first) - 3 :]]]


def test_words_for_a_mask_are_none_of_the_special_tokens_nor_beyond_the_vocabulary():
  class Model:
    cfg = None

    def encode(self, source, segments, positions, key):
      del segments, positions, key
      return source[..., None]

    def head(self, x):
      return x

    def logits(self, x):  # the later in the table, the likelier
      return jnp.broadcast_to(jnp.arange(20.0), (*x.shape[:2], 20))

  task = mlm.Mlm(data={}, tokenizer=BERT, source_len=8)
  settings = task.settings(top_k=3)
  examples = [task.example("the [MASK] sat")]
  batch = asked(task, examples)
  assert batch["source"][0, :5].tolist() == [12, 0, 14, 4, 13]
  found = task.predict(Model(), batch, settings)
  assert found["tokens"][0, 2].tolist() == [9, 8, 7]
  probs = np.asarray(jax.nn.softmax(jnp.arange(20.0)))
  np.testing.assert_allclose(found["probs"][0, 2], probs[[9, 8, 7]], rtol=1e-6)
  predictions = [{name: values[0] for name, values in found.items()}]
  (output,) = task.outputs(examples, None, predictions, settings)
  assert output["text"] == "the? sat"
  assert [word["word"] for word in output["masks"][0]] == ["?", "mat", "on"]


@pytest.mark.parametrize("typed", [False, True])
def test_types_are_passed_where_they_are(typed):
  """To everything that encodes; a model without types is not asked for any."""
  got = []

  class Model:
    decoder = None

    def encode(self, source, segments, positions, **more):
      got.append(more)
      return source

    def head(self, x, *_):
      return x

    def decode(self, *_, **__):
      return None

    def logits(self, _):
      return jnp.zeros((1, 2, 4))

  ones = jnp.ones((1, 2), jnp.int32)
  keys = ("source", "source_segments", "source_positions", "inputs", "segments", "positions")
  batch = dict.fromkeys((*keys, "labels", "weights"), ones)
  if typed:
    batch["source_types"] = "types"
  tagging.Tagging(data={}, tokenizer=BERT).logits(Model(), batch)
  translation.Translation(data={}, tokenizer=BERT).loss(Model(), batch, None)
  assert got == [{"key": None} | ({"types": "types"} if typed else {})] * 2


def test_a_masked_model_learns_with_other_special_tokens():
  cfg = TransformerConfig(**CFG, encoder_layers=1)
  model = Transformer(cfg, rngs=nnx.Rngs(0))
  model.head = heads.MaskedLmHead(cfg, rngs=nnx.Rngs(0))
  task = mlm.Mlm(data={}, tokenizer=BERT, source_len=8, rate=0.5)
  batch = {
    "source": jnp.asarray([[12, 0, 14, 4, 13, 0, 0, 0]]),
    "source_segments": jnp.asarray([[1, 1, 1, 1, 1, 0, 0, 0]]),
    "source_positions": jnp.asarray([[0, 1, 2, 3, 4, 0, 0, 0]]),
    "labels": jnp.asarray([[0, 0, 2, 0, 0, 0, 0, 0]]),
    "weights": jnp.asarray([[0, 0, 1.0, 0, 0, 0, 0, 0]]),
  }
  states = model.encode(batch["source"], batch["source_segments"], batch["source_positions"])
  expected = -jax.nn.log_softmax(model.logits(model.head(states)))[0, 2, 2]
  total, weight = task.loss(model, batch, None)["loss"]
  assert float(total / weight) == pytest.approx(float(expected), rel=1e-5)
