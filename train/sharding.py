"""Arranges devices as a named mesh, and lays out batches, weights and activations on the mesh.

Weights are placed by their paths (RULES); the optimizer's moments end in the path of their weight
and so are placed with it. Activations are placed where model/placement.py names them.
"""

import functools
import math
import re

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from model import placement
from model.placement import Placement
from train.common.errors import UserError
from train.common.trees import is_stacked, path_name

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the axes that split a batch
RULES = (
  (r"(query|key|value)(_global)?/kernel$", P("fsdp", "tensor", None)),  # [D, H, K]
  (r"(input|general|combine|first)/kernel$", P("fsdp", None)),  # [D, F], [D, D]: an LSTM's
  (r"recurrent/kernel$", P()),  # [D, F]: needed anew at each token
  (r"(input|first)/bias$", P()),  # [F]
  (r"(query|key|value)(_global)?/bias$", P("tensor", None)),  # [H, K]
  (r"out/kernel$", P("tensor", None, "fsdp")),  # [H, K, D]
  (r"mlp/(up|gate)/kernel$", P("fsdp", "tensor")),  # [D, F]
  (r"mlp/(up|gate)/bias$", P("tensor")),  # [F]
  (r"mlp/down/kernel$", P("tensor", "fsdp")),  # [F, D]
  (r"(^|/)(source_)?embedding/embedding$", P("tensor", "fsdp")),  # [V, D]
  (r"embeddings/(positions|types)/embedding$", P(None, "fsdp")),  # [T, D]
  (r"embeddings/projection/kernel$", P(None, "fsdp")),  # [E, D]
  (r"(^|/)output/kernel$", P("fsdp", "tensor")),  # [D, V]
  (r"(^|/)output_bias$", P("tensor")),  # [V]
  (r"(relative|distance_states)/embedding$", P()),  # [buckets, H], [buckets, D]
  (r"(^|/)head/(dense|labels|projections/\d+)/(kernel|bias)$", P()),  # [D, D], [D, labels]
  (r"(convolution|output_transform)/dense/kernel$", P("fsdp", None)),  # [width * D, D], [D, D]
  (r"(convolution|output_transform)/dense/bias$", P()),  # [D]
  (r"/input_range$", P()),
  (r"/lora_[ab]$", P()),  # [in, rank], [rank, out]
  (r"(^|/)distill/(encoder|decoder)/kernel$", P()),  # [D, D of the teacher]
  (r"^opt_state/.*ns_coeffs$", P()),  # muon's three numbers
  (r"^recent$", P()),  # losses
  (r"(scale|out/bias|down/bias|norm/bias|projection/bias)$", P()),
)


def make_mesh(sizes, devices=None) -> jax.sharding.Mesh:
  """Returns a mesh of `devices`, by default all; an axis of size -1 takes those that are left.

  Raises UserError where the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape, count = [sizes[axis] for axis in AXES], len(devices)
  if -1 in shape:
    shape[shape.index(-1)] = count // max(1, int(np.prod([n for n in shape if n > 0])))
  if min(shape) < 1 or np.prod(shape) != count:
    wanted = {axis: sizes[axis] for axis in AXES}
    raise UserError(
      f"mesh {wanted}: the sizes must multiply to the {count} devices; one of them may be -1, the"
      " devices that are left"
    )
  if (slices := len({getattr(device, "slice_index", 0) for device in devices})) > 1:
    # A network joins slices, which is slower than the wires within: only batches are split over it.
    if shape[0] % slices:
      raise UserError(
        f"mesh.data is {shape[0]}: make it a multiple of the {slices} slices, which share batches"
        " and no weights"
      )
    within, between = (shape[0] // slices, *shape[1:]), (slices, 1, 1)
    arrange = functools.partial(mesh_utils.create_hybrid_device_mesh, within, between, devices)
  else:
    arrange = functools.partial(mesh_utils.create_device_mesh, shape, devices)
  try:
    grid = arrange()
  except NotImplementedError:  # an axis of 8 on a TPU's 4x4 is made of parts of its two axes
    grid = arrange(allow_split_physical_axes=True)
  return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def put(batch, mesh):
  """Returns the global batch on the devices, rows split over data and fsdp.

  Each process gives its own rows. Raises UserError where devices cannot share them.
  """
  sharding = by_rows(batch, mesh, jax.process_count())
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_weight(weight, like):
  """Returns a weight of the host as an array of the type and sharding of `like`."""
  whole = np.asarray(weight).astype(like.dtype, copy=False)
  return jax.make_array_from_callback(like.shape, like.sharding, lambda index: whole[index])


def put_by_device(batch, mesh):
  """Returns this process's rows for pmap, as [devices here, rows of each, ...].

  Raises UserError for a mesh that splits more than the batch, and where devices cannot share it.
  """
  if mesh.size != mesh.shape["data"]:
    raise UserError(
      f"parallelism=pmap splits nothing but the batch: mesh {dict(mesh.shape)} is for jit"
    )
  count, rows = jax.local_device_count(), len(jax.tree.leaves(batch)[0])
  _check_shares(rows, count, f"{count} devices")
  return jax.tree.map(lambda x: x.reshape(count, rows // count, *x.shape[1:]), batch)


def by_rows(batch, mesh, processes=1):
  """Returns the sharding of a batch to which each of `processes` gives equally many rows.

  Raises UserError where devices cannot share the rows.
  """
  rows, parts = len(jax.tree.leaves(batch)[0]) * processes, mesh.shape["data"] * mesh.shape["fsdp"]
  _check_shares(rows, parts, f"mesh data x fsdp = {parts}")
  return NamedSharding(mesh, P(ROWS))


def _check_shares(rows, parts, devices):
  if rows % parts:
    raise UserError(f"{rows} rows cannot be shared by {devices}: change batch_size")


def rule_of(name, leaf) -> P:
  """Returns the spec in RULES of a single layer's weight; raises UserError where there is none."""
  for pattern, spec in RULES:
    if re.search(pattern, name):
      return spec
  raise UserError(f"{name} {leaf.shape}: no rule matches it; add one to RULES in train/sharding.py")


def place(tree, mesh):
  """Returns a sharding for every leaf of `tree`, by the rule of its path.

  Raises UserError for a weight that no rule matches, or that the mesh does not divide.
  """

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
    if name.startswith("opt_state"):  # adafactor's rows and columns have fewer axes than the weight
      return NamedSharding(mesh, P())
    table = re.search(r"(^|/)(source_)?embedding/embedding$", name)
    rows = -(-leaf.shape[0] // mesh.shape["tensor"]) * mesh.shape["tensor"]
    hint = f"; model.vocab_size={rows} adds empty rows" if table else ""
    raise UserError(
      f"{name} {leaf.shape} cannot be split {parts} ways: change mesh or the sizes{hint}"
    )

  return jax.tree_util.tree_map_with_path(rule, tree)


def put_whole(batch, mesh):
  """Returns the batch on the devices, as `put` does, where every process holds all of it."""
  sharding = by_rows(batch, mesh, 1)
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), batch
  )


def abstract(tree, shardings):
  """Returns ShapeDtypeStructs of `tree` with `shardings`, one for all leaves or a matching tree."""
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    tree,
    jax.tree.broadcast(shardings, tree),
  )


def split(model: nnx.Module, mesh: jax.sharding.Mesh) -> tuple[nnx.GraphDef, dict]:
  """Returns the graph of an abstract model, and ShapeDtypeStructs of its weights with shardings."""
  graph, weights = nnx.split(model)
  weights = dict(params=nnx.to_pure_dict(weights))
  return graph, abstract(weights, place(weights, mesh))["params"]


def check(cfg, task, mesh):
  """Raises UserError where devices cannot share a microbatch's rows, or the tokens of a row."""
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


class ActivationSharding(Placement):
  """Lays out a model's activations over a mesh, at the places that model/placement.py names.

  Rows are split as batches are. Left alone, XLA would split activations along D, as the fsdp axis
  of a weight is, and communicate activations in place of weights. With `sequence` the residual
  stream is split along the row's tokens over the axis tensor (Korthikanti et al. 2022, sequence
  parallelism). A layout applies where the mesh divides the array.
  """

  def __init__(self, mesh: jax.sharding.Mesh, sequence: bool = False):
    self.mesh, self.gathers = mesh, mesh.shape["fsdp"] > 1
    residual = P(ROWS, "tensor" if sequence else None, None)
    heads, hidden = P(ROWS, None, "tensor", None), P(ROWS, None, "tensor")
    self.layouts = {  # name -> (layout of the activation, layout of its gradient)
      "residual": (residual, residual),
      "sublayer_input": (P(ROWS, None, None), residual),
      "heads": (heads, heads),
      "hidden": (hidden, hidden),
      # Scattered along D, a table's gradient would gather all activations.
      "table": (P("tensor", None), P("tensor", None)),
    }

  def constrain(self, x, name):
    if name != "table" and not _divides(self.mesh, ROWS, x.shape[0]):
      return x  # decoding: fewer rows than devices
    return self._lay_out(x, *self.layouts[name])

  def gather(self, weight, name):
    """Returns the weight whole along fsdp while it is multiplied with (Rajbhandari et al. 2020)."""
    spec = rule_of(name, weight)
    gathered = P(*(None if axis == "fsdp" else axis for axis in spec))
    return self._lay_out(weight, gathered, spec)

  def spread(self, kernel):
    def over_devices(*arrays):
      tensor = self.mesh.shape["tensor"]
      split = all(x.shape[1] % tensor == 0 for x in arrays if x.ndim == 4)
      heads = "tensor" if split else None
      specs = tuple(P(ROWS, heads) if x.ndim == 4 else P(ROWS) for x in arrays)
      # check_vma: a Pallas call does not declare along which axes its results differ
      return jax.shard_map(
        kernel, mesh=self.mesh, in_specs=specs, out_specs=P(ROWS, heads), check_vma=False
      )(*arrays)

    return over_devices

  def _lay_out(self, x, forward: P, backward: P):
    return _with_sharding(x, *(self._fit(spec, x.shape) for spec in (forward, backward)))

  def _fit(self, spec, shape):
    """Returns the sharding of `spec` without the axes that do not divide the array."""
    axes = (axis if _divides(self.mesh, axis, n) else None for axis, n in zip(spec, shape))
    return NamedSharding(self.mesh, P(*axes))


def activation_sharding(mesh: jax.sharding.Mesh, sequence: bool = False):
  """Returns a context in which models are compiled for a mesh (`ActivationSharding`)."""
  return placement.use(ActivationSharding(mesh, sequence))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _with_sharding(x, forward, backward):
  """Returns `x` in the sharding `forward`; its gradient gets the sharding `backward`.

  Without the latter each device would sum the whole gradient of a weight and then take its part.
  """
  del backward
  return jax.lax.with_sharding_constraint(x, forward)


_with_sharding.defvjp(
  lambda x, forward, backward: (_with_sharding(x, forward, backward), None),
  lambda forward, backward, _, gradient: (jax.lax.with_sharding_constraint(gradient, backward),),
)


def _divides(mesh, axis, size) -> bool:
  """Returns whether the devices along an axis, several or none (None) divide `size`."""
  axes = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
  return size % math.prod(mesh.shape[axis] for axis in axes) == 0


def fetch(tree):
  """Returns each array as numpy, whole on every process."""
  return multihost_utils.process_allgather(tree, tiled=True)
