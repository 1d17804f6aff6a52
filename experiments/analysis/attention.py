"""python -m experiments.analysis.attention --workdir RUN "jump twice after walk" [--layer 2]

Who looks at whom, as in Vaswani et al. 2017, figures 3 to 5: attention.png, and attention.html, a
page on its own where kind, layer and head are chosen. RUN is a run's folder or hf:DIR. The text is
read as train.predict reads it (two texts have a tab between); the decoder's is the model's own
output, or --target. Ten to thirty seconds on two CPU cores.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.analysis import pictures
from model import attention
from model.transformer import Transformer
from train import inference
from train.common import entry
from train.common.errors import UserError
from train.data import batches
from train.tasks.denoising import Denoising
from train.tasks.mixture import Mixture
from train.tasks.mlm import Mlm
from train.tasks.protocol import encode

ENDLESS = 1 << 20  # tokens
MOST = 8_000_000  # weights in a page, of 2.7 bytes each
READ = "Each word and what it looks at: the encoder reads all of the text at once."
WRITTEN = "Each word that the decoder has read and what it looks at: itself and those before it"
CROSS = "Each word that the decoder writes and what it looks at in the text that the encoder read."


class Words(NamedTuple):
  """The ids that a text is to a model."""

  batch: dict  # what to predict from: `source` and more, one row
  reads: list[int]  # the decoder; [] without one
  says: list[int]  # what it writes where it has read that: as many
  prefix: int  # so many of `reads` are seen by all of those


def weights(module, q_BTHK, k_BSGK, v_BSGK, pattern):
  """[B, H, T, S] float32: what the pattern makes of values that are the rows of the identity.

  So they are those of the kernel in use, a window's chunks put together, whether or not it ever
  writes them down. As many columns at a time as a head has, for kernels that take no others.
  """
  del module
  S, K = k_BSGK.shape[1], v_BSGK.shape[3]
  eye_SS = jnp.pad(jnp.eye(S, dtype=v_BSGK.dtype), ((0, 0), (0, -S % K)))
  parts = []
  for start in range(0, S, K):
    values = jnp.broadcast_to(eye_SS[None, :, None, start : start + K], v_BSGK.shape)
    parts.append(pattern(q_BTHK, k_BSGK, values))
  weights_BTHS = jnp.concatenate(parts, axis=-1)[..., :S]
  return weights_BTHS.swapaxes(1, 2).astype(jnp.float32)


def forward(model, batch, inputs_BT=None, prefix_BT=None, look=weights) -> dict[str, list]:
  """What `look` makes of each layer's attention as the model reads `batch`, and its decoder
  `inputs` without padding: by kind. The model is changed: its layers are one by one."""
  for stack in filter(None, (model.encoder, model.decoder)):
    stack.blocks = nnx.List(stack.layers())
    stack.cfg = dataclasses.replace(stack.cfg, scan_layers=False, remat="none")
  seen, found, memory_BSD, segments_BS = [], {}, None, None
  with attention.observe(lambda *given: seen.append(look(*given))):
    if model.encoder is not None:
      memory_BSD, segments_BS = encode(model, batch), batch["source_segments"]
      found["encoder self-attention"] = seen.copy()
      seen.clear()
    if model.decoder is not None:
      ones_BT = jnp.ones_like(inputs_BT)  # whatever the ids are, they are one segment
      model.decode(inputs_BT, memory_BSD, segments_BS, ones_BT, prefix=prefix_BT)
      kinds = ["decoder self-attention"] + ["cross-attention"] * (memory_BSD is not None)
      found |= {kind: seen[place :: len(kinds)] for place, kind in enumerate(kinds)}
  return found


def look(run, text: str, target: str | None = None) -> list[pictures.Kind]:
  """The kinds of attention that a run's model has, as it reads the text; UserError for what it
  cannot read."""
  task = run.task.parts[run.task.main] if isinstance(run.task, Mixture) else run.task
  params = jax.device_get(run.params)  # one row: on one device
  read = words(task, run.graph, params, text, target)

  @jax.jit
  def compute(params, batch, inputs_BT, prefix_BT):
    return forward(nnx.merge(run.graph, params), batch, inputs_BT, prefix_BT)

  inputs_BT = np.asarray([read.reads], np.int32)
  prefix_BT = None
  if read.prefix:
    prefix_BT = (np.arange(inputs_BT.shape[1])[None] < read.prefix).astype(np.int32)
  shapes = jax.eval_shape(compute, params, read.batch, inputs_BT, prefix_BT)
  count = sum(x.size for x in jax.tree.leaves(shapes))
  if count > MOST:
    lengths = f"{read.batch['source'].shape[1]} tokens read, {len(read.reads)} written"
    raise UserError(
      f"{lengths}: all layers' and heads' weights are {count:,}, and a page holds {MOST:,}; give a"
      f" text of at most {int((MOST / count) ** 0.5 * 100)}% of that length"
    )
  found = jax.device_get(compute(params, read.batch, inputs_BT, prefix_BT))
  shown = run.task.tokenizer.render_tokens
  source, reads, says = (shown(x) for x in (read.batch["source"][0].tolist(), *read[1:3]))
  prefix = f", and the {read.prefix} it was given" if read.prefix else ""
  told = {
    "encoder self-attention": (READ, source, source),
    "decoder self-attention": (f"{WRITTEN}{prefix}.", reads, reads),
    "cross-attention": (CROSS, says, source),
  }
  kinds = [
    pictures.Kind(name, *told[name], np.stack(found[name])[:, 0]) for name in told if name in found
  ]
  if not all(np.isfinite(kind.weights).all() for kind in kinds):
    raise UserError("the weights of attention are not finite: training has diverged")
  return kinds


def words(task, graph, params, text: str, target: str | None) -> Words:
  """What the model is given of `text`, and what its decoder reads and says: `target`, or its own
  output."""
  roles, tokenizer = task.tokenizer.roles, task.tokenizer
  if not task.target_len and target is not None:
    raise UserError("--target: this model has no decoder")
  batch = _asked(task, text)
  if not task.target_len:
    return Words(batch, [], [], 0)
  if target is None:
    says = _output(task, graph, params, batch)
  elif task.source_len:
    by_name = isinstance(task, Denoising)  # <extra_0> stands for what was hidden
    ids = tokenizer.encode_marked(target) if by_name else tokenizer.encode_targets([target])[0]
    says = roles.target(ids, ENDLESS)
  else:
    says = [*_asked(task, text + target)["source"][0].tolist(), roles.eos]
  if task.source_len:
    reads, prefix = [roles.start, *says[:-1]], 0
  else:
    given = batch["source"][0].tolist()
    every = says if target is not None else [*given, *says]
    reads, says, prefix = every[:-1], every[1:], len(given) if task.prefix else 0
  if len(reads) > task.max_positions:
    raise UserError(
      f"--target: {len(reads)} tokens, and this model writes 1 to {task.max_positions}"
    )
  return Words(batch, reads, says, prefix)


def _asked(task, text) -> dict:
  """What to predict from, one row as long as it is; nothing is cut."""
  side = "source_len" if task.source_len else "target_len"
  longest, whole = getattr(task, side), dataclasses.replace(task, **{side: ENDLESS})
  # a text without a mask can be looked at too
  example = {"text": text} if isinstance(task, Mlm) else whole.example(text)
  asked = whole.requests([example])
  length = int(asked.lengths()[0, 0])
  if not text.strip() or length > longest:
    what = (
      f"the text is {length} tokens with what frames it" if text.strip() else "there is no text"
    )
    raise UserError(f"{what}; this model reads 1 to {longest} tokens")
  return next(batches.requests(asked, 1, length))


def _output(task, graph, params, batch) -> list[int]:
  """The best of what the model says, as its config decodes, with what it is made to begin with."""
  roles, settings = task.tokenizer.roles, task.settings()

  @jax.jit
  def predict(params, batch):
    return task.predict(nnx.merge(graph, params), batch, settings)

  found = jax.device_get(predict(params, batch))
  first = roles.target_first if task.source_len and roles.force else ()
  return [*first, *found["tokens"][0, 0, : found["lengths"][0, 0]].tolist()]


def main(argv):
  parser = inference.parser(__doc__)
  parser.add_argument("text")
  parser.add_argument("--target", help="what the decoder writes; without an encoder, goes on with")
  parser.add_argument("--layer", type=int, help="to show first and large: 1, 2, ...; else the last")
  parser.add_argument("--head", type=int, default=1, help="likewise: 1, 2, ...")
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."), metavar="FOLDER")
  args = parser.parse_args(argv)
  run = inference.load_run(args.workdir, args.checkpoint)
  model = nnx.merge(run.graph, run.params)
  if not isinstance(model, Transformer):
    raise UserError(f"{args.workdir}: pictures are of a Transformer's heads, this is an LSTM")
  cfg = model.cfg
  depth = max(cfg.encoder_layers, cfg.decoder_layers)
  layer = depth if args.layer is None else args.layer
  for name, value, most in (("layer", layer, depth), ("head", args.head, cfg.num_heads)):
    if not 1 <= value <= most:
      raise UserError(f"--{name} {value}: this model has {name}s 1 to {most}")
  kinds = look(run, args.text, args.target)
  name = args.workdir.name or str(args.workdir)
  picture = pictures.Picture(name, args.text, kinds, layer, args.head)
  for path in pictures.write(picture, args.out):
    print(path)


if __name__ == "__main__":
  entry.run(main)
