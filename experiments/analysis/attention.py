"""python -m experiments.analysis.attention --workdir RUN "jump twice after walk" [--layer 2]

Draws every head's attention weights, as in Vaswani et al. 2017, figures 3 to 5: attention.png, and
attention.html, a page without further files where kind, layer and head are chosen. RUN is a run's
folder or hf:DIR. The text is read as train.predict reads it (a tab separates two texts); the
decoder's text is the model's own output, or --target. Takes ten to thirty seconds on two CPU cores.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.analysis import pictures
from model import attention, patterns
from model.transformer import Transformer
from train import inference
from train.common import entry
from train.common.errors import UserError
from train.data import batches
from train.step import make_predict_step
from train.tasks.denoising import Denoising
from train.tasks.mixture import Mixture
from train.tasks.mlm import Mlm
from train.tasks.states import encode

UNLIMITED = 1 << 20  # tokens
MOST = 8_000_000  # weights in a page, of 2.7 bytes each
ENCODER = "Each source token and the source tokens it attends to."
DECODER = (
  "Each token that the decoder reads and the tokens it attends to: itself and those before it"
)
CROSS = "Each token that the decoder writes and the source tokens it attends to."


class Inputs(NamedTuple):
  """The token ids of a text, as a model reads them."""

  batch: dict  # what to predict from: `source` and more, one row
  reads: list[int]  # the decoder's inputs; [] without one
  writes: list[int]  # the decoder's output at each input
  prefix: int  # so many of the first inputs attend to each other


def weights(module, q_BTHK, k_BSGK, v_BSGK, pattern):
  """Returns the weights [B, H, T, S] in float32: attention to the rows of the identity matrix.

  The weights are therefore exact for any kernel, even one that never stores them. Each pass has as
  many columns as a head has numbers, since some kernels take no other width.
  """
  del module
  S, K = k_BSGK.shape[1], v_BSGK.shape[3]
  eye_SS = jnp.pad(jnp.eye(S, dtype=v_BSGK.dtype), ((0, 0), (0, -S % K)))
  parts = []
  for start in range(0, S, K):
    values = jnp.broadcast_to(eye_SS[None, :, None, start : start + K], v_BSGK.shape)
    own = isinstance(pattern, patterns.OwnPattern)
    attend = pattern.with_values(values) if own else pattern
    parts.append(attend(q_BTHK, k_BSGK, values))
  weights_BTHS = jnp.concatenate(parts, axis=-1)[..., :S]
  return weights_BTHS.swapaxes(1, 2).astype(jnp.float32)


def forward(model, batch, inputs_BT=None, prefix_BT=None, look=weights) -> dict[str, list]:
  """Calls `look` on each layer's attention and returns its results by kind of attention.

  The model reads `batch`, and its decoder `inputs` without padding. The model is changed: all
  layers become a list.
  """
  for stack in filter(None, (model.encoder, model.decoder)):
    stack.unroll()
  seen, by_kind, memory_BSD, segments_BS = [], {}, None, None
  with attention.observe(lambda *given: seen.append(look(*given))):
    if model.encoder is not None:
      memory_BSD, segments_BS = encode(model, batch), batch["source_segments"]
      by_kind["encoder self-attention"] = seen.copy()
      seen.clear()
    if model.decoder is not None:
      ones_BT = jnp.ones_like(inputs_BT)  # whatever the ids are, they are one segment
      model.decode(inputs_BT, memory_BSD, segments_BS, ones_BT, prefix=prefix_BT)
      kinds = ["decoder self-attention"] + ["cross-attention"] * (memory_BSD is not None)
      by_kind |= {kind: seen[place :: len(kinds)] for place, kind in enumerate(kinds)}
  return by_kind


def look(run, text: str, target: str | None = None) -> list[pictures.Kind]:
  """Returns a model's attention by kind; raises UserError for a text that the model cannot read."""
  task = run.task.parts[run.task.main] if isinstance(run.task, Mixture) else run.task
  params = jax.device_get(run.params)  # one row: on one device
  given = make_inputs(task, run.graph, params, text, target)

  @jax.jit
  def compute(params, batch, inputs_BT, prefix_BT):
    return forward(nnx.merge(run.graph, params), batch, inputs_BT, prefix_BT)

  inputs_BT = np.asarray([given.reads], np.int32)
  prefix_BT = None
  if given.prefix:
    prefix_BT = (np.arange(inputs_BT.shape[1])[None] < given.prefix).astype(np.int32)
  shapes = jax.eval_shape(compute, params, given.batch, inputs_BT, prefix_BT)
  count = sum(x.size for x in jax.tree.leaves(shapes))
  if count > MOST:
    lengths = f"{given.batch['source'].shape[1]} tokens read, {len(given.reads)} written"
    raise UserError(
      f"{lengths}: all layers and heads have {count:,} weights, and a page holds {MOST:,}; give a"
      f" text of at most {int((MOST / count) ** 0.5 * 100)}% of that length"
    )
  weights_of = jax.device_get(compute(params, given.batch, inputs_BT, prefix_BT))
  shown = run.task.tokenizer.render_tokens
  source, reads, writes = map(shown, (given.batch["source"][0].tolist(), given.reads, given.writes))
  prefix = f", and the prefix of {given.prefix}" if given.prefix else ""
  captions = {
    "encoder self-attention": (ENCODER, source, source),
    "decoder self-attention": (f"{DECODER}{prefix}.", reads, reads),
    "cross-attention": (CROSS, writes, source),
  }
  kinds = [
    pictures.Kind(name, *caption, np.stack(weights_of[name])[:, 0])
    for name, caption in captions.items()
    if name in weights_of
  ]
  if not all(np.isfinite(kind.weights).all() for kind in kinds):
    raise UserError("the attention weights are not finite: the training has diverged")
  return kinds


def make_inputs(task, graph, params, text: str, target: str | None) -> Inputs:
  """Returns the model's inputs for `text`; the decoder's are `target` or the model's own output."""
  roles, tokenizer = task.tokenizer.roles, task.tokenizer
  if not task.target_len and target is not None:
    raise UserError("--target: this model has no decoder")
  batch, prefix = _request(task, text), 0
  if not task.target_len:
    return Inputs(batch, [], [], 0)
  if target is None:
    # the model's best output, decoded by its config, with forced first tokens
    output = jax.device_get(make_predict_step(task, graph)(params, batch, task.settings()))
    writes = [*roles.target_first] if task.source_len and roles.force else []
    writes += output["tokens"][0, 0, : output["lengths"][0, 0]].tolist()
  elif task.source_len:
    by_name = isinstance(task, Denoising)  # <extra_0> is a sentinel
    ids = tokenizer.encode_marked(target) if by_name else tokenizer.encode_targets([target])[0]
    writes = roles.target(ids, UNLIMITED)
  else:
    writes = [*_request(task, text + target)["source"][0].tolist(), roles.eos]
  if task.source_len:
    reads = [roles.start, *writes[:-1]]
  else:
    given = batch["source"][0].tolist()
    every = writes if target is not None else [*given, *writes]
    reads, writes, prefix = every[:-1], every[1:], len(given) if task.prefix else 0
  if len(reads) > (most := max(task.max_positions)):
    written = f"{len(reads)} tokens, and this model writes 1 to {most}"
    raise UserError(f"--target: {written}")
  return Inputs(batch, reads, writes, prefix)


def _request(task, text) -> dict:
  """Returns the batch of one row to predict from, in full length."""
  side = "source_len" if task.source_len else "target_len"
  most = f"this model reads 1 to {getattr(task, side)} tokens"
  uncut = dataclasses.replace(task, **{side: UNLIMITED})
  # a masked language model can be looked at without a mask too
  example = {"text": text} if isinstance(task, Mlm) else uncut.example(text)
  requests = uncut.requests([example])
  length = int(requests.lengths()[0, 0])
  if not text.strip():
    raise UserError(f"there is no text; {most}")
  if length > getattr(task, side):
    raise UserError(f"the text has {length} tokens, special ones included; {most}")
  return next(batches.requests(requests, 1, length))


def main(argv):
  parser = inference.parser(__doc__)
  parser.add_argument("text")
  parser.add_argument("--target", help="the decoder's output; without an encoder, the continuation")
  parser.add_argument("--layer", type=int, help="shown first and large: 1, 2, ...; else the last")
  parser.add_argument("--head", type=int, default=1, help="shown first and large: 1, 2, ...")
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    default=pathlib.Path("."),
    metavar="FOLDER",
    help="where the files are written",
  )
  args = parser.parse_args(argv)
  run = inference.load_run(args.workdir, args.checkpoint)
  model = nnx.merge(run.graph, run.params)
  if not isinstance(model, Transformer):
    raise UserError(f"{args.workdir}: only a Transformer has attention heads, this is an LSTM")
  cfg = model.cfg
  depth = max(cfg.encoder_layers, cfg.decoder_layers)
  heads = min(stack.cfg.num_heads for stack in (model.encoder, model.decoder) if stack is not None)
  layer = depth if args.layer is None else args.layer
  for name, value, most in (("layer", layer, depth), ("head", args.head, heads)):
    if not 1 <= value <= most:
      raise UserError(f"--{name} {value}: this model has {name}s 1 to {most}")
  kinds = look(run, args.text, args.target)
  name = args.workdir.name or str(args.workdir)
  picture = pictures.Picture(name, args.text, kinds, layer, args.head)
  for path in pictures.write(picture, args.out):
    print(path)


if __name__ == "__main__":
  entry.run(main)
