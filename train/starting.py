"""Takes over the weights of another run, or of hf:DIR, at the start of a run."""

import re
from collections.abc import Sequence

from absl import logging

from train import pretrained
from train.common.errors import UserError, indented
from train.common.trees import flatten, match_layers
from train.data.tokenizer import Tokenizer


def init_from(
  params,
  tokenizer: Tokenizer,
  workdir: str,
  which: str,
  skip: Sequence[str],
  encoder_layers: Sequence[int] = (),
  decoder_layers: Sequence[int] = (),
  new: str = "^$",
) -> dict:
  """Returns the weights of another run, or of hf:DIR, that have the path and shape of one of
  `params`, a tree of arrays or ShapeDtypeStructs, by path.

  The log reports what was taken. Weights whose path matches one of the patterns `skip` are not.
  `encoder_layers` and `decoder_layers` number the origin's layers that become those of `params`, in
  this order; (): all. Weights whose path matches the pattern `new` are a run's own.

  Raises UserError for a layer that the origin does not have, for any other weight that only one
  side has or whose shapes differ, and for a model of another tokenizer than `tokenizer`, unless its
  embeddings are skipped.
  """

  def skipped(name):
    return any(re.search(pattern, name) for pattern in (*skip, new))

  origin = pretrained.open(workdir, body=which == "body")
  if not skipped(pretrained.WORDS):
    _check_vocabulary(origin, tokenizer)
  theirs, steps = origin.weights(which)
  ours = flatten(params)
  layers = dict(encoder=encoder_layers, decoder=decoder_layers)
  alone = not any(path.startswith("decoder/") for path in ours)
  theirs = pretrained.parts(origin, theirs, layers, alone)
  theirs = match_layers(theirs, ours)

  def describe(name):
    there, here = (getattr(tree.get(name), "shape", "nothing") for tree in (theirs, ours))
    return f"{name}: {there} there, {here} here"

  taken = {
    name
    for name in ours.keys() & theirs.keys()
    if ours[name].shape == theirs[name].shape and not skipped(name)
  }
  others = sorted((ours.keys() | theirs.keys()) - taken)
  at = f" step {steps[-1]}" if steps else ""
  logging.info("init_from %s%s: %d of %d weights taken", workdir, at, len(taken), len(ours))
  for name in others:
    logging.info("init_from: not taken %s", describe(name))
  if wrong := [describe(name) for name in others if not skipped(name)]:
    raise UserError(
      f"init_from.workdir {workdir}: weights that do not match; patterns in init_from.skip allow"
      f" them:{indented(wrong)}"
    )
  return {name: theirs[name] for name in taken}


def _check_vocabulary(origin: pretrained.Pretrained, tokenizer: Tokenizer) -> None:
  """Raises UserError if the origin's ids mean other tokens: equal shapes would hide the error."""
  if differs(origin, tokenizer):
    raise UserError(
      f"init_from.workdir {origin.name}: its tokenizer is not this run's. Take that one too"
      f" (task.tokenizer=dict(name='file', path='{origin.tokenizer_path}'); configs do so by"
      f" init={origin.name}), or skip the embeddings (init_from.skip='embedding/embedding$')"
    )


def differs(origin: pretrained.Pretrained, tokenizer: Tokenizer) -> bool:
  """Returns whether the ids of a trained model mean other tokens than those of `tokenizer`."""
  return bool(origin.tokenizer) and origin.tokenizer.fingerprint != tokenizer.fingerprint
