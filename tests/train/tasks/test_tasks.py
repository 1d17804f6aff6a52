"""What holds for every objective: packed = separate, and one batch can be learned by heart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.tasks.helpers import KINDS, LSTM, MODEL, build, layout
from train.data.batches import Batches, eval_batches
from train.record.meter import means
from train.step import make_eval_step, make_train_step

# Of an LSTM one of each head and of each kind of stack.
BY_LSTM = ("mlm", "causal", "prefix", "text to text", "mixture", "classes", "tagging", "qa")
every_kind = pytest.mark.parametrize(
  "name, body",
  [*((name, MODEL) for name in KINDS), *((name, LSTM) for name in BY_LSTM)],
  ids=[*KINDS, *(f"{name} by an lstm" for name in BY_LSTM)],
)


@every_kind
def test_packed_rows_lose_what_separate_rows_lose(name, body, data, tmp_path):
  task, graph, params = build(name, data, tmp_path, body)
  # a fresh model's biases and heads are alike everywhere: shake it
  params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params)
  # rows twice as long as a window, where a task does not hold them to be as long
  wide = dict(source_len=2 * task.source_len) if "stride" in KINDS[name][1] else {}
  step, totals, rows = make_eval_step(task, graph), [], []
  for pack in (True, False):
    shape = layout(task, pack=pack, **wide)
    batches = list(eval_batches(task.items("train"), shape))
    sums = [jax.device_get(step(params, batch)) for batch in batches]
    totals.append(jax.tree.map(lambda *parts: np.float64(sum(parts)), *sums))
    rows.append(len(batches))
  assert rows[0] < 0.8 * rows[1]  # something was packed
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5), *totals)


@every_kind
def test_a_batch_is_learned_by_heart(name, body, data, tmp_path):
  task, graph, params = build(name, data, tmp_path, body)
  with Batches(task.items("train"), layout(task, batch_size=2), seed=0) as stream:
    batch = next(stream)
  tx = optax.adam(1e-2)
  step = make_train_step(task, graph, tx, microbatches=1, seed=0)
  state, losses = dict(step=jnp.int32(0), params=params, opt_state=tx.init(params)), []
  for _ in range(60):
    state, sums = step(state, batch)
    losses.append(means(sums)["loss"])
  assert losses[-1] < 0.1 * losses[0]
