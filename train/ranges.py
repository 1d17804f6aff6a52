"""Defines the range, the choices and the type of each setting, beside the type of its default."""

import inspect
import re

from model.heads import POOLS, TRANSFORMS
from model.settings import DTYPES
from train import optimizer
from train.common import intervals
from train.common.errors import choose
from train.common.intervals import SEEDS
from train.compression import integers
from train.compression.distillation import HIDDEN_LOSSES
from train.data import corruption
from train.tasks.text_to_text import KINDS
from train.tasks.translation import BLEU_TOKENIZERS

# The intervals of numbers. The keys of a part of a mixture are those of the section `task`.
RANGES = {
  "steps": "[1, inf)",
  "epochs": "[0, inf)",
  "seed": SEEDS,
  "batch_size": "[1, inf)",
  "microbatches": "[1, inf)",
  "workers": "[0, 1024]",
  "streams": "[0, 65536]",
  "log_every": "[1, inf)",
  "ema": "[0, 1)",
  "spike": "[0, inf)",
  "max_skipped": "[0, inf)",
  "watchdog_seconds": "[0, inf)",
  "patience": "[0, inf)",
  "mesh.data": "[-1, inf)",
  "mesh.fsdp": "[-1, inf)",
  "mesh.tensor": "[-1, inf)",
  "evaluate.every": "[1, inf)",
  "evaluate.decode_every": "[0, inf)",
  "evaluate.decode_examples": "[0, inf)",
  "checkpoint.every": "[1, inf)",
  "checkpoint.keep_latest": "[1, inf)",
  "checkpoint.keep_best": "[0, inf)",
  "optimizer.clip_norm": "[0, inf)",
  "optimizer.b1": "[0, 1)",
  "optimizer.b2": "[0, 1)",
  "optimizer.eps": "[0, inf)",
  "optimizer.weight_decay": "[0, inf)",
  "optimizer.weight_decay_rate": "[0, inf)",
  "optimizer.momentum": "[0, 1)",
  "schedule.peak": "[0, inf)",
  "schedule.warmup_steps": "[0, inf)",
  "schedule.final": "[0, inf)",
  "schedule.decay_steps": "[0, inf)",
  "quantize.group": "[0, inf)",
  "lora.rank": "[0, inf)",
  "lora.alpha": "(0, inf)",
  "lora.dropout": "[0, 1)",
  "distill.temperature": "(0, inf)",
  "distill.hard": "[0, inf)",
  "distill.soft": "[0, inf)",
  "distill.hidden": "[0, inf)",
  "distill.attention": "[0, inf)",
  "distill.relation_heads": "[0, inf)",
  "distill.cache_top": "[1, inf)",
  "task.source_len": "[0, inf)",
  "task.target_len": "[0, inf)",
  "task.length": "[1, inf)",
  "task.stride": "[0, inf)",
  "task.seed": SEEDS,
  "task.rate": "(0, 1)",
  "task.mean_span": "[1, inf)",
  "task.generator": "(0, 1]",
  "task.detection_weight": "[0, inf)",
  "task.label_smoothing": "[0, 1)",
  "task.z_loss": "[0, inf)",
  "task.loss_chunks": "[1, inf)",
  "task.decode_batch": "[1, inf)",
  "task.share": "(0, inf)",
  "task.max_epochs": "[0, inf)",
  "task.alpha": "[0, 1]",
  "task.size_cap": "[0, inf)",
}
CHOICES = {
  "parallelism": ("jit", "pmap"),
  "checkpoint.best_mode": ("min", "max"),
  "optimizer.name": optimizer.OPTIMIZERS,
  "optimizer.mu_dtype": DTYPES,
  "schedule.name": optimizer.SCHEDULES,
  "distill.hidden_loss": HIDDEN_LOSSES,
  "quantize.weights": ("", *integers.TYPES),
  "quantize.activations": ("", "int8", "fp8"),
  "task.style": corruption.STYLES,
  "task.kind": KINDS,
  "task.pool": POOLS,
  "task.transform": ("", *TRANSFORMS),
  "task.bleu_tokenizer": BLEU_TOKENIZERS,
}
# The types of settings whose default is None, which is allowed too, or that have no default.
TYPES = dict.fromkeys(("b1", "b2", "eps", "weight_decay", "weight_decay_rate", "momentum"), float)
TYPES = {f"optimizer.{key}": kind for key, kind in TYPES.items()}
TYPES |= {"optimizer.nesterov": bool, "optimizer.mu_dtype": str}
TYPES |= {"schedule.final": float, "schedule.decay_steps": int}


def check(key: str, value, kind: type | None) -> None:
  """Raises UserError for a value of `key` that has another type than `kind` or lies outside its
  range or choices. kind: the type of the default; None: the one in TYPES, or any."""
  name = re.sub(r"^task\.parts\.[^.]+\.", "task.", key)
  if kind is None:
    kind = TYPES.get(name) or _optax_type(name)
    if value is None or kind is None:
      return
  intervals.check(key, value, kind, RANGES.get(name, "(-inf, inf)"))
  if name in CHOICES:
    choose(dict.fromkeys(CHOICES[name]), value, key)


def _optax_type(name: str) -> type | None:
  """Returns the type of the default that optax gives an optimizer's setting, if it is a number."""
  section, _, key = name.partition(".")
  for make in optimizer.OPTIMIZERS.values() if section == "optimizer" else ():
    default = getattr(inspect.signature(make).parameters.get(key), "default", None)
    if isinstance(default, bool | int | float):
      return type(default)
  return None
