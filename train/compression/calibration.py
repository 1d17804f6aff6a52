"""Finds the ranges of what a model's layers read, by which an export quantizes activations."""

import contextvars
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import nnx

from model.placement import bind
from train.compression import linears, quantization

_RANGES = contextvars.ContextVar("ranges", default=None)


def observed(module_class: type) -> type:
  """Returns the class of layers and tables that note the largest magnitude of what they read."""

  def note(module, inputs):
    seen, span = _RANGES.get(), jnp.abs(inputs).max().astype(jnp.float32)
    seen[module.path] = jnp.maximum(seen.get(module.path, 0.0), span)

  class Observed(module_class):
    def __call__(self, inputs, *args, **kwargs):
      note(self, inputs)
      return super().__call__(inputs, *args, **kwargs)

    def attend(self, x):
      note(self, x)
      return super().attend(x)

  return Observed


def watch_ranges(model: nnx.Module, settings: Mapping) -> None:
  """Makes the layers that the settings name note what they read (`ranges_of`)."""
  for path, (module, _) in quantization.find(model, settings).items():
    linears.change(module, observed)
    module.path = path.rpartition("/")[0]


def ranges_of(compute: Callable) -> Callable:
  """Returns the function that returns what `compute` does, and path -> the largest magnitude that
  each layer has read."""

  def computed(*args):
    with bind(_RANGES, {}):
      return compute(*args), dict(_RANGES.get())

  return computed
