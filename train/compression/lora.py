"""Adapts a frozen model by low-rank updates of its linear layers (LoRA: Hu et al. 2021).

A layer's kernel W becomes W + alpha / rank * A B, with A [in, rank] and B [rank, out]. Only A, B
and what `lora.train` names are trained, optimized and saved.
"""

import contextvars
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model import layers
from model.placement import bind
from train.common.errors import UserError
from train.common.trees import is_stacked
from train.compression import linears

# Defaults of the config's section `lora`.
LORA = dict(
  rank=0,  # 0: all weights are trained
  alpha=16.0,
  dropout=0.0,  # of what the adapters read
  layers=(r"(query|value)$",),  # patterns of the paths of linear layers
  train=(r"^head/",),  # patterns of the paths of other weights to train
)
A, B = "lora_a", "lora_b"
NEW = rf"/({A}|{B})$"  # the weights that a model to start from lacks
_KEYS = contextvars.ContextVar("keys", default=None)


def adapted(layer_class: type) -> type:
  """Returns the class of linear layers with a low-rank update beside their kernel."""

  class Adapted(layer_class):
    def __call__(self, inputs, *args, **kwargs):
      output = super().__call__(inputs, *args, **kwargs)
      rank, dropout, scale, number = self.lora
      axes = len(self.axis) if isinstance(self, nnx.LinearGeneral) else 1
      a, b = (getattr(self, name)[...].astype(output.dtype) for name in (A, B))
      x, keys_B = inputs.astype(output.dtype), _KEYS.get()
      if dropout and keys_B is not None and len(x) == len(keys_B):
        own_B = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys_B)
        x = layers.dropout(x, dropout, own_B)
      low = linears.flat_product(x, a.reshape(-1, rank), axes)
      update = (low @ b.reshape(rank, -1)) * scale
      return output + update.reshape(output.shape)

  return Adapted


def adapt(model: nnx.Module, settings: Mapping, rngs: nnx.Rngs) -> None:
  """Adds adapters to the model's linear layers: A is drawn evenly from -1/sqrt(in) to 1/sqrt(in),
  as in PEFT, and B is 0, so that the model computes what it did.

  Raises UserError for a pattern that matches no layer, and for dropout in scanned layers.
  """
  rank = settings["rank"]
  found = linears.find(model, settings["layers"], "lora.layers")
  for number, (path, layer) in enumerate(sorted(found.items())):
    stacked, inputs, outputs = linears.shapes(path, layer)
    if stacked and settings["dropout"]:
      raise UserError("lora.dropout: scanned layers have none: set model.scan_layers=False")
    bound = float(np.prod(inputs)) ** -0.5
    shape = (*stacked, *inputs, rank)
    draw = jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)
    linears.change(layer, adapted)
    layer.lora = (rank, settings["dropout"], settings["alpha"] / rank, number)
    setattr(layer, A, nnx.Param(draw))
    setattr(layer, B, nnx.Param(jnp.zeros((*stacked, rank, *outputs))))


def is_trained(settings: Mapping) -> Callable[[str], bool]:
  """Returns whether the weight at a path is trained, as a function of the path."""
  if not settings["rank"]:
    return lambda path: True
  patterns = (NEW, r"^distill/", *settings["train"])
  return lambda path: any(re.search(pattern, path) for pattern in patterns)


def merge(weights: Mapping, settings: Mapping) -> dict:
  """Returns path -> array of the model without adapters, each kernel with its update added."""
  scale, merged = settings["alpha"] / settings["rank"], dict(weights)
  for path in [path for path in weights if path.endswith(f"/{A}")]:
    layer = path.removesuffix(A)
    a, b = (np.asarray(merged.pop(layer + name), np.float32) for name in (A, B))
    kernel, rank = np.asarray(merged[f"{layer}kernel"]), a.shape[-1]
    stacked = a.shape[:1] if is_stacked(path) else ()
    update = scale * (a.reshape(*stacked, -1, rank) @ b.reshape(*stacked, rank, -1))
    merged[f"{layer}kernel"] = kernel + update.reshape(kernel.shape).astype(kernel.dtype)
  return merged


def dropout_keys(keys_B):
  """Draws the adapters' dropout from a key for each row [B] until the block ends; None: none."""
  return bind(_KEYS, keys_B)


def check(settings: Mapping, init: str, model: str, quantize: Mapping) -> None:
  """Raises UserError for a section `lora` without weights to adapt (`init`), or without layers; for
  a `model` other than a Transformer, and for a section `quantize` that does not store the base."""
  if not settings["rank"]:
    return
  if not init:
    raise UserError("lora.rank: there is nothing to adapt: name a model (init_from.workdir)")
  if model != "transformer":
    raise UserError(f"lora.rank: a model of the kind {model} has no adapters")
  if quantize["weights"] and not quantize["stored"]:
    raise UserError(
      f"lora.rank: quantize.weights={quantize['weights']} rounds a kernel with its update in"
      " prediction and without it in training: set quantize.stored=True, which holds the frozen"
      " weights as integers (QLoRA), or one of the two alone"
    )
  if quantize["activations"]:
    raise UserError(
      "lora.rank: quantize.activations has no gradient, and adapters below need one: set it to ''"
    )
  if not settings["layers"]:
    raise UserError("lora.layers is empty: name patterns of layers to adapt")


def check_train(names: Sequence[str], patterns: Sequence[str]) -> None:
  """Raises UserError for a pattern of `lora.train` that matches none of the paths `names` of a
  model's weights; the usual one may, as models without a head have no such."""
  for pattern in patterns:
    if pattern not in LORA["train"] and not any(re.search(pattern, name) for name in names):
      raise linears.no_match("lora.train", pattern, names, "weight")


def check_rates(names: Sequence[str], rates: Sequence) -> None:
  """Raises UserError where the first rate that matches the path of an adapter is 0."""
  for name in filter(re.compile(NEW).search, names):
    first = next((factor for pattern, factor in rates if re.search(pattern, name)), 1.0)
    if first == 0:
      raise UserError(
        f"optimizer.rates freezes {name}, which lora trains: lora freezes all other weights itself;"
        " leave rates out"
      )
