"""python -m train.main --config configs/scan.py --workdir runs/scan [--config.KEY=VALUE ...]
python -m train.main --config configs/scan.py:split=length --print_config
python -m train.main --rerun runs/scan --workdir runs/scan_again

Trains the run that a config describes; the same command again resumes it from its last checkpoint.
`--config configs/scan.py:help` explains a config file and its arguments.
"""


def main(argv):
  # Imported here: data workers import this module again, and need none of it.
  from train import api, resolve, schema, shares
  from train.common import paths
  from train.common.errors import UserError
  from train.record import config, profile, rendering, workdir

  texts, overrides, rest = config.split(argv)
  parser = build_parser()
  if not argv:
    parser.print_help()
    return 0
  args, unknown = parser.parse_known_args(rest)
  if unknown:
    raise UserError(f"unknown arguments: {' '.join(unknown)}; --help explains those there are")
  if not args.rerun:
    cfg = resolve.load(config.only(texts), overrides)
  elif texts:
    raise UserError(
      "--rerun takes the config from that run: leave out --config; --config.KEY=VALUE changes it"
    )
  else:
    cfg = resolve.load_again(args.rerun, overrides)
  schema.check_tokenizer(cfg, args.workdir)
  if args.json and not args.print_config:
    raise UserError("--json is the format of --print_config: give both")
  if args.print_config:
    text = workdir.config_json(cfg).rstrip()
    if not args.json:
      text = rendering.config(config.flat(cfg), config.flat(schema.defaults(cfg)))
    print(text)
    return 0
  if not args.workdir:
    raise UserError("--workdir is missing: the folder for this run's checkpoints and metrics")
  cfg = shares.resume(cfg, paths.of(args.workdir))
  steps = args.profile_steps
  last = cfg.steps or schema.UNKNOWN_STEPS
  profile_steps = range(0) if steps is None else profile.parse_steps(steps, last)
  command = ["python", "-m", "train.main", *argv]
  options = dict(debug_nans=args.debug_nans, profile_steps=profile_steps)
  return api.run(cfg, args.workdir, command, args, **options)


def build_parser():
  """Returns the parser of all flags but --config and --config.KEY, which its help explains too."""
  from train.cluster import processes
  from train.common.entry import make_parser
  from train.record import config

  usage = "%(prog)s --config FILE.py[:ARG=VALUE,...] --workdir DIR [options]"
  parser = make_parser(__doc__, prog="python -m train.main", usage=usage)
  config.add_arguments(parser)
  add = parser.add_argument_group("run").add_argument
  add(
    "--workdir", metavar="DIR", help="the folder of the run: its checkpoints, metrics and records"
  )
  add(
    "--rerun",
    metavar="DIR",
    help="starts a run with the config of the run in DIR, or goes on with it",
  )
  add("--debug_nans", action="store_true", help="names the first operation that makes a NaN")
  add(
    "--profile_steps",
    metavar="FIRST:LAST",
    help="writes an XProf trace of these steps into the folder `profile` of the workdir",
  )
  add = parser.add_argument_group("instead of a run").add_argument
  add(
    "--print_config",
    action="store_true",
    help="prints the whole config as it would run; a * marks a value that is not the default",
  )
  add("--json", action="store_true", help="prints it as JSON, as in the workdir's config.json")
  processes.add_arguments(parser)
  return parser


if __name__ == "__main__":
  from train.common.entry import run

  run(main)
