"""Keeps a teacher's logits in a folder, so that many students cost one pass of their teacher.

Of labels all logits are kept. Of words the `distill.cache_top` largest are, and one number for all
others together (`distillation.reduced`), which belongs to a temperature.
"""

import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from train import pretrained, sharding
from train.common import trees
from train.common.errors import UserError
from train.compression import distillation
from train.data import packing, token_arrays
from train.data.batches import BatchBuilder, Layout
from train.data.items import Items, is_drawn, is_streamed
from train.record.lock import KernelLock

FORMAT = 1
BLOCK = 4096  # items whose logits are written together
SECONDS = 10  # between two lines of progress


@dataclasses.dataclass(frozen=True)
class TeacherCache:
  """The logits of a teacher for the training data of a task."""

  settings: Mapping  # the section `distill`
  task: Any
  teacher: pretrained.Pretrained
  graph: Any  # the teacher's, without its weights
  like: Any  # its weights, as ShapeDtypeStructs with their shardings
  mesh: jax.sharding.Mesh
  words: bool  # whether the logits are of words

  def items(self, items: Items, layout: Layout) -> Items:
    """Returns the training items with the logits of each; computes those that are missing.

    Raises UserError for a folder with other logits, and for items that are streamed or that differ
    from epoch to epoch.
    """
    folder = pathlib.Path(self.settings["cache"])
    _check_items(items)
    builder = BatchBuilder(items, layout.source_len, layout.target_len)
    blank = builder([[] for _ in range(layout.batch_size)])
    shapes = jax.eval_shape(self._logits, self.like, blank)
    columns = {name: (x.shape[-1], str(x.dtype)) for name, x in shapes.items()}
    weights, _ = self.teacher.weights(self.settings["which"])
    facts = self._facts(items, columns, trees.checksum(weights))
    taught = token_arrays.WithTokenArrays(items, str(folder), columns)
    if self._is_done(folder, facts):
      return taught
    if jax.process_count() > 1:
      raise UserError(
        f"distill.cache {folder} is not complete: start the run with one process first"
        " (--config.steps=1 in another workdir will do)"
      )
    folder.mkdir(parents=True, exist_ok=True)
    lock = KernelLock(folder)
    try:
      if not self._is_done(folder, facts):  # another process may have done it meanwhile
        self._fill(folder, facts, columns, builder, layout)
    finally:
      lock.close()
    return taught

  def _logits(self, params, batch) -> dict[str, Any]:
    logits_BTC = self.task.logits(nnx.merge(self.graph, params), batch).astype(jnp.float32)
    if not self.words:
      return {distillation.VALUES: logits_BTC}
    top = min(self.settings["cache_top"], logits_BTC.shape[-1])
    ids_BTK = jax.lax.top_k(logits_BTC, top)[1]
    values_BTK = distillation.reduced(logits_BTC, ids_BTK, self.settings["temperature"])
    return {distillation.VALUES: values_BTK, distillation.IDS: ids_BTK}

  def _facts(self, items: Items, columns, weights: int) -> dict:
    """Returns what the logits of a folder depend on, by the name that a message has for it."""
    lengths = hashlib.sha256(items.lengths().tobytes()).hexdigest()
    facts = {
      "form": FORMAT,
      "teacher": f"weights {weights:08x}",
      "data": f"{items.fingerprint[:16]}, tokens {lengths[:16]}",
      "tokenizer": self.task.tokenizer.fingerprint[:16],
      "columns": {name: list(kind) for name, kind in columns.items()},
    }
    return facts | ({"temperature": self.settings["temperature"]} if self.words else {})

  def _is_done(self, folder: pathlib.Path, facts: Mapping) -> bool:
    """Returns whether the folder has all logits; raises UserError where it has others."""
    there = token_arrays.read_facts(folder)
    if not there:
      if folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()):
        raise UserError(f"distill.cache {folder} holds other files: name a new folder")
      return False
    for name, here in facts.items():
      if there.get(name) != here:
        raise UserError(
          f"distill.cache {folder} holds logits of another {name} ({there.get(name)}; here it is"
          f" {here}): name another folder, or remove this one"
        )
    return there["done"] == there["items"]

  def _fill(self, folder, facts, columns, builder: BatchBuilder, layout: Layout) -> None:
    """Computes the logits of the items that are missing, BLOCK at a time."""
    lengths = builder.items.lengths()
    facts = {**facts, "items": len(lengths), "made_by": self.teacher.name}
    of_tokens = lengths[:, 1 if layout.target_len else 0]
    if not token_arrays.read_facts(folder):
      token_arrays.create(folder, of_tokens, columns, facts)
    first = token_arrays.read_facts(folder)["done"]
    arrays = token_arrays.open_arrays(folder, columns, "r+")
    starts = np.load(folder / token_arrays.STARTS)
    total = sum(x.nbytes for x in arrays.values())
    logging.info(
      "distill.cache %s: %.3g GB of logits of %d items", folder, total / 1e9, len(lengths)
    )
    weights, _ = self.teacher.place(self.settings["which"], self.like)
    compute, said = jax.jit(self._logits), time.monotonic()
    for begin in range(first, len(lengths), BLOCK):
      end = min(begin + BLOCK, len(lengths))
      for rows in packing.pack_epoch(lengths[begin:end].tolist(), **layout.row_limits):
        rows = [[begin + number for number in row] for row in rows]
        batch = sharding.put(builder([[(i, i) for i in row] for row in rows]), self.mesh)
        with sharding.activation_sharding(self.mesh):
          found = jax.device_get(compute(weights, batch))
        for item, values in packing.unpack(rows, of_tokens, found):
          for name, array in arrays.items():
            array[starts[item] : starts[item + 1]] = values[name]
      for array in arrays.values():
        array.flush()
      token_arrays.note(folder, facts, end)
      if time.monotonic() - said > SECONDS:
        said = time.monotonic()
        logging.info("distill.cache %s: %d of %d items", folder, end, len(lengths))


def _check_items(items: Items) -> None:
  """Raises UserError for items that have no number, or another content in every epoch."""
  if is_streamed(items):
    raise UserError(
      "distill.cache: streamed data have no numbers by which logits are found: set"
      " task.data.stream=False, or leave the cache out"
    )
  if is_drawn(items):
    raise UserError(
      "distill.cache: this task draws its inputs anew in every epoch, of which one pass of the"
      " teacher knows nothing: leave the cache out"
    )
