"""Writes a run's folder that was not trained but made of another: quantized, pruned or averaged."""

import shutil
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from train import pretrained, schema
from train.checkpoint import Checkpoints
from train.common import paths, trees
from train.common.errors import UserError
from train.compression import quantization
from train.record import config, data_files, workdir

MADE_OF = "made_of"  # in run.json: the run that this one was made of


class _NoData:
  """The position in the data of what was not trained."""

  def get_state(self) -> dict:
    """Returns no position."""
    return {}


def config_of(trained: pretrained.Pretrained) -> ConfigDict:
  """Returns the config of a run, with what it rounds by patterns of single layers; of hf:DIR, one
  without data, which predicts alone."""
  if settings := pretrained.quantized(trained):
    cfg = ConfigDict(trained.config.to_dict())
    cfg.quantize = pretrained.of_single_layers(trained, settings)
    return config.frozen(cfg)
  if trained.config is not None:
    return trained.config
  tokenizer = dict(name="file", path=trained.tokenizer_path)
  task = trained.directory.task() | dict(tokenizer=tokenizer)
  alone = dict(steps=1, batch_size=1, log_every=1, evaluate=dict(every=1), checkpoint=dict(every=1))
  model = dict(name="transformer") | trained.model
  return ConfigDict(dict(alone, task=task, model=model, optimizer={}, schedule={}))


def made_of(run: pretrained.Pretrained) -> str:
  """Returns the name of the run, or hf:DIR, that a run was made of; of a trained one, ""."""
  begun = workdir.starts(paths.of(run.name))
  return next((start[MADE_OF] for start in begun if MADE_OF in start), "")


def changed(cfg: ConfigDict, **changes) -> ConfigDict:
  """Returns the config of a derived run: whole, with single layers of its own weights and no
  teacher, after `changes` by dotted key."""
  cfg = ConfigDict(schema.complete(cfg).to_dict())
  own = {key: dict(schema.RUN[key]) for key in ("init_from", "distill", "lora")}
  if cfg.lora.rank:  # the merged weights are floats
    own["quantize"] = dict(schema.RUN["quantize"])
  if cfg.model.name == "transformer":
    own |= {"model.scan_layers": False, "model.remat": "none"}
  for key, value in (own | changes).items():
    section, _, last = key.rpartition(".")
    (cfg[section] if section else cfg)[last] = value
  return config.frozen(cfg)


def read(trained: pretrained.Pretrained, checkpoint: str) -> tuple[dict, int]:
  """Returns path -> numpy array of a checkpoint, with single layers, and its step: the
  last of several that are averaged, and 1 of hf:DIR."""
  trained.check_sizes(checkpoint)
  weights, steps = trained.weights(checkpoint)
  weights = trees.unstack_layers(weights)
  return {path: np.asarray(x) for path, x in weights.items()}, max(steps, default=1)


def check_new(out: paths.Path) -> None:
  """Raises UserError where `out` is there and not empty."""
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise UserError(f"--out {out} is there: name a new folder")


def write(
  out: paths.Path,
  cfg: ConfigDict,
  weights: Mapping,
  model: nnx.Module,
  *,
  origin: pretrained.Pretrained,
  step: int,
  command: Sequence[str],
  **facts,
) -> None:
  """Writes the folder `out` of a run with the config `cfg` and `weights` (path -> array) of the
  abstract `model`, made of the run `origin`; run.json gets the `facts`.

  Raises UserError where `out` is there and not empty.
  """
  check_new(out)
  shapes = nnx.to_pure_dict(nnx.state(model))
  leaves = {path: np.asarray(x) for path, x in weights.items()}
  there, here = (
    {path: (x.shape, str(x.dtype)) for path, x in tree.items()}
    for tree in (trees.flatten(shapes), leaves)
  )
  if wrong := sorted(path for path, _ in there.items() ^ here.items()):
    raise ValueError(f"{origin.name}: these weights are not the model's: {wrong[:5]}")
  params = jax.tree.map(jax.device_put, trees.replace(shapes, leaves))
  with workdir.open_run(out, cfg, command) as folder:
    if origin.directory:
      origin.tokenizer.save(folder.path / "tokenizer.json")
    for name in workdir.MADE_OF_DATA:
      source = paths.of(origin.name) / name
      if not origin.directory and source.exists():
        with source.open("rb") as read, (folder.path / name).open("wb") as written:
          shutil.copyfileobj(read, written)
    parameters = quantization.count(leaves)
    files = data_files.digests(folder.path)
    folder.note(files=files, parameters=parameters, **{MADE_OF: origin.name}, **facts)
    with Checkpoints(folder.path, clean=True) as checkpoints:
      checkpoints.save(dict(step=jnp.int32(step), params=params), _NoData())
