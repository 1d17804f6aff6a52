"""What tasks of an encoder with a head share."""

import jax

from train import losses


def label_logits(model, batch, key=None):
  """The head's scores at every token [B, S, C]; no key: no dropout."""
  body_key, head_key = (None, None) if key is None else jax.random.split(key)
  segments_BS = batch["source_segments"]
  x_BSD = model.encode(batch["source"], segments_BS, batch["source_positions"], body_key)
  return model.head(x_BSD, segments_BS, head_key)


def label_loss(model, batch, key, label_smoothing: float):
  """Cross-entropy of the labels that have weight. The share of right ones is `right`: `accuracy` is
  a score in percent, of whole examples."""
  logits_BSC = label_logits(model, batch, key)
  sums = losses.cross_entropy(
    logits_BSC, batch["labels"], batch["weights"], label_smoothing=label_smoothing
  )
  return {"loss": sums["loss"], "nll": sums["nll"], "right": sums["accuracy"]}
