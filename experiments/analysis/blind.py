"""python -m experiments.analysis.blind --workdir RUN [--split validation]

Measures how much a decoder uses its encoder: the loss on a split, and the loss where each row of
targets has the source of the row before. Where both are equal, the decoder has learnt a language
model and ignores its encoder. Takes half a minute on two CPU cores.
"""

import numpy as np

from train import evaluation, inference, tasks
from train.common import entry
from train.common.errors import UserError
from train.data.batches import eval_batches
from train.step import make_eval_step


def main(argv):
  parser = inference.parser(__doc__)
  parser.add_argument("--split", default="validation")
  args = parser.parse_args(argv)
  run = inference.load_run(args.workdir, args.checkpoint)
  if not (run.task.source_len and run.task.target_len):
    raise UserError(f"{args.workdir}: this run has no encoder-decoder")
  layout = tasks.layout(run.task, run.cfg.batch_size)
  original = list(eval_batches(run.task.items(args.split), layout))
  blind = [
    {key: np.roll(x, 1, axis=0) if key.startswith("source") else x for key, x in batch.items()}
    for batch in original
  ]
  step = make_eval_step(run.task, run.graph)
  for name, batches in (("own source", original), ("another's", blind)):
    losses = evaluation.loss(step, run.params, run.mesh, batches)
    print(f"{name:12} loss {losses['loss']:.3f}", flush=True)


if __name__ == "__main__":
  entry.run(main)
