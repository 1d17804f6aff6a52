"""One update: add up the gradient over microbatches, divide once, step."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from model import placement
from train.common.errors import UserError
from train.state import RECENT


def settings(cfg) -> dict:
  """What make_train_step takes of a run's config."""
  return dict(
    microbatches=cfg.microbatches,
    seed=cfg.seed,
    ema=cfg.ema,
    spike=cfg.spike,
    skip_spikes=cfg.skip_spikes,
  )


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
):
  """Compiles `state, batch -> state, sums`, where state is of the form of `new_state`.

  `graph` is the model without its weights. The state given is donated. The result is the same for
  any number of microbatches and devices up to rounding: losses are sums and the division by the
  weight comes once; a row's dropout is a function of seed, step and the row's place in the batch,
  so a resumed run draws the same. Where loss or gradient is not finite nothing changes but the
  step: `skipped` says so, and all other sums are 0.

  ema: after each update the average moves by 1 - ema to the weights, in the first updates by more
  (9 / (10 + step)). spike: a loss of more than so many times the median of the last RECENT counts
  as `spikes`, and with `skip_spikes` is skipped too. 0: none.

  how="jit": one program for the whole mesh, the compiler adds what devices exchange. how="pmap":
  data parallelism by hand, the batch as `sharding.put_by_device` lays it out, every device with all
  weights, and one sum over devices of gradients, losses and weights.
  """

  def loss_sum(params, batch, keys_B):
    sums = task.loss(nnx.merge(graph, params), batch, keys_B)
    return sums["loss"][0], sums

  gradient = jax.grad(loss_sum, has_aux=True)

  def totals(state, batch, first_row):
    """Summed gradient and losses of rows that stand in the batch from `first_row` on."""
    rows = len(jax.tree.leaves(batch)[0])
    keys_B = row_keys(seed, state["step"], first_row, rows)
    if microbatches == 1:
      return gradient(state["params"], batch, keys_B)
    if rows % microbatches:
      raise UserError(f"batch_size: {rows} rows are no multiple of microbatches {microbatches}")

    def add(total, rows_and_keys):
      grads, sums = gradient(state["params"], *rows_and_keys)
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
    fine = jnp.isfinite(sums["grad_norm"][0]) & jnp.isfinite(sums["loss"][0])
    if skip_spikes:
      fine &= ~spiked
    new = jax.tree.map(functools.partial(jnp.where, fine), new, {key: state[key] for key in new})
    sums = jax.tree.map(lambda x: jnp.where(fine, x, 0), sums)
    sums["skipped"] = (1.0 - fine, jnp.float32(1.0))
    sums["spikes"] = (spiked * 1.0, jnp.float32(1.0))
    return dict(step=step + 1, **new), sums

  def train_step(state, batch):
    return update(state, *totals(state, batch, 0))

  def device_step(state, batch):
    first_row = jax.lax.axis_index("data") * len(jax.tree.leaves(batch)[0])
    with placement.use():  # here is one device
      return update(state, *jax.lax.psum(totals(state, batch, first_row), "data"))

  if how == "jit":
    return jax.jit(train_step, donate_argnums=0)
  return jax.pmap(device_step, "data", in_axes=(None, 0), out_axes=None)


def row_keys(seed, step, first_row, rows):
  """What the dropout of each row is drawn from, [rows]."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  return jax.vmap(functools.partial(jax.random.fold_in, key))(first_row + jnp.arange(rows))


def make_eval_step(task, graph):
  """Compiles `params, batch -> sums`, without dropout."""
  return jax.jit(lambda params, batch: task.loss(nnx.merge(graph, params), batch, None))


def make_predict_step(task, graph):
  """Compiles `params, batch, **static settings -> predictions`."""

  @functools.partial(jax.jit, static_argnames="settings")
  def predict_step(params, batch, settings):
    return task.predict(nnx.merge(graph, params), batch, settings)

  return predict_step
