"""Marks the tokens of a text that another model has put in (ELECTRA: Clark et al. 2020)."""

import dataclasses

import jax

from model import heads
from train.tasks.base import HuggingFace
from train.tasks.embedding import Reader


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replaced(Reader):
  """Predicts by a discriminator, for each token, the probability that it replaces another one. The
  task electra trains such a model."""

  head_activation: str = "gelu"

  loss_key = ("replaced",)
  hf_kind = "replaced"

  def head(self, cfg, rngs):
    options = dict(transform="dense", activation=self.head_activation, rngs=rngs)
    return heads.LabelHead(cfg, 1, pool="token", **options)

  def predict(self, model, batch, settings):
    logits_BS1 = model.head(self.encode(model, batch), batch["source_segments"])
    return {"probs": jax.nn.sigmoid(logits_BS1[..., 0])}

  def outputs(self, examples, requests, predictions, settings):
    """Returns `tokens` and `probs`, without the special tokens around them, and the tokens with the
    replaced ones in brackets as `text`."""
    first, outputs = len(self.tokenizer.roles.first), []
    for ids, prediction in zip(requests.ids, predictions):
      tokens = self.tokenizer.render_tokens(ids[first:-1])
      probs = prediction["probs"][first : len(ids) - 1].tolist()
      marked = [f"[{token}]" if prob > 0.5 else token for token, prob in zip(tokens, probs)]
      outputs.append(dict(text=" ".join(marked), tokens=tokens, probs=probs))
    return outputs

  def render(self, output, *, scores, colour):
    """Formats the tokens, with `scores` each with its probability."""
    if not scores:
      return output["text"]
    pairs = zip(output["tokens"], output["probs"])
    return " ".join(f"{token}/{prob:.4f}" for token, prob in pairs)

  def hugging_face(self):
    return HuggingFace("replaced", pool_activation=self.head_activation, transform="dense")
