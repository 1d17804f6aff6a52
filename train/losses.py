"""Computes losses as sums, `name -> (sum, weight)`.

Sums add up over microbatches, devices and evaluation batches, up to rounding; only the update and
`means` divide.
"""

import functools

import jax
import jax.numpy as jnp

from train.common.errors import UserError

SUMS = ("loss", "nll", "right")  # of cross_entropy
REPORTED = ("loss", "perplexity", "token_accuracy")  # what `means` in record/meter.py makes of SUMS


def cross_entropy(logits_BTV, labels_BT, weights_BT, *, label_smoothing=0.0, z_loss=0.0):
  """Returns (sum, weight) of `loss` (to be minimized), `nll` (in nats) and `right` labels.

  Smoothing spreads `label_smoothing` evenly over the whole vocabulary (Szegedy et al. 2016);
  z_loss * log(Z)^2 keeps the logits from drifting (Chowdhery et al. 2022, section 5).
  """
  values = token_losses(logits_BTV, labels_BT, label_smoothing, z_loss)
  total = weights_BT.sum()
  return {name: ((x_BT * weights_BT).sum(), total) for name, x_BT in zip(SUMS, values)}


def chunked(logits_of, x_BTD, labels_BT, weights_BT, chunks: int, **options):
  """Returns `cross_entropy` of `logits_of(x_BTD)`, computed in `chunks` parts of the positions.

  Only one part's logits, [B, T / chunks, V] float32, exist at a time; the backward pass computes
  them again. Raises UserError if T is no multiple of `chunks`.
  """
  if chunks == 1:
    return cross_entropy(logits_of(x_BTD), labels_BT, weights_BT, **options)
  B, T = labels_BT.shape
  if T % chunks:
    raise UserError(f"task.loss_chunks {chunks} does not divide the {T} positions of a row")

  def parts(x):
    return x.reshape(B, chunks, T // chunks, *x.shape[2:]).swapaxes(0, 1)

  @jax.checkpoint
  def part(x_BTD, labels_BT, weights_BT):
    return cross_entropy(logits_of(x_BTD), labels_BT, weights_BT, **options)

  def add(sums, inputs):
    return jax.tree.map(jnp.add, sums, part(*inputs)), None

  zeros = dict.fromkeys(SUMS, (jnp.float32(0.0), jnp.float32(0.0)))
  return jax.lax.scan(add, zeros, tuple(map(parts, (x_BTD, labels_BT, weights_BT))))[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def token_losses(logits_BTV, labels_BT, label_smoothing, z_loss):
  """Returns smoothed loss, negative log-likelihood and whether the label is the argmax, [B, T].

  The gradient is written out as softmax - target in one pass, which is faster than autodiff's on a
  CPU (experiments/RESULTS.md), where the loss is half of a small model's step.
  """
  return _token_losses(logits_BTV, labels_BT, label_smoothing, z_loss)[0]


def _token_losses(logits_BTV, labels_BT, label_smoothing, z_loss):
  max_BT = logits_BTV.max(axis=-1)
  log_z_BT = max_BT + jnp.log(jnp.exp(logits_BTV - max_BT[..., None]).sum(axis=-1))
  label_logit_BT = jax.lax.platform_dependent(logits_BTV, labels_BT, tpu=_masked, default=_taken)
  nll_BT = loss_BT = log_z_BT - label_logit_BT
  if label_smoothing:
    uniform_BT = log_z_BT - logits_BTV.mean(axis=-1)
    loss_BT = (1.0 - label_smoothing) * nll_BT + label_smoothing * uniform_BT
  if z_loss:
    loss_BT = loss_BT + z_loss * log_z_BT**2
  right_BT = (label_logit_BT >= max_BT).astype(jnp.float32)
  return (loss_BT, nll_BT, right_BT), (logits_BTV, labels_BT, log_z_BT)


def _taken(logits_BTV, labels_BT):
  """Returns the logits of the labels [B, T]."""
  return jnp.take_along_axis(logits_BTV, labels_BT[..., None], axis=-1)[..., 0]


def _masked(logits_BTV, labels_BT):
  """Returns what `_taken` does, in the pass over the logits that sums them up.

  For a lookup a TPU's compiler writes bfloat16 logits once more, in float32.
  """
  return jnp.where(_is_label(logits_BTV, labels_BT), logits_BTV, 0.0).sum(axis=-1)


def _is_label(logits_BTV, labels_BT):
  return jnp.arange(logits_BTV.shape[-1]) == labels_BT[..., None]


def _token_losses_gradient(label_smoothing, z_loss, saved, cotangents):
  logits_BTV, labels_BT, log_z_BT = saved
  loss_BT, nll_BT, _ = cotangents
  softmax_BTV = jnp.exp(logits_BTV - log_z_BT[..., None])
  up_BT = loss_BT * (1.0 + 2.0 * z_loss * log_z_BT) + nll_BT
  down_BT = loss_BT * (1.0 - label_smoothing) + nll_BT
  target_BTV = jnp.where(_is_label(logits_BTV, labels_BT), down_BT[..., None], 0.0)
  even_BT = loss_BT * (label_smoothing / logits_BTV.shape[-1])
  return softmax_BTV * up_BT[..., None] - target_BTV - even_BT[..., None], None


token_losses.defvjp(_token_losses, _token_losses_gradient)


def divergence(logits_BTV, teacher_BTV, weights_BT, temperature: float):
  """Returns (sum, weight) of the divergence KL(teacher || model) in nats of their distributions at
  `temperature`, times its square, which keeps the gradient's size (Hinton et al. 2015, section 2).
  """
  model_BTV, target_BTV = (
    jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (logits_BTV, teacher_BTV)
  )
  loss_BT = (jnp.exp(target_BTV) * (target_BTV - model_BTV)).sum(-1)
  return temperature**2 * (loss_BT * weights_BT).sum(), weights_BT.sum()


def squared_error(values_BTC, targets_BTC, weights_BT):
  """Returns (sum, weight) of the mean squared error of the values at each place."""
  loss_BT = jnp.square(values_BTC - targets_BTC).mean(-1)
  return (loss_BT * weights_BT).sum(), weights_BT.sum()


def pointer(logits_BS, marks_BS, segments_BS):
  """Returns the summed losses and hits of marks (1), each the right position of its segment."""
  same_BST = segments_BS[:, :, None] == segments_BS[:, None, :]
  rivals_BST = jnp.where(same_BST, logits_BS[:, None, :], -jnp.inf)
  loss_BS = jax.nn.logsumexp(rivals_BST, axis=-1) - logits_BS
  right_BS = logits_BS >= rivals_BST.max(-1)
  marks_BS = marks_BS.astype(jnp.float32)
  return (loss_BS * marks_BS).sum(), (right_BS * marks_BS).sum()
