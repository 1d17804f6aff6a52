"""Opens tiny models of Hugging Face's families (tests/fixtures) and computes their outputs."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.helpers import FIXTURES
from train.common.trees import path_name
from train.interop import directory
from train.interop.families import POOLED

CHOICES = 2  # of a text, in the fixtures
NAMES = sorted(path.parent.name for path in FIXTURES.glob("*/config.json"))


def open_fixture(name):
  return directory.Directory(FIXTURES / name)


def build(source):
  """Builds the model of a directory with its weights."""
  graph, state = nnx.split(nnx.eval_shape(source.build))
  params = jax.tree_util.tree_map_with_path(
    lambda path, _: jnp.asarray(np.asarray(source.params[path_name(path)])), nnx.to_pure_dict(state)
  )
  return nnx.merge(graph, params)


def outputs(source, batch):
  """Returns what a directory's model computes from a batch, by Hugging Face's names."""
  model, ids, mask = build(source), batch["input_ids"], batch["attention_mask"]
  if source.kind == "causal":
    return dict(logits=model.logits(model.decode(ids, segments=mask)))
  if source.kind == "translation":
    inputs = batch["decoder_input_ids"]
    memory = model.encode(ids, mask)
    return dict(logits=model.logits(model.decode(inputs, memory, mask, np.ones_like(inputs))))
  hidden = model.encode(ids, mask, types=batch.get("token_type_ids"))
  if source.kind == "mlm":
    return dict(logits=model.logits(model.head(hidden)))
  if source.kind == "body" and not source.pooler:
    return dict(last_hidden_state=hidden)
  if source.kind == "body":
    states = dict(last_hidden_state=hidden)
    if source.pooler:
      kernel, bias = (np.asarray(source.params[f"head/dense/{x}"]) for x in ("kernel", "bias"))
      states["pooler_output"] = jnp.tanh(hidden[:, 0] @ kernel + bias)
    return states
  labels = model.head(hidden, mask)
  if source.kind == "choice":
    return dict(logits=labels[:, 0, 0].reshape(-1, CHOICES))
  if source.kind == "replaced":
    return dict(logits=labels[..., 0])
  if source.kind == "qa":
    return dict(start_logits=labels[..., 0], end_logits=labels[..., 1])
  return dict(logits=labels[:, 0] if source.kind in POOLED else labels)
