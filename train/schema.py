"""Defines a run's settings with their defaults, and checks a config before anything is read."""

import dataclasses
import os
from collections.abc import Mapping

from ml_collections import ConfigDict

from train import optimizer, ranges, shares, tasks
from train.build import MODELS, model_config
from train.common import paths
from train.common.errors import UserError, choose, did_you_mean, idle
from train.compression import distillation, lora, quantization
from train.record import config, older, workdir
from train.record.loggers import registry

# The defaults of the run itself.
RUN = dict(
  seed=0,
  parallelism="jit",  # or "pmap": data parallelism by hand
  epochs=0.0,  # passes over the training data in place of `steps`; 0: steps
  microbatches=1,
  workers=0,  # processes that make batches; 0: a thread
  # virtual streams, which share a batch's rows, where data are streamed; 0: 64, or the most of its
  # divisors that do. Where it is given, small data are read so too.
  streams=0,
  ema=0.0,  # decay of the weights' moving average, which is then evaluated and exported; 0: none
  spike=3.0,  # counts a loss above this multiple of the median of the last 100; 0: none
  skip_spikes=False,  # skips the update of such a loss
  max_skipped=10,  # skipped updates in a row, after which the run stops; 0: never
  watchdog_seconds=600.0,  # without the end of a step, after which stacks are logged; 0: never
  patience=0,  # evaluations without a better checkpoint.best_metric, after which it stops; 0: never
  loggers=("tensorboard",),  # also "wandb" and "mlflow"
  # -1: the devices that are left. sequence: splits the residual stream along a row's tokens over
  # the axis tensor (sequence parallelism).
  mesh=dict(data=-1, fsdp=1, tensor=1, sequence=False),
  evaluate=dict(split="validation", decode_every=0, decode_examples=0),
  checkpoint=dict(keep_latest=1, keep_best=1, best_metric="loss", best_mode="min"),
  init_from=dict(workdir="", which="latest", skip=(), encoder_layers=(), decoder_layers=()),
  distill=distillation.DISTILL,
  lora=lora.LORA,
  quantize=quantization.QUANTIZE,
)
# Keys without a default, with their types.
REQUIRED = dict.fromkeys(("steps", "batch_size", "log_every"), int)
REQUIRED |= {"evaluate.every": int, "checkpoint.every": int}
SECTIONS = ("task", "model", "optimizer", "schedule", "evaluate", "checkpoint")
MOST_TOKENS = 2**28  # of a batch, on one side
UNKNOWN_STEPS = 10**6  # of a run of epochs, where settings are checked before its data are read
# A record that cannot be read is an "error", or "skip" leaves it out and counts it.
# Data are streamed by their size (None), always (True) or never (False).
DATA = dict(on_bad_record="error", stream=None)
# Sections whose other keys are checked where they are used: by the data's source and the tokenizer.
OPEN = ("data", "tokenizer")


def defaults(cfg: Mapping) -> dict:
  """Returns the defaults of all sections, for the task and the model that `cfg` names."""
  name = cfg["model"].get("name", "transformer")  # older runs and Hugging Face's models have none
  settings, _ = choose(MODELS, name, "model.name")
  model = {field.name: field.default for field in dataclasses.fields(settings)}
  return RUN | dict(
    task=task_defaults(cfg["task"]),
    model=dict(name=name) | model | dict(vocab_size=None),  # None: the tokenizer's
    optimizer=optimizer.OPTIMIZER,
    schedule=optimizer.SCHEDULE,
  )


def complete(cfg: ConfigDict) -> ConfigDict:
  """Returns a locked config with the defaults of the keys that `cfg`, a run's, lacks."""
  cfg = ConfigDict(cfg.to_dict())
  fill(cfg, defaults(cfg))
  return config.frozen(cfg)


def fill(section: ConfigDict, usual: Mapping, prefix: str = "") -> None:
  """Adds the keys that `section` lacks. A tokenizer with a name is complete."""
  for key, default in usual.items():
    if key not in section:
      section[key] = default
    elif isinstance(default, Mapping):
      if not isinstance(section[key], ConfigDict):
        raise UserError(f"{prefix}{key} is {section[key]!r}: expects a section, {key}=dict(...)")
      if key != "tokenizer" or "name" not in section[key]:
        fill(section[key], default, f"{prefix}{key}.")


def check(cfg: ConfigDict) -> None:
  """Raises UserError for what is wrong in a complete config: `check_keys`; an unknown logger; a
  model, an optimizer, a schedule or a decoding that cannot be built; a checkpoint.best_metric that
  no evaluation reports.
  """
  check_keys(cfg)
  registry.check(cfg.loggers)
  _check_batch(cfg)
  model_config(cfg.model)
  tasks.check(cfg.task.to_dict())
  distillation.check(cfg.distill, cfg.task)
  model = cfg.model.get("name", "transformer")
  lora.check(cfg.lora, cfg.init_from.workdir, model, cfg.quantize)
  quantization.check(cfg.quantize, model)
  cfg = shares.settle(cfg, cfg.steps or UNKNOWN_STEPS)
  optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
  _check_metric(cfg)


def idle_settings(cfg: ConfigDict) -> list[str]:
  """Returns a sentence for each setting of what makes a model smaller that nothing reads, as it is
  switched off. Such a config can be: of a search, a trial may switch off what another one sets."""
  return [
    *distillation.idle_settings(cfg.distill),
    *idle("lora", cfg.lora, lora.LORA, "rank"),
    *idle("quantize", cfg.quantize, quantization.QUANTIZE, "weights"),
  ]


def check_keys(cfg: ConfigDict) -> None:
  """Raises UserError for an unknown key, with the nearest, and for a value of another type or
  outside its range. `model_config` checks the model's settings."""
  values, known = config.flat(cfg), config.flat(defaults(cfg))
  for key, value in values.items():
    if key.startswith("model."):
      continue
    if key in known or _is_known(key):
      kind = type(known[key]) if known.get(key) is not None else REQUIRED.get(key)
      later = shares.is_share(key, value) or (
        key == "steps" and value == 0 and values.get("epochs")
      )
      if not later and not any(section in OPEN for section in key.split(".")[:-1]):
        try:
          ranges.check(key, value, kind)
        except UserError as error:
          share = ", or a share of all steps above 0 and below 1" if key in shares.SHARES else ""
          raise UserError(f"{error}{share}") from None
    else:
      names = {name: values.get(name) for name in (*known, *REQUIRED)}
      raise UserError(f"{key}: {config.unknown_key(key, names)}")


def _check_batch(cfg: ConfigDict) -> None:
  """Raises UserError for a batch of more than MOST_TOKENS tokens, which no memory holds."""
  parts = dict(cfg.task.get("parts", {}))
  for name, section in {"": cfg.task, **parts}.items():
    for side in ("source_len", "target_len", "length"):
      length = section.get(side) or 0
      if cfg.batch_size * length > MOST_TOKENS:
        key = f"task.parts.{name}.{side}" if name else f"task.{side}"
        raise UserError(
          f"{key} is {length} and batch_size {cfg.batch_size}: a batch of {cfg.batch_size * length}"
          f" tokens is more than the {MOST_TOKENS} that are possible; lower one of them"
        )


def check_tokenizer(cfg: ConfigDict, folder: str | None) -> None:
  """Raises UserError where the tokenizer is to be read from a file that is not there, and the run's
  `folder`, if there is one, has none yet."""
  if folder and (paths.of(folder) / "tokenizer.json").exists():
    return
  spec = cfg.task.tokenizer
  path = str(spec.get("path") or "")
  if spec.get("name") != "file" or not path or path.startswith("hf:"):
    return
  if not paths.of(path).is_file():
    raise UserError(
      f"task.tokenizer.path: there is no file {path}; it is the tokenizer.json of a run's folder"
      " (tokenizer=RUN of a config)"
    )


def _check_metric(cfg) -> None:
  """Raises UserError for a checkpoint.best_metric that no evaluation of the task reports."""
  losses, scores = tasks.metric_names(cfg.task.to_dict())
  metric, decodes = cfg.checkpoint.best_metric, cfg.evaluate.decode_every
  if decodes and not scores:
    raise UserError(
      f"evaluate.decode_every is {decodes}, and a {cfg.task.name} task has a loss and no score: set"
      " evaluate.decode_every=0"
    )
  if metric in losses or (decodes and metric in scores):
    return
  reported = (*losses, *scores) if decodes else losses
  hint = did_you_mean(metric, (*losses, *scores))
  if not decodes and metric in scores:
    hint = "; set evaluate.decode_every too: scores come from decoding"
  raise UserError(
    f"checkpoint.best_metric is {metric!r}; an evaluation reports {', '.join(reported)}{hint}"
  )


def load_run(path: str | os.PathLike) -> ConfigDict:
  """Returns the config of the run in the folder `path`.

  Raises UserError where `path` holds no run, and where its config.json was changed so that a key is
  unknown, missing, of the wrong type or out of range.
  """
  cfg = workdir.load_config(path)
  if "model_type" in cfg:
    raise UserError(f"{path} is a Hugging Face directory, no run's folder: write hf:{path}")
  try:
    for section in SECTIONS:
      if section not in cfg:
        raise UserError(f"the section {section} is missing")
      if not isinstance(cfg[section], ConfigDict):
        raise UserError(f"{section} is {cfg[section]!r}: expects a section")
    if "name" not in cfg.task:
      raise UserError("task.name is missing")
    whole = older.complete(cfg)
    filled = complete(whole)
    known = config.flat(defaults(whole)) | REQUIRED
    later = older.defaults(known)
    missing = sorted(known.keys() - config.flat(whole).keys() - later.keys())
    for key in () if workdir.is_unchanged(path) else missing:  # else an older version wrote it
      if not any(section in OPEN for section in key.split(".")):
        raise UserError(f"{key} is missing")
    check(filled)
  except UserError as error:
    raise UserError(f"{path}/config.json: {error}; restore the file") from error
  return cfg


def task_defaults(task: Mapping) -> dict:
  """Returns the defaults of a task's section, and of those of the parts of a mixture."""
  if task["name"] != "mixture":
    return tasks.defaults(task["name"]) | dict(data=DATA)
  shared = {field.name: field.default for field in dataclasses.fields(tasks.Mixture)}
  usual = {key: value for key, value in shared.items() if value is not dataclasses.MISSING}
  if not isinstance(task.get("parts"), (Mapping, ConfigDict)):
    raise UserError("task.parts is missing: a mixture's tasks by name")
  parts = {
    name: {key: x for key, x in task_defaults(part).items() if key not in shared} | tasks.PART
    for name, part in task["parts"].items()
  }
  return dict(name="mixture") | usual | dict(parts=parts)


def _is_known(key: str) -> bool:
  """Returns whether a key without a default may be in a config."""
  *sections, last = key.split(".")
  if sections == ["optimizer"]:
    return any(last in names for names in optimizer.accepted(optimizer.OPTIMIZERS).values())
  return key in REQUIRED or key == "task.main" or any(section in OPEN for section in sections)
