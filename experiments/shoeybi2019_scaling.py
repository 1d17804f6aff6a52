"""python -m experiments.run experiments/shoeybi2019_scaling.py

Shoeybi et al. 2019, "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
Parallelism": on 512 V100s a model of 8.3 billion parameters keeps 76% of one GPU's speed (39
TFLOP/s).

An estimate: their GPT-2 of 8.3 billion (72 layers, dim 3072, 24 heads, rows of 1,024) with its
weights split over 8 chips and batches over the others, compiled for 16 H100s, and the cost of its
exchanges when the batch axis grows to 512 chips. One scale, no data. Needs requirements-cuda.txt; a
minute of one CPU core each. (libtpu 0.0.52 cannot write the text of this program for v5p or v6e,
from which train.plan reads a plan.)
"""

from experiments.tools.runs import Estimate, Value

CONFIG = "configs/causal.py:window=0"
GPT_2 = {
  "model.dim": 3072,
  "model.num_heads": 24,
  "model.mlp_dim": 12288,
  "model.decoder_layers": 72,
  "model.positions": "learned",
  "model.max_len": 2048,  # texts that are continued exceed a row
  "model.vocab_size": 51200,
  "model.dtype": "bfloat16",
  "model.scan_layers": True,
  "model.remat": "full",
  "task.target_len": 1024,
}
ABSTRACT = "abstract: 15.1 PFLOP/s on 512 GPUs, 76% of a strong single GPU"


def runs(scale):  # there is one scale
  metrics = ("efficiency_512", "milliseconds", "wire_milliseconds", "mfu", "gigabytes")
  for name, sequence in (("tensor-8", False), ("tensor-8-sequence", True)):
    changes = GPT_2 | {"batch_size": 16, "mesh.tensor": 8, "mesh.sequence": sequence}
    yield Estimate(name, CONFIG, changes, topology="h100:16", table=True, metrics=metrics)


EFFICIENCY = "plan/efficiency_512"
EXPECTED = [
  Value("efficiency at 512 chips, %", "tensor-8", EFFICIENCY, 76.0, ABSTRACT),
  Value("sequences split too (Korthikanti et al. 2022)", "tensor-8-sequence", EFFICIENCY),
]
