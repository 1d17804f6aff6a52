"""Language modelling with a decoder alone: each token given those before it, or a prefix."""

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp
from absl import logging

from train.common.errors import UserError
from train.data import documents, sources
from train.data.tokenizer import Tokenizer
from train.tasks import requests, seq2seq


@dataclasses.dataclass(frozen=True, kw_only=True)
class Causal:
  """Learns each token of a window given those before it.

  prefix: a random first part of each window is seen whole and not learned (prefix LM, Raffel et al.
  2020, figure 4).
  """

  data: Mapping  # train/data/sources.py; examples have a "text"
  tokenizer: Tokenizer
  target_len: int
  cross_documents: bool = True  # windows run over the ends of documents
  prefix: bool = False
  seed: int = 0  # of the prefixes
  pack: bool = True
  label_smoothing: float = 0.0
  z_loss: float = 0.0
  loss_chunks: int = 1  # parts of a row whose logits are made one after another, to save memory
  decoding: Mapping = dataclasses.field(default_factory=dict)
  decode_batch: int = 32

  has_score = False
  source_len = 0

  @property
  def loss_key(self) -> tuple:
    return seq2seq.loss_key(self, "causal")

  @property
  def max_positions(self) -> int:
    return self.target_len + seq2seq.longest_output(self.settings(), self.target_len)

  def examples(self, split):
    return sources.open_split(self.data, split, ("text",))

  def items(self, split):
    tokens = documents.Tokens(self.examples(split), self.tokenizer)
    objective = (documents.PrefixLm if self.prefix else documents.NextToken)(self.tokenizer.roles)
    return documents.Windows(tokens, self.target_len, objective, self.cross_documents, self.seed)

  def loss(self, model, batch, key):
    """With `bits_per_byte`, which compares across tokenizers."""
    sums = seq2seq.loss(self, model, batch, key)
    bytes_V = jnp.asarray(self.tokenizer.byte_lengths, jnp.float32)
    num_bytes = (bytes_V[batch["labels"]] * batch["weights"]).sum()
    return sums | {"bits_per_byte": (sums["nll"][0] / math.log(2), num_bytes)}

  def settings(self, **changes):
    return seq2seq.settings(self.decoding, "causal", changes)

  def example(self, text):
    """The beginning of a text."""
    return {"text": text}

  def requests(self, examples):
    """Prompts behind what begins a text, or the start alone; of a long one the end is read, and how
    many are long is logged."""
    roles = self.tokenizer.roles
    rows = self.tokenizer.encode_batch([example["text"] for example in examples])
    room = self.target_len - len(roles.first)
    if long := sum(len(ids) > room for ids in rows):
      logging.warning(
        "of %d inputs, %d are longer than task.target_len=%d tokens with bos: their end is read",
        *(len(rows), long, self.target_len),
      )
    framed = [[*roles.first, *ids[max(len(ids) - room, 0) :]] for ids in rows]
    return requests.Rows([row or [roles.start] for row in framed])

  def predict(self, model, batch, settings):
    prompt_BS, length_B = batch["source"], batch["source_segments"].sum(1)
    length_B = jnp.maximum(length_B, 1)  # a row of padding
    max_len = seq2seq.longest_output(settings, prompt_BS.shape[1])
    limit_B = settings.max_len_ratio * length_B + settings.max_len_extra
    cache = model.init_cache(len(prompt_BS), prompt_BS.shape[1] + max_len)
    cache, last_B = model.prefill(prompt_BS, length_B, cache, prefix=self.prefix)
    roles = self.tokenizer.roles
    return seq2seq.search(model, cache, batch["row"], settings, max_len, limit_B, roles, last_B)

  def outputs(self, examples, asked, predictions, settings):
    """The text that was given and what follows it."""
    del asked, settings
    return [
      seq2seq.continued(prediction, self.tokenizer, example["text"])
      for example, prediction in zip(examples, predictions)
    ]

  def render(self, output, *, scores, colour):
    return seq2seq.render(output, scores=scores, colour=colour)

  def score(self, outputs, examples):
    raise UserError("a language model has a loss and no score: set evaluate.decode_every=0")
