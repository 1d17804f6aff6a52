"""Devices as a named mesh, and where each weight is split.

The model knows nothing of this: a weight is placed by its path. The optimizer's moments end in the
path of their weight and so land beside it.
"""

import re

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from model import kernels
from train.errors import UserError
from train.optimizer import path_name
from train.stacking import is_stacked

AXES = ("data", "fsdp", "tensor")
RULES = (
  (r"(query|key|value)/kernel$", P("fsdp", "tensor", None)),  # [D, H, K]
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
    grid = mesh_utils.create_hybrid_device_mesh(within, between, devices)
    return jax.sharding.Mesh(grid, AXES, axis_types=kinds)
  return jax.make_mesh(tuple(shape), AXES, axis_types=kinds, devices=devices)


def put(batch, mesh):
  """The global batch on the devices, rows split over data and fsdp; each process gives its own."""
  sharding = by_rows(batch, mesh, jax.process_count())
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_by_device(batch, mesh):
  """For pmap: this process's rows as [devices here, rows of each, ...]."""
  if mesh.size != mesh.shape["data"]:
    raise UserError(f"step=pmap splits nothing but the batch: mesh {dict(mesh.shape)} is for jit")
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


def place(tree, mesh):
  """A sharding for every leaf of `tree`; a weight that no rule matches is an error."""

  def rule(path, leaf):
    name = path_name(path)
    if leaf.ndim == 0:
      return NamedSharding(mesh, P())
    spec = next((spec for pattern, spec in RULES if re.search(pattern, name)), None)
    if spec is None:
      raise ValueError(f"no rule in train/sharding.py says where to put {name} {leaf.shape}")
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


def kernels_over(mesh):
  """A context, in which attention kernels are compiled for a part of rows and heads a device."""

  def spread(kernel):
    def over_devices(*arrays):
      tensor = mesh.shape["tensor"]
      split = all(x.shape[1] % tensor == 0 for x in arrays if x.ndim == 4)
      rows, heads = ("data", "fsdp"), "tensor" if split else None
      specs = tuple(P(rows, heads) if x.ndim == 4 else P(rows) for x in arrays)
      # check_vma: a Pallas call does not say along which axes its results differ
      mapped = jax.shard_map(
        kernel, mesh=mesh, in_specs=specs, out_specs=P(rows, heads), check_vma=False
      )
      return mapped(*arrays)

    return over_devices

  return kernels.spread_by(spread)


def fetch(tree):
  """The whole of each array as numpy, on every process."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
  return jax.device_get(tree)
