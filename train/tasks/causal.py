"""Predicts each token of a text given the tokens before it, or a prefix, by a decoder alone."""

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp
from absl import logging

from model.constraints import align_right
from train.common.errors import UserError
from train.data import documents
from train.tasks.decoding_settings import Decoding
from train.tasks.requests import Rows
from train.tasks.seq2seq import DecoderTask

SAMPLED = Decoding(
  beam=1, length_penalty=0.0, temperature=0.8, max_len_ratio=0.0, max_len_extra=200
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Causal(DecoderTask):
  """Learns each token of a window given the tokens before it.

  prefix: a random first part of each window is seen whole and not learned (prefix LM, Raffel et al.
  2020, figure 4).
  """

  target_len: int = 128
  cross_documents: bool = True  # windows run over the ends of documents
  prefix: bool = False
  seed: int = 0  # of the prefixes
  decoding: Mapping | Decoding = SAMPLED

  hf_kind = "causal"
  streams = True
  loss_name = "causal"

  @classmethod
  def loss_names(cls, section):
    return (*super().loss_names(section), "bits_per_byte")

  @property
  def max_positions(self):
    longest = self.target_len + self.decoding.longest(self.target_len)
    total = self.decoding.max_len_total
    return 0, min(longest, max(total, self.target_len + 1)) if total else longest

  def items(self, split):
    tokens = documents.Tokens(self.examples(split), self.tokenizer)
    objective = (documents.PrefixLm if self.prefix else documents.NextToken)(self.tokenizer.roles)
    return documents.Windows(tokens, self.target_len, objective, self.cross_documents, self.seed)

  def _loss_of(self, logits_of, x_BTD, batch, chunks):
    """Adds `bits_per_byte`, which compares across tokenizers."""
    sums = super()._loss_of(logits_of, x_BTD, batch, chunks)
    bytes_V = jnp.asarray(self.tokenizer.byte_lengths, jnp.float32)
    num_bytes = (bytes_V[batch["labels"]] * batch["weights"]).sum()
    return sums | {"bits_per_byte": (sums["nll"][0] / math.log(2), num_bytes)}

  def requests(self, examples):
    """Returns prompts with the tokens that begin a text in front, or the start token alone. A long
    prompt loses its beginning, and the log reports how many prompts are too long."""
    roles = self.tokenizer.roles
    rows = self.tokenizer.encode_batch([example["text"] for example in examples])
    length = self.target_len - len(roles.first)
    if long := sum(len(ids) > length for ids in rows):
      logging.warning(
        f"of {len(rows)} inputs, {long} are longer than task.target_len={self.target_len} tokens"
        " with bos: only their end is read"
      )
    framed = [[*roles.first, *ids[max(len(ids) - length, 0) :]] for ids in rows]
    return Rows([row or [roles.start] for row in framed])

  def begin(self, model, batch, roles):
    length_B = jnp.maximum(batch["source_segments"].sum(1), 1)  # a row of padding has 0
    cache = model.init_cache(*batch["source"].shape)
    cache, last_B = model.prefill(batch["source"], length_B, cache, prefix=self.prefix)
    return cache, last_B, length_B, align_right(batch["source"], length_B)

  def outputs(self, examples, requests, predictions, settings):
    """Returns the texts that were given, with their continuations."""
    return self.continuations(examples, predictions)

  def hugging_face(self):
    if self.prefix:
      raise UserError("task.prefix: no causal model of transformers attends to a whole prefix")
    return super().hugging_face()
