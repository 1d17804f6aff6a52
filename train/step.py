"""One update: add up the gradient over microbatches, divide once, step."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from train.errors import UserError


def make_train_step(task, graph, tx, *, microbatches: int, seed: int):
  """Compiles `state, batch -> state, sums`, where state is dict(step, params, opt_state).

  `graph` is the model without its weights. The state given is donated. The result is the same for
  any number of microbatches and devices up to rounding: losses are sums and the division by the
  weight comes once. Dropout's key is a function of seed and step, so a resumed run draws the same.
  """

  def loss_sum(params, batch, key):
    sums = task.loss(nnx.merge(graph, params), batch, key)
    return sums["loss"][0], sums

  gradient = jax.grad(loss_sum, has_aux=True)

  @functools.partial(jax.jit, donate_argnums=0)
  def train_step(state, batch):
    params = state["params"]
    key = jax.random.fold_in(jax.random.key(seed), state["step"])
    if microbatches == 1:
      total, sums = gradient(params, batch, key)
    else:

      def add(total, slice_and_key):
        grads, sums = gradient(params, *slice_and_key)
        return jax.tree.map(jnp.add, total, grads), sums

      rows = len(jax.tree.leaves(batch)[0])
      if rows % microbatches:
        raise UserError(f"batch_size {rows} is no multiple of microbatches {microbatches}")
      # Interleaved, so that every microbatch keeps a part on every device.
      slices = jax.tree.map(
        lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch
      )
      keys = jax.random.split(key, microbatches)
      total, sums = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), (slices, keys))
      sums = jax.tree.map(lambda x: x.sum(0), sums)

    weight = jnp.maximum(sums["loss"][1], 1.0)
    grads = jax.tree.map(lambda g: g / weight, total)
    updates, opt_state = tx.update(grads, state["opt_state"], params)
    sums["grad_norm"] = (optax.tree.norm(grads), jnp.float32(1.0))
    params = optax.apply_updates(params, updates)
    return dict(step=state["step"] + 1, params=params, opt_state=opt_state), sums

  return train_step


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
