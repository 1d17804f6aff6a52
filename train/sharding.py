"""Devices as a named mesh, and where each weight is split.

The model knows nothing of this: a weight is placed by its path. The optimizer's moments end in the
path of their weight and so land beside it.
"""

import functools
import math
import re

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from model import placement
from train.common.errors import UserError
from train.common.trees import is_stacked, path_name

AXES = ("data", "fsdp", "tensor")
RULES = (
  (r"(query|key|value)/kernel$", P("fsdp", "tensor", None)),  # [D, H, K]
  (r"(input|general|combine|first)/kernel$", P("fsdp", None)),  # [D, F], [D, D]: an LSTM's
  (r"recurrent/kernel$", P()),  # [D, F]: needed anew at each token
  (r"(input|first)/bias$", P()),  # [F]
  (r"(query|key|value)/bias$", P("tensor", None)),  # [H, K]
  (r"out/kernel$", P("tensor", None, "fsdp")),  # [H, K, D]
  (r"mlp/(up|gate)/kernel$", P("fsdp", "tensor")),  # [D, F]
  (r"mlp/(up|gate)/bias$", P("tensor")),  # [F]
  (r"mlp/down/kernel$", P("tensor", "fsdp")),  # [F, D]
  (r"(^|/)(source_)?embedding/embedding$", P("tensor", "fsdp")),  # [V, D]
  (r"embeddings/(positions|types)/embedding$", P(None, "fsdp")),  # [T, D]
  (r"embeddings/projection/kernel$", P(None, "fsdp")),  # [E, D]
  (r"(^|/)output/kernel$", P("fsdp", "tensor")),  # [D, V]
  (r"(^|/)output_bias$", P("tensor")),  # [V]
  (r"relative/embedding$", P()),  # [buckets, H]
  (r"(^|/)head/(dense|labels)/(kernel|bias)$", P()),  # [D, D], [D, labels]
  (r"^opt_state/.*ns_coeffs$", P()),  # muon's three numbers
  (r"^recent$", P()),  # losses
  (r"(scale|out/bias|down/bias|norm/bias|projection/bias)$", P()),
)


def make_mesh(sizes, devices=None) -> jax.sharding.Mesh:
  """A mesh of all devices, or of those; one axis may be -1, which takes what the others leave."""
  devices = jax.devices() if devices is None else devices
  shape, count = [sizes[axis] for axis in AXES], len(devices)
  if -1 in shape:
    shape[shape.index(-1)] = count // max(1, int(np.prod([n for n in shape if n > 0])))
  if min(shape) < 1 or np.prod(shape) != count:
    raise UserError(
      f"mesh {dict(zip(AXES, shape))}: the sizes must multiply to the {count} devices"
    )
  kinds = (AxisType.Auto,) * len(AXES)
  if (slices := len({getattr(device, "slice_index", 0) for device in devices})) > 1:
    # Between slices is a network: only batches are split over it.
    if shape[0] % slices:
      raise UserError(
        f"mesh.data is {shape[0]}: make it a multiple of the {slices} slices, which share batches"
        " and no weights"
      )
    within, between = (shape[0] // slices, *shape[1:]), (slices, 1, 1)
    lay = functools.partial(mesh_utils.create_hybrid_device_mesh, within, between, devices)
  else:
    lay = functools.partial(mesh_utils.create_device_mesh, shape, devices)
  try:
    grid = lay()
  except NotImplementedError:  # of a TPU's 4x4, 8 are two of its axes only in part
    grid = lay(allow_split_physical_axes=True)
  return jax.sharding.Mesh(grid, AXES, axis_types=kinds)


def put(batch, mesh):
  """The global batch on the devices, rows split over data and fsdp; each process gives its own."""
  sharding = by_rows(batch, mesh, jax.process_count())
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_by_device(batch, mesh):
  """For pmap: this process's rows as [devices here, rows of each, ...]."""
  if mesh.size != mesh.shape["data"]:
    raise UserError(
      f"parallelism=pmap splits nothing but the batch: mesh {dict(mesh.shape)} is for jit"
    )
  count, rows = jax.local_device_count(), len(jax.tree.leaves(batch)[0])
  _check_shares(rows, count, f"{count} devices")
  return jax.tree.map(lambda x: x.reshape(count, rows // count, *x.shape[1:]), batch)


def by_rows(batch, mesh, processes=1):
  """Where a batch lies of which each process gives as many rows; UserError if devices cannot share
  them."""
  rows, parts = len(jax.tree.leaves(batch)[0]) * processes, mesh.shape["data"] * mesh.shape["fsdp"]
  _check_shares(rows, parts, f"mesh data x fsdp = {parts}")
  return NamedSharding(mesh, P(("data", "fsdp")))


def _check_shares(rows, parts, told):
  if rows % parts:
    raise UserError(f"{rows} rows cannot be shared by {told}: change batch_size")


def rule_of(name, leaf) -> P:
  """Where RULES put a weight, of a single layer."""
  for pattern, spec in RULES:
    if re.search(pattern, name):
      return spec
  raise ValueError(f"no rule in train/sharding.py says where to put {name} {leaf.shape}")


def place(tree, mesh):
  """A sharding for every leaf of `tree`; a weight that no rule matches is an error."""

  def rule(path, leaf):
    name = path_name(path)
    if leaf.ndim == 0:
      return NamedSharding(mesh, P())
    spec = rule_of(name, leaf)
    if is_stacked(name):
      spec = P(None, *spec)
    parts = [1 if axis is None else mesh.shape[axis] for axis in spec]
    if len(spec) <= leaf.ndim and all(n % m == 0 for n, m in zip(leaf.shape, parts)):
      return NamedSharding(mesh, spec)
    if name.startswith("opt_state"):  # adafactor's rows and columns are smaller than their weight
      return NamedSharding(mesh, P())
    table = re.search(r"(^|/)(source_)?embedding/embedding$", name)
    rows = -(-leaf.shape[0] // mesh.shape["tensor"]) * mesh.shape["tensor"]
    hint = f"; model.vocab_size={rows} adds empty rows" if table else ""
    raise UserError(
      f"{name} {leaf.shape} cannot be split {parts} ways: change mesh or the sizes{hint}"
    )

  return jax.tree_util.tree_map_with_path(rule, tree)


def put_whole(batch, mesh):
  """Like `put`, for a batch that every process holds whole."""
  sharding = by_rows(batch, mesh, 1)
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), batch
  )


def placed(tree, where):
  """Its leaves as shapes that lie `where`: one place, or one for each."""
  if isinstance(where, NamedSharding):
    where = jax.tree.map(lambda _: where, tree)
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, where
  )


def check(cfg, task, mesh):
  """UserError where devices cannot share the rows of a microbatch, or the tokens of a row."""
  parts, tensor = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["tensor"]
  if cfg.batch_size % (cfg.microbatches * parts):
    raise UserError(
      f"batch_size {cfg.batch_size}: {cfg.microbatches} microbatches, each shared by mesh data x"
      f" fsdp = {parts}, need a multiple of {cfg.microbatches * parts}"
    )
  if cfg.mesh.sequence and cfg.model.get("name") == "lstm":
    raise UserError("mesh.sequence: an lstm reads a row in order, which no devices can share")
  for side in ("source_len", "target_len") if cfg.mesh.sequence else ():
    if getattr(task, side) % tensor:
      raise UserError(
        f"mesh.sequence: task.{side} {getattr(task, side)} is no multiple of mesh.tensor {tensor}"
      )


def laid_over(mesh, sequence=False):
  """A context to compile a model in. Activations are split by rows, as batches are: left alone, XLA
  would split them along D as a weight's fsdp axis has it, and gather or sum them in place of
  weights. Attention kernels do a part of rows and heads on a device. With `sequence` what lies
  between matrices is split along the row's tokens over the axis tensor (Korthikanti et al. 2022,
  sequence parallelism)."""
  rows, tensor = ("data", "fsdp"), mesh.shape["tensor"]

  def move(x, there, back):
    """`x` as `there`, its gradient as `back` says, where the sizes divide."""
    there, back = (
      NamedSharding(
        mesh, P(*(axis if _divides(mesh, axis, n) else None for axis, n in zip(spec, x.shape)))
      )
      for spec in (there, back)
    )
    return _moved(x, there, back)

  def lie(name, x):
    if name == "table":  # its gradient too: scattered along D it would gather all activations'
      return move(x, ("tensor", None), ("tensor", None))
    if not _divides(mesh, rows, x.shape[0]):  # fewer rows than devices, in decoding
      return x
    whole, split = (rows, None, None), (rows, "tensor" if sequence else None, None)
    within = (rows, None, "tensor", *(None,) * (x.ndim - 3))
    ways = {"read": (whole, split), "between": (split, split), "within": (within, within)}
    return move(x, *ways[name])

  def spread(kernel):
    def over_devices(*arrays):
      split = all(x.shape[1] % tensor == 0 for x in arrays if x.ndim == 4)
      heads = "tensor" if split else None
      specs = tuple(P(rows, heads) if x.ndim == 4 else P(rows) for x in arrays)
      # check_vma: a Pallas call does not say along which axes its results differ
      mapped = jax.shard_map(
        kernel, mesh=mesh, in_specs=specs, out_specs=P(rows, heads), check_vma=False
      )
      return mapped(*arrays)

    return over_devices

  def gather(name, x):  # where it is multiplied with, for as long (Rajbhandari et al. 2020, ZeRO-3)
    spec = rule_of(name, x)
    return move(x, tuple(None if axis == "fsdp" else axis for axis in spec), spec)

  return placement.use(spread, lie, gather if mesh.shape["fsdp"] > 1 else None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _moved(x, there, back):
  """`x`, laid `there`; its gradient is laid `back`. Without that a weight's gradient would be
  summed whole on each device before each takes its part."""
  del back
  return jax.lax.with_sharding_constraint(x, there)


_moved.defvjp(
  lambda x, there, back: (_moved(x, there, back), None),
  lambda there, back, _, gradient: (jax.lax.with_sharding_constraint(gradient, back),),
)


def _divides(mesh, axis, size) -> bool:
  """Whether the devices along an axis, along several or along None share so many evenly."""
  axes = axis if isinstance(axis, tuple) else (axis,) if axis else ()
  return size % math.prod(mesh.shape[one] for one in axes) == 0


def fetch(tree):
  """The whole of each array as numpy, on every process."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
  return jax.device_get(tree)
