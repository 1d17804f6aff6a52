"""Computes the states of a model's stacks for a batch, and which tokens of a source are global."""

import jax.numpy as jnp

from model import layers
from model.lstm import LSTM

# Which of a row's first model.global_tokens tokens are global: all of them; those before the first
# eos, which ends a question; none.
GLOBALS = ("first", "question", "none")


def global_mask(which: str, source_BS, tokenizer):
  """Returns 1 for the tokens [B, S] that `which`, one of GLOBALS, admits; None for all."""
  if which == "none":
    return jnp.zeros_like(source_BS)
  if which == "question":
    return (jnp.cumsum(source_BS == tokenizer.roles.eos, axis=1) == 0).astype(jnp.int32)
  return None


def encode(model, batch, key=None, global_mask=None):
  """Returns the encoder's states [B, S, D] for a batch; no key means no dropout. `global_mask` is
  as in `Transformer.encode`."""
  options = {"types": batch["source_types"]} if "source_types" in batch else {}
  if global_mask is not None and not isinstance(model, LSTM):  # which reads all tokens alike
    options["global_mask"] = global_mask
  return model.encode(
    batch["source"], batch["source_segments"], batch["source_positions"], key=key, **options
  )


def label_states(model, batch, roles, key=None, global_mask=None):
  """Returns the states [B, S, D] of the model's last stack at each token of a batch's source.

  An encoder reads the source, and so does a decoder alone. A decoder behind an encoder reads it
  too, shifted by the start token (BART: Lewis et al. 2020, section 3.1).
  """
  if model.decoder is None:
    return encode(model, batch, key, global_mask)
  source_BS, segments_BS = batch["source"], batch["source_segments"]
  positions_BS = batch["source_positions"]
  if model.encoder is None:
    return model.decode(source_BS, segments=segments_BS, positions=positions_BS, key=key)
  encoder_key, decoder_key = layers.split(key, 2)
  memory_BSD = encode(model, batch, encoder_key, global_mask)
  inputs_BS = jnp.where(positions_BS == 0, roles.start, jnp.roll(source_BS, 1, axis=1))
  return model.decode(inputs_BS, memory_BSD, segments_BS, segments_BS, positions_BS, decoder_key)
