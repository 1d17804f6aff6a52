"""Describes large corpora of texts, and runs of days, for the configs that pre-train on them."""

import os

from configs import common

VALIDATION = 5000  # documents, some 2 million tokens


def read(arg, dataset, splits=None):
  """Returns the setting `data` of a task on the texts of `arg.data`, or of a dataset of TFDS if it
  is empty; nothing for a folder that train.prepare has written, which common.pretrain reads.

  splits: those of the dataset, where it has no validation. Else files whose name has `train` stand
  beside others with `validation` in its place. The last hundredth of other files is held out.
  """
  if not arg.data:
    section = dict(name="tfds", dataset=dataset, data_dir=arg.data_dir or None, text="text")
    section |= dict(splits=splits) if splits else {}
  elif common.prepared(arg.data):
    return {}
  else:
    section = common.prose(arg.data, 99)
    folder, name = os.path.split(arg.data)
    before, train, behind = name.rpartition("train")
    if train and not splits:
      validation = os.path.join(folder, f"{before}validation{behind}")
      section["splits"] = dict(train=arg.data, validation=validation)
  return dict(data=section | dict(limit=dict(validation=VALIDATION)))


def of_days(cfg, every, **schedule):
  """Returns the config of a run of days: with workers, and seldom evaluated and saved."""
  cfg.log_every, cfg.workers = 100, 8
  cfg.evaluate.every = cfg.checkpoint.every = every
  cfg.schedule = schedule
  return cfg
