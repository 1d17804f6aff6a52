"""python -m experiments.analysis.probe --workdir RUN --data DIR/trec

Measures what each layer of a pre-trained encoder represents: the test accuracy of a linear (ridge)
classifier of the mean of a text's states, for the embeddings and after each block, and the states'
root mean square. DIR/train.tsv and DIR/test.tsv hold the texts and labels. Middle layers below the
embeddings are a sign of failed pre-training. Takes about a minute on two CPU cores.
"""

import jax
import numpy as np
from flax import nnx
from sklearn import linear_model, pipeline, preprocessing

from model.transformer import Transformer
from train import inference
from train.common import entry
from train.common.errors import UserError
from train.data import sources

ROWS = 64
WIDTH = 48  # tokens of a text, its special ones included


def features(run, texts, depth: int) -> list[tuple[np.ndarray, float]]:
  """Returns mean states [N, D] and their root mean square after 0 to `depth` blocks; the texts have
  bos and eos, and long ones lose their ends."""
  source_NS = np.zeros((-(-len(texts) // ROWS) * ROWS, WIDTH), np.int32)
  first, eos = run.task.tokenizer.roles.first, run.task.tokenizer.roles.eos
  for row, ids in zip(source_NS, run.task.tokenizer.encode_batch(texts)):
    ids = [*first, *ids[: WIDTH - len(first) - 1], eos]
    row[: len(ids)] = ids

  @jax.jit
  def encode(params, source_BS):
    states = []
    for count in range(depth + 1):  # an encoder for each; the compiler shares their common layers
      model = nnx.merge(run.graph, params)
      model.encoder.blocks = nnx.List(model.encoder.layers()[:count])
      model.encoder.norm = None  # which follows the last block
      states.append(model.encode(source_BS))
    return states

  states = [encode(run.params, source_BS) for source_BS in source_NS.reshape(-1, ROWS, WIDTH)]
  real_NS1 = (source_NS > 0)[..., None]
  layers = []
  for several in zip(*states):
    x_NSD = np.concatenate(several) * real_NS1
    mean_ND = x_NSD.sum(1) / np.maximum(real_NS1.sum(1), 1)
    square = (x_NSD**2).sum() / real_NS1.sum() / x_NSD.shape[-1]
    layers.append((mean_ND[: len(texts)], float(np.sqrt(square))))
  return layers


def main(argv):
  parser = inference.parser(__doc__)
  parser.add_argument("--data", required=True, help="a folder with train.tsv and test.tsv")
  args = parser.parse_args(argv)
  run = inference.load_run(args.workdir, args.checkpoint)
  model = nnx.merge(run.graph, run.params)
  if not isinstance(model, Transformer) or model.cfg.scan_layers or model.encoder is None:
    raise UserError(f"{args.workdir}: the probe needs a Transformer's encoder without scan_layers")
  splits = {split: f"{args.data}/{split}.tsv" for split in ("train", "test")}
  data = dict(name="files", splits=splits, columns=("text", "label"))
  labels, layers = [], []
  for split in splits:
    examples = list(sources.open_split(data, split))
    labels.append([example["label"] for example in examples])
    texts = [example["text"] for example in examples]
    layers.append(features(run, texts, len(model.encoder.layers())))
  print("blocks  RMS    test accuracy")
  for blocks, ((x_train, _), (x_test, rms)) in enumerate(zip(*layers)):
    classifier = linear_model.RidgeClassifierCV(np.logspace(0, 5, 11))
    ridge = pipeline.make_pipeline(preprocessing.StandardScaler(), classifier)
    accuracy = ridge.fit(x_train, labels[0]).score(x_test, labels[1])
    print(f"{blocks:6}  {rms:5.2f}  {100 * accuracy:.1f}", flush=True)


if __name__ == "__main__":
  entry.run(main)
