"""python -m train.main --config configs/scan.py --workdir runs/scan [--config.key=value ...]

Trains the run that a config describes; the same command again goes on where it stopped.
"""

import argparse

import jax

from train import cli, flags, loop, workdir
from train.errors import UserError


def main(argv):
  if not argv or {"-h", "--help"} & set(argv):
    print(__doc__)
    return 0
  cfg, rest = flags.parse(argv)
  parser = argparse.ArgumentParser(prog="train.main", description=__doc__)
  parser.add_argument("--workdir", required=True)
  args, unknown = parser.parse_known_args(rest)
  if unknown:
    raise UserError(f"unknown arguments: {' '.join(unknown)}")
  devices = [str(device) for device in jax.devices()]
  primary = jax.process_index() == 0
  command = ["python", "-m", "train.main", *argv]
  with workdir.open_run(args.workdir, cfg, command, devices, primary) as run:
    return 0 if loop.train(cfg, run) else cli.INTERRUPTED


if __name__ == "__main__":
  cli.run(main)
