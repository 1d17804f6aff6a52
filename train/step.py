"""One update: add up the gradient over microbatches, divide once, step."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from model import hooks
from train.errors import UserError


def make_train_step(task, graph, tx, *, microbatches: int, seed: int, how: str = "jit"):
  """Compiles `state, batch -> state, sums`, where state is dict(step, params, opt_state).

  `graph` is the model without its weights. The state given is donated. The result is the same for
  any number of microbatches and devices up to rounding: losses are sums and the division by the
  weight comes once; a row's dropout is a function of seed, step and the row's place in the batch,
  so a resumed run draws the same. Where loss or gradient is not finite nothing changes but the
  step: `skipped` says so, and all other sums are 0.

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
    key = jax.random.fold_in(jax.random.key(seed), state["step"])
    keys_B = jax.vmap(functools.partial(jax.random.fold_in, key))(first_row + jnp.arange(rows))
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
    fine = jnp.isfinite(sums["grad_norm"][0]) & jnp.isfinite(sums["loss"][0])
    new = jax.tree.map(functools.partial(jnp.where, fine), new, {key: state[key] for key in new})
    sums = jax.tree.map(lambda x: jnp.where(fine, x, 0), sums)
    sums["skipped"] = (1.0 - fine, jnp.float32(1.0))
    return dict(step=state["step"] + 1, **new), sums

  def train_step(state, batch):
    return update(state, *totals(state, batch, 0))

  def device_step(state, batch):
    first_row = jax.lax.axis_index("data") * len(jax.tree.leaves(batch)[0])
    with hooks.use():  # here is one device
      return update(state, *jax.lax.psum(totals(state, batch, first_row), "data"))

  if how == "jit":
    return jax.jit(train_step, donate_argnums=0)
  return jax.pmap(device_step, "data", in_axes=(None, 0), out_axes=None)


def make_eval_step(task, graph):
  """Compiles `params, batch -> sums`, without dropout."""
  return jax.jit(lambda params, batch: task.loss(nnx.merge(graph, params), batch, None))


def make_predict_step(task, graph):
  """Compiles `params, batch, **static settings -> predictions`."""

  @functools.partial(jax.jit, static_argnames="settings")
  def predict_step(params, batch, settings):
    return task.predict(nnx.merge(graph, params), batch, settings)

  return predict_step


def means(sums) -> dict[str, float]:
  """`name -> (sum, weight)` as the numbers a person reads; waits for the device."""
  sums = jax.device_get(sums)
  values = {name: float(total) / max(float(weight), 1e-9) for name, (total, weight) in sums.items()}
  if "nll" in values:
    values["perplexity"] = float(jnp.exp(min(values.pop("nll"), 80.0)))
  return values
