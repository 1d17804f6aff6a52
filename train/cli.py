"""What the command lines share: arguments, a trained run ready to use, and errors in words."""

import argparse
import dataclasses
import logging as stdlib_logging
import os
import pathlib
import sys
import traceback
from typing import Any

import jax
import numpy as np
from absl import flags, logging
from flax import nnx

from train import models, sharding, tasks
from train.checkpoint import Checkpoints
from train.errors import UserError
from train.interop import directory
from train.optimizer import path_name
from train.paths import cache_dir
from train.workdir import load_config

INTERRUPTED, TERMINATED = 130, 143  # exit status after Ctrl-C and SIGTERM, as shells count


def run(main) -> None:
  """Calls `main(argv)`; a user's mistake is printed without traceback and exits 2."""
  set_logging()
  set_compile_cache()
  try:
    sys.exit(main(sys.argv[1:]) or 0)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    _leave(2)
  except BrokenPipeError:  # the reader, say `head`, has enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    _leave(INTERRUPTED)
  except Exception:
    traceback.print_exc()
    _leave(1)


def _leave(status: int):
  """Exits, and does not wait for the other processes of the run, which will not come."""
  if jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)


def set_logging() -> None:
  """Our own lines from INFO on, as plain text; of the libraries only warnings."""
  flags.FLAGS(["scriptorium"])  # absl warns about every line logged before its flags are parsed
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  handler, ours = logging.get_absl_handler(), str(pathlib.Path(__file__).parent)
  handler.setFormatter(None)
  handler.addFilter(lambda r: r.levelno > stdlib_logging.INFO or r.pathname.startswith(ours))


def set_compile_cache() -> None:
  """Compiled programs outlive the process, unless JAX_COMPILATION_CACHE_DIR says where or ''."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(cache_dir("compiled")))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained run, ready to evaluate or predict."""

  cfg: Any
  task: Any
  graph: Any
  params: Any
  mesh: jax.sharding.Mesh
  steps: list[int]


def load_run(workdir, checkpoint: str, *, pair: bool = False) -> Run:
  """The weights of `latest`, `best`, STEP or `average:N`, on all devices here; or those of hf:DIR,
  of which a classifier can be one of pairs."""
  mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
  if directory.is_one(workdir):
    return _load_directory(directory.open_directory(str(workdir)), checkpoint, mesh, pair)
  if pair:
    raise UserError("--pair is of hf:DIR; a run knows whether it classifies pairs")
  cfg = load_config(workdir)
  task = tasks.build(cfg.task, workdir)
  graph, like = _blank(cfg.model, task, mesh)
  with Checkpoints(workdir, **checkpoint_policy(cfg)) as checkpoints:
    steps = checkpoints.steps(checkpoint)
    params = checkpoints.params(checkpoint, like["params"])
  logging.info("%s: checkpoint %s, steps %s", workdir, checkpoint, steps)
  return Run(cfg, task, graph, params, mesh, steps)


def _load_directory(found, checkpoint, mesh, pair) -> Run:
  if checkpoint != "latest":
    raise UserError(f"--checkpoint {checkpoint}: hf:{found.path} has one set of weights")
  task = tasks.make(found.task(pair))
  graph, like = _blank(found.model, task, mesh)

  def place(path, x):
    whole = np.asarray(found.params[path_name(path[1:])])
    return jax.make_array_from_callback(x.shape, x.sharding, lambda index: whole[index])

  params = jax.tree_util.tree_map_with_path(place, like)["params"]
  return Run(None, task, graph, params, mesh, [])


def _blank(model, task, mesh):
  """The model's graph, and what its weights are to be: shapes and places."""
  graph, shapes = nnx.split(nnx.eval_shape(lambda: models.build(model, task, seed=0)))
  shapes = dict(params=nnx.to_pure_dict(shapes))
  return graph, sharding.placed(shapes, sharding.place(shapes, mesh))


def checkpoint_policy(cfg) -> dict:
  """The part of the `checkpoint` section that Checkpoints takes."""
  return {key: value for key, value in cfg.checkpoint.items() if key != "every"}


def parser(doc: str) -> argparse.ArgumentParser:
  """A parser with the arguments that every use of a run has."""
  made = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  made.add_argument(
    *("--workdir", "--model"),
    required=True,
    dest="workdir",
    type=pathlib.Path,
    help="a run's folder, or hf:DIR, a Hugging Face directory",
  )
  made.add_argument(
    "--checkpoint",
    default="latest",
    help="latest, best, STEP, average:N (the last N) or average:STEP,STEP,...",
  )
  return made


DECODING = ("beam", "length_penalty", "temperature", "top_k", "top_p", "nbest", "seed")
DECODING += ("max_len_extra", "no_answer", "threshold", "max_answer")


def add_decoding(made: argparse.ArgumentParser) -> None:
  """Arguments that change the config's way of decoding."""
  made.add_argument("--beam", type=int, help="1: greedy")
  made.add_argument("--length_penalty", type=float, help="Wu et al. 2016; 0: none")
  made.add_argument("--temperature", type=float, help="above 0: sampling")
  made.add_argument("--top_k", type=int, help="of sampling; of a mask: how many words")
  made.add_argument("--top_p", type=float, help="of sampling")
  made.add_argument("--nbest", type=int, help="outputs to tell of each input")
  made.add_argument("--seed", type=int, help="of sampling")
  made.add_argument("--max_len_extra", type=int, help="tokens of an output, beside max_len_ratio")
  made.add_argument(
    "--no_answer", action="store_true", default=None, help="a question may have no answer"
  )
  made.add_argument("--threshold", type=float, help="by how much no answer must be likelier")
  made.add_argument("--max_answer", type=int, help="tokens of an answer")


def decoding_changes(args) -> dict:
  """What was given of `add_decoding`."""
  return {key: getattr(args, key) for key in DECODING if getattr(args, key) is not None}
