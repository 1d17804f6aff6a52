"""python -m experiments.run experiments/shoeybi2019_scaling.py

Shoeybi et al. 2019, "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
Parallelism": 8.3 billion parameters on 512 V100s keep 76% of one GPU's speed each (39 TFLOP/s).

Here, on paper: their GPT-2 of 8.3 billion (72 layers, dim 3072, 24 heads, rows of 1,024) with its
weights split over 8 chips and batches over the others, compiled for 16 chips of v6e, and what its
exchanges cost when the axis of the batches grows to 512. One scale, no data. Needs
requirements-tpu.txt.
"""

from experiments.runs import Estimate, Value

CONFIG = "configs/causal.py:window=0"
GPT_2 = {
  "model.dim": 3072,
  "model.num_heads": 24,
  "model.mlp_dim": 12288,
  "model.decoder_layers": 72,
  "model.positions": "learned",
  "model.max_len": 2048,  # texts that are continued get longer than rows
  "model.vocab_size": 51200,
  "model.dtype": "bfloat16",
  "model.scan_layers": True,
  "model.remat": "full",
  "task.target_len": 1024,
}
ABSTRACT = "abstract: 15.1 PFLOP/s on 512 GPUs, 76% of a strong single GPU"
UNLIKE = (
  "on paper, without stragglers or overlap, and against the smallest mesh (8 chips) where theirs is"
  " against one GPU with a smaller model"
)


def runs(scale):
  del scale
  metrics = ("efficiency_512", "milliseconds", "wire_milliseconds", "mfu", "gigabytes")
  for name, sequence in (("tensor-8", False), ("tensor-8-sequence", True)):
    changes = GPT_2 | {"batch_size": 16, "mesh.tensor": 8, "mesh.sequence": sequence}
    yield Estimate(name, CONFIG, changes, "v5p:2x2x4", table=True, metrics=metrics)


EFFICIENCY = "plan/efficiency_512"
EXPECTED = [
  Value("efficiency at 512 chips, %", "tensor-8", EFFICIENCY, 76.0, ABSTRACT, why=UNLIKE),
  Value("sequences split too (Korthikanti et al. 2022)", "tensor-8-sequence", EFFICIENCY),
]
