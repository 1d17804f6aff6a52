"""Optimizers and schedules by name; path patterns select weight decay and learning rates."""

import functools
import inspect
import re

import jax
import optax
from absl import logging

from train.common.errors import UserError, as_user_error, choose
from train.common.trees import is_stacked, path_name


def _matrices(params):
  """Returns muon's dimension numbers: [D, H, K] is a matrix of D by HK, [H, K, D] of HK by D.

  All weights but the blocks' matrices (None: embeddings, output, biases, norms) are Adam's, as in
  Jordan et al. 2024.
  """

  def axes(path, leaf):
    name = path_name(path)
    if not re.search(r"(blocks|lead)/.*/kernel$", name):
      return None
    first = int(is_stacked(name))  # muon takes what is neither in nor out for many matrices
    last = leaf.ndim - 1 if name.endswith("out/kernel") else first + 1
    axes = tuple(range(leaf.ndim))
    return optax.contrib.MuonDimensionNumbers(axes[first:last], axes[last:])

  return jax.tree_util.tree_map_with_path(axes, params)


OPTIMIZERS = {
  "adamw": optax.adamw,
  "adam": optax.adam,
  "adafactor": functools.partial(optax.adafactor, multiply_by_parameter_scale=False),
  "lion": optax.lion,
  "muon": functools.partial(optax.contrib.muon, muon_weight_dimension_numbers=_matrices),
  "sgd": optax.sgd,
}
# Arguments that are set here.
OURS = {"learning_rate", "mask", "weight_decay_mask", "muon_weight_dimension_numbers"}
OURS |= {"peak", "warmup", "steps"}


# Defaults of the config's sections. None: the default of optax, or of the schedule.
OPTIMIZER = dict(
  name="adamw",
  clip_norm=1.0,  # 0: no clipping
  no_decay=r"(bias|scale)$",  # a pattern for the paths of weights that do not decay
  # (pattern, factor) pairs: a weight's learning rate is multiplied by the factor of the first
  # pattern that matches its path; 0 freezes it
  rates=(),
  b1=None,
  b2=None,
  eps=None,
  weight_decay=None,
  weight_decay_rate=None,  # adafactor's
  momentum=None,
  nesterov=None,
  mu_dtype=None,  # "bfloat16" halves the first moment
)
# final: share of the peak at the end; decay_steps: of wsd, at the end.
SCHEDULE = dict(name="linear", peak=1e-3, warmup_steps=0, final=None, decay_steps=None)


def rsqrt(peak, warmup, steps):
  """Returns linear warm-up to `peak`, then peak * sqrt(warmup / step).

  In Vaswani et al. 2017, section 5.3, the peak is dim**-0.5 * warmup**-0.5.
  """

  def schedule(step):
    step = jax.numpy.maximum(step, 1)
    return peak * jax.numpy.minimum(step / max(warmup, 1), (max(warmup, 1) / step) ** 0.5)

  return schedule


def cosine(peak, warmup, steps, final=0.0):
  """Returns linear warm-up, then half a cosine down to `final` * peak at `steps`."""
  return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, end_value=final * peak)


def linear(peak, warmup, steps, final=0.0):
  """Returns linear warm-up, then a line down to `final` * peak at `steps`."""
  return _join(peak, warmup, optax.linear_schedule(peak, final * peak, steps - warmup))


def constant(peak, warmup, steps):
  """Returns linear warm-up, then `peak`."""
  return _join(peak, warmup, optax.constant_schedule(peak))


def wsd(peak, warmup, steps, decay_steps, final=0.0):
  """Returns linear warm-up, then `peak`, then a line to `final` * peak over the last `decay_steps`.

  Raises UserError where the steps after warm-up are fewer than `decay_steps`.
  """
  if decay_steps > steps - warmup:
    raise UserError(f"schedule.decay_steps {decay_steps} is more than steps {steps} less warm-up")
  decay = optax.linear_schedule(peak, final * peak, decay_steps, steps - decay_steps - warmup)
  return _join(peak, warmup, decay)


def _join(peak, warmup, then):
  return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), then], [warmup])


SCHEDULES = dict(rsqrt=rsqrt, cosine=cosine, linear=linear, constant=constant, wsd=wsd)


def build(optimizer, schedule, steps: int):
  """Returns the optax transformation, and its learning rate as a function of the step.

  The sections have the keys of OPTIMIZER and SCHEDULE, and further arguments of optax's function or
  of the schedule. An argument that only another optimizer or schedule takes has no effect; raises
  UserError for an argument that none takes, and for a value that optax refuses.
  """
  rate = _schedule(dict(schedule), steps)
  settings = dict(optimizer)
  make = choose(OPTIMIZERS, settings.pop("name"), "optimizer.name")
  clip_norm, no_decay = settings.pop("clip_norm"), settings.pop("no_decay")
  factors = _rates(settings.pop("rates"))
  _check_pattern("no_decay", no_decay)
  settings = _known(settings, "optimizer", optimizer["name"], OPTIMIZERS)

  def decays(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, _: re.search(no_decay, path_name(path)) is None, params
    )

  masks = inspect.signature(make).parameters.keys() & {"mask", "weight_decay_mask"}
  settings |= dict.fromkeys(masks, decays)
  clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  moving = [_scale_by_path(factors, lambda factor: float(factor > 0))] if factors else []
  scaled = [_scale_by_path(factors, float)] if factors else []
  with as_user_error("optimizer", TypeError, ValueError):
    return optax.chain(*moving, *clip, make(rate, **settings), *scaled), rate


def log_unused(optimizer, schedule) -> None:
  """Logs the settings of the two sections that only other optimizers or schedules take."""
  for section, given, table in (
    ("optimizer", optimizer, OPTIMIZERS),
    ("schedule", schedule, SCHEDULES),
  ):
    taken, name = accepted(table), given["name"]
    others = {key for names in taken.values() for key in names} - taken[name]
    if unused := [key for key in given if key in others and given[key] is not None]:
      logging.info("%s has no use for %s.%s", name, section, f", {section}.".join(unused))


def _rates(pairs) -> list[tuple[str, float]]:
  """Returns the (pattern, factor) pairs; raises UserError for anything else."""
  for pair in pairs:
    if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[1], int | float):
      raise UserError(
        f"optimizer.rates: {pair!r} is no (pattern, factor) pair; write (('^encoder', 0.1),"
        " ('.', 1.0))"
      )
    _check_pattern("rates", pair[0])
  return list(pairs)


def _check_pattern(key, pattern):
  with as_user_error(f"optimizer.{key}: {pattern!r} is no pattern", re.error, TypeError):
    re.compile(pattern)


def accepted(table) -> dict[str, set[str]]:
  """Returns name -> the settings that the table's optimizer or schedule of that name takes."""
  return {name: inspect.signature(make).parameters.keys() - OURS for name, make in table.items()}


def _known(settings, section, name, table) -> dict:
  """Returns the settings that `table[name]` takes, without those that are None; raises UserError
  for a setting that none of the table takes."""
  taken = accepted(table)
  given = {key: value for key, value in settings.items() if value is not None}
  for key in given:
    if not any(key in names for names in taken.values()):
      known = ", ".join(sorted(taken[name]))
      raise UserError(f"{section}.{key} is no argument of {name}: {known}")
  return {key: value for key, value in given.items() if key in taken[name]}


def _scale_by_path(factors, transform):
  """Returns a transformation that multiplies a weight's update by `transform(factor)`.

  The factor is that of the first pattern that matches the weight's path. So that a typo does not
  freeze or train anything, it raises UserError for a weight that no pattern matches, and for a
  pattern that is the first match of no weight.
  """

  def scale(updates, state, params):
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    matches = [next((pair for pair in factors if re.search(pair[0], name)), None) for name in names]
    if idle := [pattern for pattern, factor in factors if (pattern, factor) not in matches]:
      raise UserError(
        f"optimizer.rates: {idle[0]!r} is the first match of no weight; weights are called"
        f" {', '.join(names[:3])}, ..."
      )
    if left := [name for name, pair in zip(names, matches) if pair is None]:
      raise UserError(
        f"optimizer.rates: no pattern matches {', '.join(left[:5])}"
        f" ({len(left)} weights): end with ('.', 1.0) to train the rest"
      )
    scales = [transform(factor) for _, factor in matches]
    tree = jax.tree.unflatten(jax.tree.structure(params), scales)
    return jax.tree.map(lambda u, factor: u * factor, updates, tree), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), scale)


def _schedule(settings, steps):
  name = settings.pop("name")
  make = choose(SCHEDULES, name, "schedule.name")
  peak, warmup = settings.pop("peak"), settings.pop("warmup_steps")
  if warmup > steps:
    raise UserError(f"schedule.warmup_steps {warmup} is more than steps {steps}")
  settings = _known(settings, "schedule", name, SCHEDULES)
  if missing := inspect.signature(make).parameters.keys() - OURS - settings.keys() - {"final"}:
    raise UserError(f"schedule.{min(missing)} is missing: {name} needs it")
  with as_user_error("schedule", TypeError, ValueError):
    return make(peak, warmup, steps, **settings)
