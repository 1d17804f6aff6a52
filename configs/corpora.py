"""Describes large corpora of texts, and runs of days, for the configs that pre-train on them."""

import os

PARQUET = ".parquet"
VALIDATION = 5000  # documents; two batches of T5's size


def read(arg, dataset, splits=None):
  """Returns the setting `data` of a task on the texts of `arg.data`, or of a dataset of TFDS if it
  is empty; nothing for a folder that train.prepare has written, which common.pretrain reads.

  splits: those of the dataset, where it has no validation. Of files whose name has `train`, others
  with `validation` in its place are the validation, and else the last hundredth of each.
  """
  limit = dict(limit=dict(validation=VALIDATION))
  if not arg.data:
    section = dict(name="tfds", dataset=dataset, data_dir=arg.data_dir or None, text="text")
    return dict(data=section | limit | (dict(splits=splits) if splits else {}))
  if os.path.isfile(os.path.expanduser(f"{arg.data}/manifest.json")):
    return {}
  folder, name = os.path.split(arg.data)
  before, train, behind = name.rpartition("train")
  if train and not splits:
    splits = dict(train=arg.data, validation=f"{folder}/{before}validation{behind}")
  else:
    splits = dict(train=f"{arg.data}[:99%]", validation=f"{arg.data}[99%:]")
  if name.endswith(PARQUET):
    section = dict(name="parquet", columns=("text",))
  else:
    section = dict(name="text", unit="file")
  return dict(data=section | dict(splits=splits) | limit)


def of_days(cfg, every, **schedule):
  """Returns the config of a run of days: what is small data's habit, seldom, and with workers."""
  cfg.log_every, cfg.workers = 100, 8
  cfg.evaluate.every = cfg.checkpoint.every = every
  cfg.schedule = schedule
  return cfg
