"""python -m train.main --config configs/scan.py --workdir runs/scan [--config.key=value ...]

Trains the run that a config describes; the same command again goes on where it stopped.
"""

import argparse


def main(argv):
  # Imported here: data workers import this module again, and need none of it.
  import jax

  from train import flags, loop, peers, workdir
  from train.errors import UserError

  if not argv or {"-h", "--help"} & set(argv):
    print(__doc__)
    return 0
  cfg, rest = flags.parse(argv)
  parser = argparse.ArgumentParser(prog="train.main")
  parser.add_argument("--workdir")
  peers.add_arguments(parser)
  args, unknown = parser.parse_known_args(rest)
  if unknown:
    raise UserError(f"unknown arguments: {' '.join(unknown)}")
  if not args.workdir:
    raise UserError("--workdir is missing: the folder for this run's checkpoints and metrics")
  command = ["python", "-m", "train.main", *argv]
  with peers.together(args, workdir.config_json(cfg)):
    devices = [str(device) for device in jax.devices()]
    primary = jax.process_index() == 0
    with workdir.open_run(args.workdir, cfg, command, devices, primary) as run:
      peers.wait_for_all("the first has opened the workdir")
      return loop.train(cfg, run)


if __name__ == "__main__":
  from train.cli import run

  run(main)
