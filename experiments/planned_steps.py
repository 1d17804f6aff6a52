"""python -m experiments.run experiments/planned_steps.py

Train steps compiled for TPU v5e chips that are not here (needs requirements-tpu.txt): Vaswani et
al. 2017's base, 64 pairs of 256 tokens a chip on 4 chips, and Devlin et al. 2019's BERT-large, 256
rows of 512 tokens on 16 chips. Estimates of a compiler, not times: milliseconds are its cycles,
kernels and the wire, none of which overlap. A few minutes of one CPU core each.
"""

from experiments.tools.runs import Estimate

SCAN = {"model.scan_layers": True, "model.remat": "full"}
SPLASH = SCAN | {"model.attention_dropout": 0.0, "model.attention_impl": "splash"}
BASE = ("configs/wmt14.py:size=base", "v5e:2x2")
BERT = ("configs/mlm.py:size=large", "v5e:4x4")
STEPS = {
  "base": (*BASE, {}),
  "base-scan": (*BASE, SCAN),
  "bert-large-scan": (*BERT, SCAN),
  "bert-large-splash": (*BERT, SPLASH),
}


def runs(scale):  # there is one scale
  metrics = ("milliseconds", "wire_milliseconds", "mfu", "gigabytes")
  for name, (config, topology, changes) in STEPS.items():
    changes = {"batch_size": 256} | changes
    yield Estimate(name, config, changes, topology=topology, metrics=metrics)
