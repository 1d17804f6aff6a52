"""python -m train.main --config configs/text2text.py:task=classify,data=DIR,init=runs/span \\
    --workdir runs/sst2_t2t

Labelled data as text in, text out, with an encoder-decoder (Raffel et al. 2020, section 2.4): the
decoder writes the class, the number, the tags or the answer, greedily. The folder holds train.tsv,
dev.tsv and test.tsv (`text<TAB>label`); train, dev and test in columns or CoNLL-U; or train.json,
dev.json and test.json (SQuAD).
"""

from configs import common
from configs.common import Argument

# The source, its files' ending, how examples are written, the most tokens to generate, the metric.
TASKS = {
  "classify": ("files", ".tsv", dict(source="classify: {text}", target="{label}"), 8, "classes"),
  "regress": ("files", ".tsv", dict(source="regress: {text}", target="{label}"), 8, "numbers"),
  "tag": ("conll", ".conllu.gz", dict(source="tag: {words}", target="{tags}"), 128, "tags"),
  "qa": (
    "squad",
    ".json",
    dict(source="question: {question} context: {context}", target="{answers}"),
    32,
    "answers",
  ),
}
BEST = {"classes": "accuracy", "numbers": "pearson", "tags": "accuracy", "answers": "f1"}


def get_config(arg=""):
  arg = common.parse(
    arg,
    task=Argument(tuple(TASKS), "the kind of labels"),
    data="data/sst2",
    suffix=Argument("", "the ending of the files (.conllu.gz, .json.gz); empty: the task's own"),
    dev=Argument("dev", "the validation file; 10% holds out the last tenth of train"),
    init="",
    tokenizer="",
    steps=400,
    peak=1e-3,
    small=False,
  )
  source, suffix, patterns, longest, metric = TASKS[arg.task]
  splits = common.splits(arg.data, arg.suffix or suffix, arg.dev)
  options = dict(columns=("text", "label")) if source == "files" else {}
  task = dict(
    name="translation",
    data=dict(name="formatted", of=dict(name=source, splits=splits) | options, **patterns),
    source_len=256 if arg.task == "qa" else 128,
    target_len=128 if arg.task == "tag" else 32,
    label_smoothing=0.0,
    metric=metric,
    decoding=dict(beam=1, length_penalty=0.0, max_len_ratio=0.0, max_len_extra=longest),
  )
  return common.fine_tune(task, arg, best_metric=BEST[metric], decoder=True)
