"""Defines what a student learns of a teacher: soft targets, hidden states and relations of tokens.

The loss of a task is that of its labels (`hard`), of the teacher's logits (`soft`: Hinton et al.
2015), of its states behind each layer (`hidden`: Sanh et al. 2019; Jiao et al. 2020, TinyBERT) and
of how its queries, keys and values relate the tokens of a text (`attention`: Wang et al. 2021,
MiniLMv2), each with its weight. The teacher is frozen and reads without dropout.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from train import losses
from train.common.errors import UserError, idle
from train.compression import observing

# Defaults of the config's section `distill`.
DISTILL = dict(
  teacher="",  # a run's folder or hf:DIR; "": none
  which="latest",  # its checkpoint
  temperature=2.0,  # of the soft targets
  hard=0.5,  # the weights of the parts of the loss
  soft=0.5,
  hidden=0.0,
  attention=0.0,
  hidden_loss="cosine",  # or "mse"
  layers=(),  # the teacher's layer behind which each of the student's learns; (): spread evenly
  decoder_layers=(),
  relation_heads=0,  # into which vectors are cut for `attention`; 0: the teacher's heads
  cache="",  # a folder for the teacher's logits, which is filled once; "": the teacher is asked
  cache_top=32,  # logits of words that are kept for each token; all logits of labels are
)
PARTS = ("hard", "soft", "hidden", "attention")
# Parts, and the cache, with a setting that nothing else reads.
SWITCHES = dict(soft="temperature", hidden="hidden_loss", attention="relation_heads")
SWITCHES |= dict(cache="cache_top")
HIDDEN_LOSSES = ("cosine", "mse")
VALUES, IDS = "teacher_values", "teacher_ids"  # a teacher's logits that are in a batch
NONE = -1e9  # the logarithm of no probability, whose gradient is 0 and not nan


@dataclasses.dataclass(frozen=True)
class Distilled:
  """A task whose loss also follows a teacher."""

  task: Any
  graph: Any  # the teacher's, without its weights; None: batches hold its logits
  settings: Mapping  # the section `distill`
  layers: Mapping[str, tuple[int, ...]]  # stack -> the teacher's layer for each of the student's

  def loss(self, model, batch, key, teacher=None) -> dict[str, tuple]:
    """Returns what the task's `loss` does, with the parts of the teacher by name; `teacher` are its
    weights."""
    settings, task = self.settings, self.task
    deep = settings["hidden"] or settings["attention"]
    if self.graph is not None:
      teacher = nnx.merge(self.graph, jax.lax.stop_gradient(teacher))
    if self.graph is None:
      logits, targets = task.logits(model, batch, key), batch[VALUES]
    elif deep:
      with observing.observe(model) as ours:
        logits = task.logits(model, batch, key)
      with observing.observe(teacher) as theirs:
        targets = task.logits(teacher, batch)
    else:
      logits, targets = task.logits(model, batch, key), task.logits(teacher, batch)
    sums = task.sums(logits, batch)
    parts = {"hard": sums["loss"][0]}
    if settings["soft"]:
      parts["soft"] = self._soft(logits, targets, batch)
    if settings["hidden"]:
      parts["hidden"] = self._hidden(model, ours.states, theirs.states, batch)
    if settings["attention"]:
      parts["attention"] = self._attention(ours.vectors, theirs.vectors, batch)
    # All parts are sums over targets, divided by the same weight: see `token_weights`.
    weight = sums["loss"][1]
    total = sum(settings[name] * part for name, part in parts.items())
    return sums | {name: (part, weight) for name, part in parts.items()} | {"loss": (total, weight)}

  def _soft(self, logits, targets, batch):
    """Returns the sum of the divergences from the teacher's logits, of which a batch may have the
    largest alone."""
    temperature = self.settings["temperature"]
    if self.graph is None and IDS in batch:
      own = reduced(logits, batch[IDS], temperature)
      total, _ = losses.divergence(own, targets, self.task.target_weights(batch), 1.0)
      return temperature**2 * total
    return self.task.soft_loss(logits, targets, batch, temperature)[0]

  def _hidden(self, model, ours, theirs, batch):
    """Returns the sum of the distances of the states behind the mapped layers."""
    distance = dict(cosine=_cosine, mse=_mse)[self.settings["hidden_loss"]]
    total, count = 0.0, 0
    for stack, layers in self.layers.items():
      projection = getattr(model, "distill", {}).get(stack)
      weights_BT = token_weights(batch, stack, self.task.target_weights(batch))
      for x_BTD, layer in zip(ours[stack], layers, strict=True):
        x_BTD = x_BTD if projection is None else projection(x_BTD)
        y_BTD = jax.lax.stop_gradient(theirs[stack][layer]).astype(jnp.float32)
        total += (distance(x_BTD.astype(jnp.float32), y_BTD) * weights_BT).sum()
        count += 1
    return total / count

  def _attention(self, ours, theirs, batch):
    """Returns the sum of the divergences of the relations of queries, keys and values."""
    total, count = 0.0, 0
    for stack, layers in self.layers.items():
      segments_BT = segments_of(batch, stack)
      weights_BT = token_weights(batch, stack, self.task.target_weights(batch))
      for vectors, layer in zip(ours[stack], layers, strict=True):
        for ours_BTHK, theirs_BTHK in zip(vectors, theirs[stack][layer]):
          heads = self.settings["relation_heads"] or theirs_BTHK.shape[2]
          for x_BTHK in (ours_BTHK, theirs_BTHK):
            if (size := x_BTHK.shape[2] * x_BTHK.shape[3]) % heads:
              raise UserError(
                f"distill.relation_heads: vectors of {size} numbers cannot be cut into {heads}"
              )
          both = (relations(x, segments_BT, heads) for x in (ours_BTHK, theirs_BTHK))
          student_BTHS, teacher_BTHS = (x.swapaxes(1, 2) for x in both)
          weights_BTH = jnp.broadcast_to(weights_BT[..., None] / heads, student_BTHS.shape[:3])
          total += losses.divergence(student_BTHS, teacher_BTHS, weights_BTH, 1.0)[0]
          count += 1
    return total / count


def reduced(logits_BTV, ids_BTK, temperature: float):
  """Returns logits [B, T, K + 1] of a distribution at `temperature` in which all words but K count
  as one, the last: their divergence is 0 where the words' is, and never above it."""
  logits_BTV = logits_BTV.astype(jnp.float32) / temperature
  top_BTK = jnp.take_along_axis(logits_BTV, ids_BTK, axis=-1)
  rest_BTV = jnp.put_along_axis(logits_BTV, ids_BTK, NONE, axis=-1, inplace=False)
  rest_BT = jax.nn.logsumexp(rest_BTV, axis=-1)
  return jnp.concatenate([top_BTK, rest_BT[..., None]], axis=-1)


def segments_of(batch, stack: str):
  """Returns the segments [B, T] of what a stack reads; a decoder that labels its source reads
  that."""
  of_decoder = stack == "decoder" and "segments" in batch
  return batch["segments" if of_decoder else "source_segments"]


def token_weights(batch, stack: str, weights_BS):
  """Returns the weight [B, T] of each token that a stack reads in the means over a text's tokens.

  The tokens of a segment share the weight of its targets (`weights`) evenly, so that all parts of
  the loss are divided by the same weight, however rows are packed or cut into microbatches.
  """
  segments_BT = segments_of(batch, stack)
  # the targets stand on the decoder's side, if there is one
  targets_BS = segments_of(batch, "decoder")
  same_BTS = segments_BT[..., None] == targets_BS[:, None, :]
  total_BT = (same_BTS * weights_BS[:, None, :]).sum(-1)
  count_BT = (segments_BT[..., None] == segments_BT[:, None, :]).sum(-1)
  return jnp.where(segments_BT > 0, total_BT / count_BT, 0.0)


def relations(x_BTHK, segments_BT, heads: int):
  """Returns the scaled products [B, heads, T, S] of the vectors of a segment's tokens, whose
  entries are cut anew into `heads`; tokens of other segments have none."""
  x_BTHK = x_BTHK.reshape(*x_BTHK.shape[:2], heads, -1).astype(jnp.float32)
  x_BSHK, size = x_BTHK, x_BTHK.shape[-1]
  products_BHTS = jnp.einsum("BTHK,BSHK->BHTS", x_BTHK, x_BSHK) / size**0.5
  same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
  return jnp.where(same_BTS[:, None], products_BHTS, -1e9)


def _cosine(x_BTD, y_BTD):
  # below the root: the gradient of a norm is nan at zero, a padded token's state in some models
  squares = (jnp.maximum(jnp.square(z).sum(-1), 1e-12) for z in (x_BTD, y_BTD))
  return 1.0 - (x_BTD * y_BTD).sum(-1) / jnp.sqrt(math.prod(squares))


def _mse(x_BTD, y_BTD):
  return jnp.square(x_BTD - y_BTD).mean(-1)


def add_projections(model, size: int, rngs: nnx.Rngs) -> None:
  """Adds the linear layers `distill` from the student's states to those of a teacher of `size`,
  where they differ. Only training uses them: no prediction and no other run reads them."""
  if model.cfg.dim != size:
    make = functools.partial(nnx.Linear, model.cfg.dim, size, use_bias=False, rngs=rngs)
    stacks = [stack for stack in observing.STACKS if getattr(model, stack) is not None]
    model.distill = nnx.Dict({stack: make() for stack in stacks})


def layer_map(settings: Mapping, model: Mapping, teacher: Mapping) -> dict[str, tuple[int, ...]]:
  """Returns stack -> the teacher's layer for each layer of the student, from the section `distill`
  and the sections `model` of both.

  Raises UserError for a map of another length, or with a layer that the teacher does not have.
  """
  maps = {}
  for stack, key in (("encoder", "layers"), ("decoder", "decoder_layers")):
    ours, theirs = model[f"{stack}_layers"], teacher[f"{stack}_layers"]
    chosen = tuple(settings[key])
    if not ours:
      if chosen:
        raise UserError(f"distill.{key} is {chosen}, and the student has no {stack}")
      continue
    if not theirs:
      raise UserError(f"distill.teacher has no {stack}, whose layers the student's could follow")
    chosen = chosen or tuple((number + 1) * theirs // ours - 1 for number in range(ours))
    if len(chosen) != ours:
      raise UserError(
        f"distill.{key} is {chosen}: name a layer of the teacher for each of the student's {ours}"
      )
    if wrong := [layer for layer in chosen if not 0 <= layer < theirs]:
      raise UserError(
        f"distill.{key} names layer {wrong[0]}: the teacher's are 0 to {theirs - 1}"
        + (f"; {stack}s of more layers than the teacher's need a map" if ours > theirs else "")
      )
    maps[stack] = chosen
  return maps


def idle_settings(settings: Mapping) -> Iterator[str]:
  """Yields a sentence for each setting that nothing reads, as its switch is off."""
  if not settings["teacher"]:
    yield from idle("distill", settings, DISTILL, "teacher")
    return
  for switch, key in SWITCHES.items():
    yield from idle("distill", settings, DISTILL, switch, (key,))


def check(settings: Mapping, task: Mapping) -> None:
  """Raises UserError for a section `distill` that cannot be, before anything is read."""
  if not settings["teacher"]:
    if settings["cache"]:
      raise UserError("distill.cache keeps the logits of distill.teacher, which is '': name it")
    return
  if settings["cache"]:
    _check_cache(settings)
  for key in ("layers", "decoder_layers"):
    if wrong := [layer for layer in settings[key] if type(layer) is not int]:
      raise UserError(f"distill.{key} is {settings[key]}: {wrong[0]!r} is no number of a layer")
  if not any(settings[part] for part in PARTS[1:]):
    raise UserError(
      "distill.teacher is set, and the weights distill.soft, .hidden and .attention are all 0"
    )
  for section in (task, *task.get("parts", {}).values()):
    if section["name"] == "electra":
      raise UserError(
        "distill.teacher: an electra task has a generator of its own to learn from: distil mlm"
      )
    if section.get("loss_chunks", 1) > 1:
      raise UserError(
        "task.loss_chunks: a student and its teacher are compared over whole rows: set it to 1"
      )


def _check_cache(settings: Mapping) -> None:
  for part in ("hidden", "attention"):
    if settings[part]:
      raise UserError(
        f"distill.{part}: distill.cache holds logits alone: set it to 0, or leave the cache out"
      )
  if "://" in settings["cache"]:
    raise UserError(f"distill.cache {settings['cache']}: name a folder on a disk")
