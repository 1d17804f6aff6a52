"""python -m train.prepare --config configs/mlm.py:data=DIR --out prepared/mine

Tokenises the data of a config's task and writes them in shards, from which training reads without
tokenising: `data=prepared/mine` of any config. The splits are `train` and the config's evaluation
split, which stays text. The same command again goes on with the files that are missing. Other
arguments than those below are Apache Beam's (make install REQUIREMENTS=requirements-prepare.txt);
train/README.md has those of clusters.
"""

SPLIT = "train"


def main(argv):
  # Imported here: Beam's workers import this module again, and need none of it.
  import functools

  from absl import logging

  from train import pretrained, resolve, schema
  from train.common.errors import UserError
  from train.data.source import as_shards
  from train.data.token_corpus import find_folders
  from train.preparing import corpus, pipeline
  from train.record import config

  texts, overrides, rest = config.split(argv)
  args, flags = build_parser().parse_known_args(rest)
  cfg = resolve.load(config.only(texts), overrides)
  schema.check_tokenizer(cfg, args.out)
  if not args.out:
    raise UserError("--out is missing: the folder for the prepared corpus")
  if cfg.task.name == "mixture":
    raise UserError("train.prepare: a mixture has several corpora: prepare those of each part")
  for folder in find_folders(cfg.task.data.to_dict()):
    raise UserError(f"{folder} is a prepared corpus already: give data that are texts")
  options = pipeline.make_options(args.runner, flags)
  section = cfg.task.to_dict()
  settings = dict(data=section["data"], tokenizer=section["tokenizer"])
  corpus.check_settings(args.out, settings | dict(drop_duplicates=args.drop_duplicates))
  task = pretrained.build_task(cfg.task, args.out)
  run_all = functools.partial(pipeline.run, folder=args.out, options=options)
  for split in args.split or (SPLIT, cfg.evaluate.split):
    source, encoded = corpus.find_source(task.items(split))
    indexed = as_shards(source) is None
    encoded = encoded if split == SPLIT else ()
    job = corpus.make_job(args.out, split, source, encoded, task.tokenizer, args.drop_duplicates)
    written = corpus.prepare_split(job, indexed, run_all)
    logging.info("%s", corpus.describe(args.out, split, written))


def build_parser():
  """Returns the parser of all flags but --config and --config.KEY, and Beam's."""
  from train.common.entry import make_parser
  from train.record import config

  usage = "%(prog)s --config FILE.py[:ARG=VALUE,...] --out DIR [options]"
  parser = make_parser(__doc__, prog="python -m train.prepare", usage=usage)
  config.add_arguments(parser)
  add = parser.add_argument
  add("--out", metavar="DIR", help="the folder of the prepared corpus")
  add(
    "--split",
    action="append",
    metavar="NAME",
    help="prepares this split alone; may be repeated (default: train and evaluate.split)",
  )
  add(
    "--drop_duplicates",
    action="store_true",
    help="drops each document of `train` that is equal to one before it",
  )
  add(
    "--runner",
    default="DirectRunner",
    help="DirectRunner (all cores of this machine), DataflowRunner, FlinkRunner, SparkRunner, ...",
  )
  return parser


if __name__ == "__main__":
  from train.common.entry import run

  run(main)
