"""What tasks of an encoder share, with a head or a decoder."""

from model import layers
from train import losses


def encode(model, batch, key=None):
  """The encoder's states [B, S, D]; no key: no dropout."""
  types = {"types": batch["source_types"]} if "source_types" in batch else {}
  return model.encode(
    batch["source"], batch["source_segments"], batch["source_positions"], key=key, **types
  )


def label_logits(model, batch, key=None):
  """The head's scores at every token [B, S, C]; no key: no dropout."""
  body_key, head_key = layers.split(key, 2)
  return model.head(encode(model, batch, body_key), batch["source_segments"], head_key)


def label_loss(model, batch, key, label_smoothing: float):
  """Cross-entropy of the labels that have weight. The share of right ones is `right`: `accuracy` is
  a score in percent, of whole examples."""
  logits_BSC = label_logits(model, batch, key)
  sums = losses.cross_entropy(
    logits_BSC, batch["labels"], batch["weights"], label_smoothing=label_smoothing
  )
  return {"loss": sums["loss"], "nll": sums["nll"], "right": sums["accuracy"]}
