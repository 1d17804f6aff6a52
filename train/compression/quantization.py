"""Quantizes the linear layers and tables of a model: as they are stored, or in training.

A quantized run is of one of two kinds. In training (quantization-aware: Jacob et al. 2018; Zafrir
et al. 2019) weights stay floats, and each product reads them rounded. `train.export --quantize`
stores the integers, with which prediction computes.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.embeddings import Table
from train.common.errors import UserError, idle
from train.common.trees import flatten, is_stacked, leading, single_layers
from train.compression import integers, linears
from train.compression.integers import Axes

# Defaults of the config's section `quantize`.
QUANTIZE = dict(
  weights="",  # "int8", "int4" or "fp8"; "": nothing is quantized
  activations="",  # "int8" or "fp8": what the layers read, too, each row by its own range
  static=False,  # ... all rows by one range, which an export has found on data
  group=0,  # inputs that share a scale; 0: all of an output's
  layers=(".",),  # patterns of the paths of linear layers and tables
  skip=(),  # patterns of those among them that stay floats
  stored=False,  # weights are stored as integers, as `train.export --quantize` writes them
)
SCALE, RANGE = "_scale", "input_range"  # a weight's scale is beside it: kernel_scale
SWITCHED = ("activations", "static", "group", "stored")  # refused without `weights`
BESIDE = (f"kernel{SCALE}", f"embedding{SCALE}", f"/{RANGE}")


@dataclasses.dataclass(frozen=True)
class How:
  """Settings by which a layer is quantized."""

  weights: str
  activations: str
  group: int
  axes: Axes


@dataclasses.dataclass(frozen=True)
class FakeProduct:
  """A layer's `dot_general` of rounded inputs and weights, with the gradients of `inner`."""

  inner: Callable
  how: How

  def __call__(self, x, weight, numbers, *args, **kwargs):
    how = self.how
    if how.activations:
      x = integers.fake_rows(x, how.activations, len(how.axes.inputs))
    weight = integers.fake(weight, how.weights, how.axes, how.group)
    return self.inner(x, weight, numbers, *args, **kwargs)


def fake_table(table_class: type) -> type:
  """Returns the class of tables that look up and multiply with rounded vectors."""

  class FakeTable(table_class):
    def look_up(self, ids):
      rows = super().look_up(ids)
      axes = Axes((rows.ndim - 1,), rows.ndim - 1)
      return integers.fake(rows, self.how.weights, axes, self.how.group)

    def attend(self, x):
      if self.how.activations:
        x = integers.fake_rows(x, self.how.activations, 1)
      how, whole = self.how, self.embedding[...]
      rounded = integers.fake(whole.astype(self.dtype), how.weights, how.axes, how.group)
      numbers = ((x.ndim - 1,), (1,)), ((), ())
      return jax.lax.dot_general(x.astype(self.dtype), rounded, numbers)

  return FakeTable


def stored_layer(layer_class: type) -> type:
  """Returns the class of linear layers whose kernel is stored as integers."""

  class StoredLayer(layer_class):
    def __call__(self, inputs, *args, **kwargs):
      del args, kwargs
      y = _product(self, inputs.astype(self.dtype or jnp.float32), "kernel")
      return y if self.bias is None else y + self.bias[...].astype(y.dtype)

  return StoredLayer


def stored_table(table_class: type) -> type:
  """Returns the class of tables whose vectors are stored as integers."""

  class StoredTable(table_class):
    def look_up(self, ids):
      rows, scales = (jnp.take(x[...], ids, axis=0) for x in (self.embedding, self.embedding_scale))
      axes = Axes((rows.ndim - 1,), rows.ndim - 1)
      return integers.dequantize(rows, scales, self.how.weights, axes, self.dtype)

    def attend(self, x):
      return _product(self, x.astype(self.dtype), "embedding")

  return StoredTable


def _product(module: nnx.Module, x, name: str):
  """Returns the product of `x` with the module's weight `name`, which is stored as integers."""
  how, span = module.how, getattr(module, RANGE)[...] if hasattr(module, RANGE) else None
  values, scale = (getattr(module, key)[...] for key in (name, name + SCALE))
  return integers.product(x, values, scale, how.weights, how.axes, how.activations, span)


def none(path: str) -> bool:
  """Returns that the weight at a path is not left as it is."""
  del path
  return False


def find(
  model: nnx.Module, settings: Mapping, leave: Callable[[str], bool] = none
) -> dict[str, tuple[nnx.Module, How]]:
  """Returns the path of each weight that the settings name, and `leave` does not, -> its layer or
  table, and how that is quantized.

  Raises UserError for a pattern that matches nothing, and for a weight that cannot be cut into the
  settings' groups.
  """
  patterns = [("quantize.layers", settings["layers"]), ("quantize.skip", settings["skip"])]
  chosen, left = (linears.find(model, named, key, Table) for key, named in patterns)
  found = {}
  for path, module in chosen.items():
    if path in left:
      continue
    if isinstance(module, Table):
      path, shape, axes = f"{path}/embedding", module.embedding.shape, Axes((1,), 1)
    else:
      _, inputs, outputs = linears.shapes(path, module)
      path, shape, axes = f"{path}/kernel", inputs + outputs, Axes(tuple(range(len(inputs))), 0)
    if leave(path):
      continue
    _check_size(path, shape, axes, settings)
    found[path] = module, How(settings["weights"], settings["activations"], settings["group"], axes)
  return found


def apply(model: nnx.Module, settings: Mapping, leave: Callable[[str], bool] = none) -> None:
  """Changes the model's layers to those that compute with rounded weights or, where they are
  stored, with integers, whose values and scales are 0; weights that `leave` names stay."""
  for path, (module, how) in find(model, settings, leave).items():
    is_table, name = isinstance(module, Table), path.rpartition("/")[2]
    if settings["stored"]:
      shape = getattr(module, name).shape
      if is_stacked(path):
        raise UserError("quantize.stored: model.scan_layers stacks layers: set it to False")
      values, scale = (jnp.zeros(x.shape, x.dtype) for x in _stored_shapes(shape, how))
      setattr(module, name, nnx.Param(values))
      setattr(module, name + SCALE, nnx.Param(scale))
      if settings["static"]:
        setattr(module, RANGE, nnx.Param(jnp.zeros(())))
      linears.change(module, stored_table if is_table else stored_layer)
      module.how = how
    elif is_table:
      linears.change(module, fake_table)
      module.how = how
    else:
      module.dot_general = FakeProduct(module.dot_general, how)


class Stored(NamedTuple):
  """Weights as they are stored, and what that changes."""

  weights: dict[str, Any]  # path -> array
  errors: dict[str, float]  # path -> the norm of the change over that of the weight


def store(
  model: nnx.Module,
  settings: Mapping,
  weights: Mapping,
  ranges: Mapping[str, float] = types.MappingProxyType({}),
  leave: Callable[[str], bool] = none,
) -> Stored:
  """Returns the weights (path -> array) of a model with those integers that the settings name, and
  `leave` does not.

  `ranges` are those of what each layer reads (calibration.py), where settings.static is True.
  """
  stored, errors = dict(weights), {}
  for path, (module, how) in find(model, settings, leave).items():
    weight = jnp.asarray(weights[path], jnp.float32)
    values, scale = integers.quantize(weight, how.weights, how.axes, how.group)
    rounded = integers.dequantize(values, scale, how.weights, how.axes)
    norm = jnp.maximum(jnp.linalg.norm(weight), 1e-30)
    errors[path] = float(jnp.linalg.norm(rounded - weight) / norm)
    stored[path], stored[path + SCALE] = np.asarray(values), np.asarray(scale)
    if settings["static"]:
      layer = path.rpartition("/")[0]
      if layer not in ranges and not isinstance(module, Table):
        raise UserError(f"--calibrate: {layer} has read nothing on the split")
      # a table that is looked up alone reads no vectors
      stored[f"{layer}/{RANGE}"] = jnp.float32(ranges.get(layer, 1.0))
  return Stored(stored, errors)


def floats(
  weights: Mapping, settings: Mapping, model: nnx.Module, leave: Callable[[str], bool] = none
) -> dict[str, Any]:
  """Returns path -> array of weights that `store` returned, as floats again."""
  whole = {path: x for path, x in weights.items() if not path.endswith(BESIDE)}
  for path, (_, how) in find(model, settings, leave).items():
    scale = jnp.asarray(weights[path + SCALE])
    values = jnp.asarray(weights[path])
    whole[path] = np.asarray(integers.dequantize(values, scale, how.weights, how.axes))
  return whole


def of_single_layers(
  settings: Mapping, model: nnx.Module, leave: Callable[[str], bool] = none
) -> dict:
  """Returns the settings with patterns of the same layers where each has its own path; those of
  `model` may be stacked. `leave` is that of `find`."""
  names = {path.rpartition("/")[0] for path in find(model, settings, leave)}
  leads = leading(flatten(nnx.to_pure_dict(nnx.state(model))))
  patterns = {f"^{single_layers(name, leads)}$" for name in names}
  return {**settings, "layers": tuple(sorted(patterns)), "skip": ()}


def count(weights: Mapping) -> int:
  """Returns how many weights (path -> array) there are: two in a byte, and no scales."""
  own = (x for path, x in weights.items() if not path.endswith(BESIDE))
  return sum(x.size * (2 if x.dtype == jnp.uint8 else 1) for x in own)


def check(settings: Mapping, model: str = "transformer") -> None:
  """Raises UserError for a section `quantize` that cannot be, and for a `model` other than a
  Transformer, before anything is read."""
  if not settings["weights"]:
    for sentence in idle("quantize", settings, QUANTIZE, "weights", SWITCHED):
      raise UserError(sentence)
    return
  if model != "transformer":
    raise UserError(f"quantize.weights: a model of the kind {model} is not quantized")
  if settings["activations"] and settings["group"]:
    raise UserError(
      "quantize.group: with activations, all inputs share a scale: set it to 0 (--group 0)"
    )
  if settings["activations"] and settings["weights"] == "int4":
    raise UserError("quantize.activations: int4 weights are multiplied as floats: set it to ''")
  if settings["activations"] == "int8" and settings["weights"] == "fp8":
    raise UserError("quantize.activations=int8 has no product with fp8 weights: set it to 'fp8'")
  if settings["static"] and not (settings["activations"] and settings["stored"]):
    raise UserError(
      "quantize.static is what `train.export --quantize --calibrate SPLIT` finds: set it to False"
    )


def _stored_shapes(shape, how: How):
  weight = jax.ShapeDtypeStruct(shape, jnp.float32)
  return jax.eval_shape(lambda x: integers.quantize(x, how.weights, how.axes, how.group), weight)


def _check_size(path: str, shape, axes: Axes, settings: Mapping) -> None:
  size, group = shape[axes.inputs[-1]], settings["group"]
  if group and size % group:
    raise UserError(
      f"quantize.group {group} does not divide the {size} inputs of {path}: set it to a number that"
      " does, or name the layer in quantize.skip"
    )
  if settings["weights"] == "int4" and shape[axes.packed] % 2:
    raise UserError(
      f"quantize.weights=int4: {path} has {shape[axes.packed]} rows, an odd number, of which no two"
      " share a byte: name it in quantize.skip"
    )
