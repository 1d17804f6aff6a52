"""Keeps a teacher's logits in a folder, so that many students cost one pass of their teacher.

Of labels all logits are kept. Of words the `distill.cache_top` largest are, and one number for all
others together (`distillation.reduced`), which belongs to a temperature.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
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
from train.cluster import processes
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
WAIT = 2  # seconds between looks at another process's lock
SAID = {"columns": "number (distill.cache_top)"}  # names of facts, in a message
PROBED = 256  # items whose inputs are compared
NOT_READ = {"labels", "weights"}  # by no model


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

    Raises UserError for a folder with other logits, and for items that are streamed, that differ
    from epoch to epoch, or of which some tokens alone have logits.
    """
    folder = pathlib.Path(self.settings["cache"])
    _check_items(items)
    builder = BatchBuilder(items, layout.source_len, layout.target_len)
    blank = builder([[] for _ in range(layout.batch_size)])
    shapes = jax.eval_shape(self._logits, self.like, blank)
    if shapes[distillation.VALUES].shape[1] != (layout.target_len or layout.source_len):
      raise UserError("distill.cache: of this task some tokens alone have logits: leave it out")
    columns = {name: (x.shape[-1], str(x.dtype)) for name, x in shapes.items()}
    facts = self._facts(items, columns)
    taught = token_arrays.with_arrays(items, str(folder), columns)
    if all(processes.gather(self._is_done(folder, facts))):
      return taught
    if jax.process_count() > 1:
      raise UserError(
        f"distill.cache {folder} is not complete: start the run with one process first"
        " (--config.steps=1 in another workdir will do)"
      )
    with _locked(folder):
      if not self._is_done(folder, facts):  # another process may have done it meanwhile
        self._fill(folder, facts, builder, layout)
    return taught

  def _logits(self, params, batch) -> dict[str, Any]:
    logits_BTC = self.task.logits(nnx.merge(self.graph, params), batch).astype(jnp.float32)
    if not self.words:
      return {distillation.VALUES: logits_BTC}
    top = min(self.settings["cache_top"], logits_BTC.shape[-1])
    ids_BTK = jax.lax.top_k(logits_BTC, top)[1]
    values_BTK = distillation.reduced(logits_BTC, ids_BTK, self.settings["temperature"])
    return {distillation.VALUES: values_BTK, distillation.IDS: ids_BTK}

  def _facts(self, items: Items, columns) -> dict:
    """Returns what the logits of a folder depend on, by the name that a message has for it."""
    weights, _ = self.teacher.weights(self.settings["which"])
    teacher = self.teacher.model, pretrained.quantized(self.teacher), self.task.global_attention
    facts = {
      "form": FORMAT,
      "teacher": f"{trees.checksum(weights):08x} {_digest(json.dumps(teacher, default=str))}",
      "data": items.fingerprint[:16],
      "tokenizer": self.task.tokenizer.fingerprint[:16],
      "inputs": _digest_inputs(items),
      "columns": {name: list(kind) for name, kind in columns.items()},
    }
    return facts | ({"temperature": self.settings["temperature"]} if self.words else {})

  def _is_done(self, folder: pathlib.Path, facts: Mapping) -> bool:
    """Returns whether the folder has all logits; raises UserError where it has others."""
    there = token_arrays.read_facts(folder, facts["columns"])
    for name, here in facts.items() if there else ():
      if there.get(name) != here:
        raise UserError(
          f"distill.cache {folder} holds logits of another {SAID.get(name, name)}"
          f" ({there.get(name)}; here it is {here}): name another folder, or remove this one"
        )
    return bool(there) and there["done"] == there["items"]

  def _fill(self, folder, facts, builder: BatchBuilder, layout: Layout) -> None:
    """Computes the logits of the items that are missing, BLOCK at a time."""
    lengths, columns = builder.items.lengths(), facts["columns"]
    facts = {**facts, "items": len(lengths), "made_by": self.teacher.name}
    of_tokens = lengths[:, 1 if layout.target_len else 0]
    if not (there := token_arrays.read_facts(folder, columns)):
      token_arrays.create(folder, of_tokens, columns, facts)
    first = there.get("done", 0)
    arrays = token_arrays.open_arrays(folder, columns, "r+")
    starts = np.load(folder / token_arrays.STARTS)
    total, count = sum(x.nbytes for x in arrays.values()) / 1e9, len(lengths)
    logging.info("distill.cache %s: %.3g GB of logits of %d items", folder, total, count)
    weights, _ = self.teacher.place(self.settings["which"], self.like)
    compute, said = jax.jit(self._logits), time.monotonic()
    for begin in range(first, count, BLOCK):
      end = min(begin + BLOCK, count)
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
        logging.info("distill.cache %s: %d of %d items", folder, end, count)


@contextlib.contextmanager
def _locked(folder: pathlib.Path):
  """Holds the lock of the folder; waits for a process that holds it."""
  folder.mkdir(parents=True, exist_ok=True)
  for attempt in itertools.count():
    try:
      lock = KernelLock(folder)
      break
    except UserError as error:
      if not attempt:
        logging.info("distill.cache %s: waiting for another process (%s)", folder, error)
      time.sleep(WAIT)
  try:
    yield
  finally:
    lock.close()


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest_inputs(items: Items) -> str:
  """Returns a digest of all lengths, and of what a model reads of some items: fields, languages and
  lengths of a task change it, which leave the data as they are."""
  lengths = items.lengths()
  chosen = np.unique(np.linspace(0, len(lengths) - 1, PROBED).astype(int)).tolist()
  digest = hashlib.sha256(lengths.tobytes())
  for item in items.read(chosen, chosen) if len(lengths) else ():
    for name in sorted(item.keys() - NOT_READ):
      digest.update(name.encode() + np.asarray(item[name], np.int64).tobytes())
  return digest.hexdigest()[:16]


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
