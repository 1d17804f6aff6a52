"""python -m train.main --config configs/scan.py --workdir runs/scan [--config.key=value ...]
python -m train.main --rerun runs/scan --workdir runs/scan_again

Trains the run that a config describes; the same command again goes on where it stopped. --rerun is
the config of another run, from the start. --debug_nans names the first operation that makes a NaN.
"""

import argparse


def main(argv):
  # Imported here: data workers import this module again, and need none of it.
  import jax

  from train import loop
  from train.cluster import processes
  from train.common.errors import UserError
  from train.common.files import disk_trouble
  from train.record import config, provenance, workdir

  if not argv or {"-h", "--help"} & set(argv):
    print(__doc__)
    return 0
  parser = argparse.ArgumentParser(prog="train.main", allow_abbrev=False)
  parser.add_argument("--workdir")
  parser.add_argument("--rerun")
  parser.add_argument("--debug_nans", action="store_true")
  processes.add_arguments(parser)
  args, rest = parser.parse_known_args(argv)
  if args.rerun:
    cfg = workdir.again(args.rerun)
  else:
    cfg, rest = config.parse(rest)
  if rest:
    raise UserError(f"unknown arguments: {' '.join(rest)}")
  if not args.workdir:
    raise UserError("--workdir is missing: the folder for this run's checkpoints and metrics")
  command = ["python", "-m", "train.main", *argv]
  with processes.together(args, workdir.config_json(cfg)):
    devices = [provenance.device_name(device) for device in jax.devices()]
    primary = jax.process_index() == 0
    with workdir.open_run(args.workdir, cfg, command, devices, primary) as run:
      processes.wait_for_all("the first has opened the workdir")
      try:
        return loop.train(cfg, run, args.debug_nans)
      except Exception as error:
        if told := disk_trouble(error):
          raise UserError(
            f"{args.workdir}: {told}. Put that right and start the same command again: it goes on"
            " from the last checkpoint"
          ) from error
        raise


if __name__ == "__main__":
  from train.common.entry import run

  run(main)
