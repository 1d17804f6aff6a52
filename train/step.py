"""Updates the weights: sums the gradient over microbatches, divides once, and moves the weights."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from model import placement
from train.cluster.processes import compiled_by_all
from train.common import trees
from train.common.errors import UserError
from train.compression import lora
from train.state import RECENT

# XLA on a CPU writes weights and moments in place only with this analysis, and else copies them all
# first: 0.81 of the time of an update of MiniLM, whose optimizer takes a quarter of it.
CPU_OPTIONS = dict(xla_cpu_copy_insertion_use_region_analysis=True)


def settings(cfg, mesh) -> dict:
  """Returns the arguments of make_train_step that a run's config and its mesh set."""
  keys = ("microbatches", "seed", "ema", "spike", "skip_spikes")
  return {key: getattr(cfg, key) for key in keys} | dict(platform=mesh.devices.flat[0].platform)


def make_train_step(
  task,
  graph,
  tx,
  *,
  microbatches: int,
  seed: int,
  how: str = "jit",
  ema: float = 0.0,
  spike: float = 0.0,
  skip_spikes: bool = False,
  platform: str = "",
):
  """Returns the compiled update `state, batch, fixed -> state, sums`; `fixed` are weights that no
  update moves (`losses_of`), by default none.

  `graph` is the model without its weights; the state is that of `new_state` and is donated. The
  result is the same for any number of microbatches and devices up to rounding: losses are sums,
  divided once by their weight, and a row's dropout is a function of seed, step and the row's index
  in the batch, which a resumed run draws again. Where loss or gradient is not finite only the step
  changes: `skipped` counts the update, and all other sums are 0.

  ema: after each update the moving average moves by 1 - ema towards the weights, in the first
  updates by 9 / (10 + step). spike: a loss above `spike` times the median of the last RECENT counts
  in `spikes`, and with `skip_spikes` its update is skipped too. 0 turns either off.

  platform: of the devices, for the options of its compiler ("cpu": CPU_OPTIONS).

  how="jit" compiles one program for the whole mesh, to which the compiler adds communication.
  how="pmap" is explicit data parallelism: `sharding.put_by_device` lays out the batch, every device
  has all weights, and gradients, losses and weights are summed over devices once. Raises UserError
  where the microbatches do not divide the rows.
  """

  sums_of = losses_of(task, graph)

  def loss_sum(params, *rest):
    sums = sums_of(params, *rest)
    return sums["loss"][0], sums

  gradient = jax.grad(loss_sum, has_aux=True)

  def totals(state, batch, fixed, first_row):
    """Returns summed gradients and losses of the batch's rows from `first_row` on."""
    rows = len(jax.tree.leaves(batch)[0])
    keys_B = row_keys(seed, state["step"], first_row, rows)
    if microbatches == 1:
      return gradient(state["params"], batch, keys_B, fixed)
    if rows % microbatches:
      raise UserError(f"batch_size: {rows} rows are no multiple of microbatches {microbatches}")

    def add(total, batch_and_keys):
      grads, sums = gradient(state["params"], *batch_and_keys, fixed)
      return jax.tree.map(jnp.add, total, grads), sums

    # Interleaved, so that every microbatch keeps a part on every device.
    slices = jax.tree.map(
      lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), (batch, keys_B)
    )
    total, sums = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, state["params"]), slices)
    return total, jax.tree.map(lambda x: x.sum(0), sums)

  def update(state, total, sums):
    weight = jnp.maximum(sums["loss"][1], 1.0)
    grads = jax.tree.map(lambda g: g / weight, total)
    updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
    sums["grad_norm"] = (optax.tree.norm(grads), jnp.float32(1.0))
    new = dict(params=optax.apply_updates(state["params"], updates), opt_state=opt_state)
    step, loss, spiked = state["step"], sums["loss"][0] / weight, jnp.bool_(False)
    if spike:
      new["recent"] = state["recent"].at[step % RECENT].set(loss)
      spiked = jnp.isfinite(loss) & (loss > spike * jnp.sort(state["recent"])[RECENT // 2])
    if ema:
      share = jnp.maximum(1.0 - ema, 9.0 / (10.0 + step))
      new["ema"] = jax.tree.map(
        lambda old, x: old + share.astype(old.dtype) * (x - old), state["ema"], new["params"]
      )
    is_finite = jnp.isfinite(sums["grad_norm"][0]) & jnp.isfinite(sums["loss"][0])
    keep = is_finite & ~spiked if skip_spikes else is_finite
    new = jax.tree.map(functools.partial(jnp.where, keep), new, {key: state[key] for key in new})
    sums = jax.tree.map(lambda x: jnp.where(keep, x, 0), sums)
    sums["skipped"] = (1.0 - keep, jnp.float32(1.0))
    sums["spikes"] = (spiked * 1.0, jnp.float32(1.0))
    return dict(step=step + 1, **new), sums

  def train_step(state, batch, fixed=None):
    return update(state, *totals(state, batch, fixed, 0))

  def device_step(state, batch, fixed):
    first_row = jax.lax.axis_index("data") * len(jax.tree.leaves(batch)[0])
    with placement.use(placement.NOTHING):  # one device computes here
      return update(state, *jax.lax.psum(totals(state, batch, fixed, first_row), "data"))

  if how == "jit":
    options = CPU_OPTIONS if platform == "cpu" else None
    return compiled_by_all(jax.jit(train_step, donate_argnums=0, compiler_options=options))
  axes = dict(in_axes=(None, 0, None), out_axes=None)
  pmapped = compiled_by_all(jax.pmap(device_step, "data", **axes))
  return lambda state, batch, fixed=None: pmapped(state, batch, fixed)


def losses_of(task, graph):
  """Returns the function `params, batch, keys, fixed -> sums` of a task and a model's graph.

  Of the `fixed` weights `base` are the model's that are not in `params`; the loss takes the others
  by name, such as those of a teacher.
  """

  def sums_of(params, batch, keys_B, fixed=None):
    others = dict(fixed or {})
    weights = trees.join(others.pop("base", {}), params)
    with lora.dropout_keys(keys_B):
      return task.loss(nnx.merge(graph, weights), batch, keys_B, **others)

  return sums_of


def row_keys(seed, step, first_row, rows):
  """Returns the dropout key of each row, [rows]."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  return jax.vmap(functools.partial(jax.random.fold_in, key))(first_row + jnp.arange(rows))


def make_eval_step(task, graph):
  """Returns the compiled loss `params, batch -> sums`, without dropout."""

  def eval_step(params, batch):
    return task.loss(nnx.merge(graph, params), batch, None)

  return compiled_by_all(jax.jit(eval_step))


def make_score_step(task, graph):
  """Returns the compiled `params, batch -> sums, predictions` of a task with `one_pass`."""

  def score_step(params, batch):
    return task.loss_and_predictions(nnx.merge(graph, params), batch)

  return compiled_by_all(jax.jit(score_step))


def make_predict_step(task, graph):
  """Returns the compiled prediction `params, batch, settings -> predictions`."""

  @functools.partial(jax.jit, static_argnames="settings")
  def predict_step(params, batch, settings):
    return task.predict(nnx.merge(graph, params), batch, settings)

  return compiled_by_all(predict_step)
