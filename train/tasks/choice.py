"""Chooses one of several texts that may follow a text (SWAG: Zellers et al. 2018)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from model import layers
from train import losses
from train.common.errors import UserError
from train.data import choices
from train.data.labelled import ListSource
from train.tasks.pooled import PooledTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice(PooledTask):
  """Learns which of the `choices` (a list) of `text` is the `label`, its number from 0 or itself.

  A row of a batch holds all choices of an example, each behind the text.
  """

  source_len: int = 512
  choice_len: int = 128  # tokens of the text with one choice, special ones included

  columns = ("text", "choices", "label")
  hf_kind = "choice"
  any_stack = False  # `logits` reads an encoder's states

  @property
  def loss_key(self):
    return ("choice", *self.head_key)

  @property
  def max_positions(self):
    return self.choice_len, 0

  @property
  def outputs_of_head(self):
    return ("score",)

  @classmethod
  def loss_names(cls, section):
    return ("loss", "token_accuracy")

  @classmethod
  def score_names(cls, section):
    return ("accuracy",)

  def items(self, split):
    items = choices.Choices(self.examples(split), self.tokenizer, self.choice_len)
    if len(lengths := items.lengths()) and lengths.max() > self.source_len:
      raise UserError(
        f"{split}: an example's choices have {lengths.max()} tokens, each up to task.choice_len="
        f"{self.choice_len}; task.source_len={self.source_len} must hold all of an example"
      )
    return items

  def requests(self, examples):
    return choices.Choices(ListSource(examples), self.tokenizer, self.choice_len).requests

  def logits(self, model, batch, key=None):
    """Returns the logits [B, S, 1] of rows of examples, in which each choice reads itself alone."""
    body_key, head_key = layers.split(key, 2)
    first_BS, item_BS = batch["weights"] > 0, batch["source_segments"]
    place_S = jnp.arange(item_BS.shape[1])
    segments_BS = jnp.cumsum(first_BS, axis=1) * (item_BS > 0)
    starts_BS = jax.lax.cummax(jnp.where(first_BS, place_S, 0), axis=1)
    positions_BS = jnp.where(item_BS > 0, place_S - starts_BS, 0)
    own = dict(source_segments=segments_BS, source_positions=positions_BS)
    x_BSD = self.encode(model, batch | own, body_key)
    return model.head(x_BSD, segments_BS, head_key)

  def predict(self, model, batch, settings):
    return {"logits": super().logits(model, batch)[:, 0]}  # a row has one choice

  def sums(self, logits_BSC, batch):
    """Returns the cross-entropy of each example's choices."""
    logits_BS, scores_BTS = logits_BSC[..., 0], self._scores(logits_BSC, batch)
    top_BT = scores_BTS.max(-1)
    total_BT = top_BT + jnp.log(jnp.exp(scores_BTS - top_BT[..., None]).sum(-1))
    right_BT = self.target_weights(batch)
    loss, count = ((total_BT - logits_BS) * right_BT).sum(), right_BT.sum()
    return {"loss": (loss, count), "right": (((logits_BS >= top_BT) * right_BT).sum(), count)}

  def _scores(self, logits_BSC, batch):
    """Returns the scores [B, T, S] of the choices of each token's example, -1e9 elsewhere."""
    first_BS, item_BS = batch["weights"] > 0, batch["source_segments"]
    same_BTS = (item_BS[:, :, None] == item_BS[:, None, :]) & first_BS[:, None, :]
    return jnp.where(same_BTS, logits_BSC[:, None, :, 0], -1e9)

  def target_weights(self, batch):
    return (batch["labels"] > 0).astype(jnp.float32)  # once in an example

  def soft_loss(self, logits_BSC, teacher_BSC, batch, temperature):
    """Returns the divergence of the scores of each example's choices, as `sums` compares them."""
    both = (self._scores(x, batch) for x in (logits_BSC, teacher_BSC))
    return losses.divergence(*both, self.target_weights(batch), temperature)

  def example(self, text):
    """Returns a text and its choices, with tabs between; raises UserError for fewer than two."""
    first, *rest = text.split("\t")
    if len(rest) < 2:
      raise UserError(f"{text!r}: give a text and two choices or more, with tabs between")
    return {"text": first, "choices": rest}

  def outputs(self, examples, requests, predictions, settings):
    """Returns the likeliest choice as `text`, its number as `choice`, and the `probs` of all in
    their order."""
    logits, outputs = [float(prediction["logits"][0]) for prediction in predictions], []
    for example in examples:
      texts = choices.split_choices(example)
      scores, logits = np.asarray(logits[: len(texts)]), logits[len(texts) :]
      probs = np.exp(scores - scores.max())
      probs = (probs / probs.sum()).tolist()
      best = int(scores.argmax())
      outputs.append(dict(text=texts[best], choice=best, score=probs[best], probs=probs))
    return outputs

  def render(self, output, *, scores, colour):
    """Formats the choice with its probability; with `scores` the numbers of all with theirs."""
    if not scores:
      return f"{output['text']}\t{output['score']:.4f}"
    return "\t".join(f"{number}\t{prob:.4f}" for number, prob in enumerate(output["probs"]))

  def score(self, outputs, examples):
    references = list(map(choices.find_label, examples))
    right = [output["choice"] == label for output, label in zip(outputs, references)]
    return dict(accuracy=100.0 * float(np.mean(right)))
