"""Chooses the heads and feed-forward units that a model loses least without, and cuts them out: the
model is then smaller, not masked.

The importance of a head is the mean over rows of |gate * d loss / d gate| for a gate of 1 on its
output (Michel et al. 2019, section 4.1); that of a unit likewise. Every layer keeps as many.
"""

import collections
import contextvars
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.placement import bind
from model.settings import RELATIVE
from train.common.errors import UserError
from train.compression import linears

# The layers that read what heads and units compute.
HEADS, UNITS = r"(self_attention|cross_attention)/out$", r"mlp/down$"
# Those of an attention that make the vectors of its heads.
PROJECTIONS = ("query", "key", "value", "position_query", "position_key")
PROJECTIONS += ("query_global", "key_global", "value_global")
_GATES = contextvars.ContextVar("gates", default=None)


def gated(layer_class: type) -> type:
  """Returns the class of layers whose inputs, heads [..., H, K] or units [..., F], have gates."""

  class Gated(layer_class):
    def __call__(self, inputs, *args, **kwargs):
      gate_BX = _GATES.get()[self.path].astype(inputs.dtype)  # [B, H] or [B, F]
      shape = (len(gate_BX), *(1,) * (inputs.ndim - self.gate_axis - 1), gate_BX.shape[1])
      gate = gate_BX.reshape(shape + (1,) * (self.gate_axis - 1))
      return super().__call__(inputs * gate, *args, **kwargs)

  return Gated


def add_gates(model: nnx.Module) -> dict[str, int]:
  """Gives the model's heads and units gates; returns path -> their number in each layer."""
  sizes = {}
  for pattern in (HEADS, UNITS):
    for path, layer in linears.find(model, (pattern,), "pruning").items():
      _, inputs, _ = linears.shapes(path, layer)
      linears.change(layer, gated)
      layer.path, layer.gate_axis = path, len(inputs)
      sizes[path] = inputs[0]
  return sizes


def with_gates(compute: Callable, gates: Mapping[str, jax.Array]):
  """Returns what `compute()` does where the gates of each layer have these values, [B, X]."""
  with bind(_GATES, gates):
    return compute()


def importance(task, model: nnx.Module, sizes: Mapping[str, int], batch) -> dict[str, jax.Array]:
  """Returns path -> the summed importance [X] of a layer's heads or units for a batch's rows."""
  rows = len(jax.tree.leaves(batch)[0])

  def loss(gates):
    return with_gates(lambda: task.loss(model, batch, None)["loss"][0], gates)

  ones = {path: jnp.ones((rows, size)) for path, size in sizes.items()}
  return {path: jnp.abs(gradient).sum(0) for path, gradient in jax.grad(loss)(ones).items()}


def choose(
  values: Mapping[str, np.ndarray], config: Mapping, *, heads: float, units: float
) -> dict[str, np.ndarray]:
  """Returns path -> the heads or units of a layer to keep, in their order, of its importances.

  `heads` and `units` are the shares to keep. The heads of a stack that shares a relative bias are
  the same in all its layers. Raises UserError for heads that cannot go one by one.
  """
  groups = collections.defaultdict(list)
  for path in values:
    is_head = re.search(HEADS, path) is not None
    if (heads if is_head else units) == 1:
      continue
    shared = is_head and "self_attention" in path and _shares_bias(config)
    groups[path.partition("/blocks/")[0] if shared else path].append(path)
  if heads != 1:
    _check_heads(config)
  kept = {}
  for paths in groups.values():
    total = np.sum([values[path] for path in paths], axis=0)
    share = heads if re.search(HEADS, paths[0]) else units
    count = max(1, round(share * len(total)))
    best = np.sort(np.argsort(-total, kind="stable")[:count])
    kept |= dict.fromkeys(paths, best)
  return kept


def cut(weights: Mapping, kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns path -> array of the model with the kept heads and units alone."""
  smaller = {path: np.asarray(weight) for path, weight in weights.items()}

  def take(path, chosen, axis):
    if path in smaller:
      smaller[path] = np.take(smaller[path], chosen, axis)

  for path, chosen in kept.items():
    layer = path.rpartition("/")[0]
    if path.endswith("out"):
      take(f"{path}/kernel", chosen, 0)  # [H, K, D]
      for name in PROJECTIONS:
        take(f"{layer}/{name}/kernel", chosen, 1)  # [D, H, K]
        take(f"{layer}/{name}/bias", chosen, 0)
      take(f"{layer}/relative/embedding", chosen, 1)  # [buckets, H]
      stack = path.partition("/blocks/")[0]
      if path.endswith("blocks/0/self_attention/out"):
        take(f"{stack}/relative/embedding", chosen, 1)
        take(f"{stack}/block_relative/embedding", chosen, 1)
    else:
      take(f"{path}/kernel", chosen, 0)  # [F, D]
      for name in ("up", "gate"):
        take(f"{layer}/{name}/kernel", chosen, 1)
        take(f"{layer}/{name}/bias", chosen, 0)
  return smaller


def smaller_config(config: Mapping, kept: Mapping[str, np.ndarray]) -> dict:
  """Returns the section `model` of the model with the kept heads and units."""
  changed = dict(config)
  for stack, prefix in (("encoder", ""), ("decoder", "decoder_")):
    heads = {len(x) for path, x in kept.items() if path.startswith(stack) and path.endswith("out")}
    units = {len(x) for path, x in kept.items() if path.startswith(stack) and path.endswith("down")}
    lone = prefix and not config["encoder_layers"]  # a decoder alone has the plain names
    name = "" if lone else prefix
    if heads:
      before = config[f"{name}heads" if name else "num_heads"] or config["num_heads"]
      size = config[f"{name}head_dim"] or config["head_dim"] or config["dim"] // before
      changed[f"{name}heads" if name else "num_heads"] = heads.pop()
      changed[f"{name}head_dim"] = size
      changed[f"{name}kv_heads" if name else "num_kv_heads"] = None
    if units:
      changed[f"{name}mlp_dim"] = units.pop()
  return changed


def _shares_bias(config: Mapping) -> bool:
  return config["positions"] in RELATIVE and not config["relative_per_layer"]


def _check_heads(config: Mapping) -> None:
  if config["positions"] == "alibi":
    raise UserError("--heads: each head of alibi has a slope by its number: heads cannot go")
  for name, heads in (("num_kv_heads", "num_heads"), ("decoder_kv_heads", "decoder_heads")):
    if config[name] not in (None, config[heads] or config["num_heads"]):
      raise UserError(f"--heads: model.{name} is {config[name]}: several heads share keys")
