"""python -m train.main --config configs/text2text.py:task=classify,data=DIR,init=runs/span \\
    --workdir runs/sst2_t2t

Any labelled data as text in, text out, by an encoder-decoder (Raffel et al. 2020, section 2.4):
the class, the tags or the answer is written by the decoder, greedily. data is a folder with
train.tsv, dev.tsv, test.tsv (`text<TAB>label`), with train, dev, test in columns or CoNLL-U, or
with train.json, dev.json, test.json (SQuAD). init=RUN goes on from a pre-trained encoder-decoder.
Arguments: task=classify|regress|tag|qa, data=DIR, suffix= (".conllu.gz", ".json.gz"), dev=NAME (or
10%: the last tenth of train.tsv), init=RUN, tokenizer=RUN (its vocabulary, random weights),
steps=, peak=, small.
"""

from configs import common, sections

# The source, its files' ending, how examples are written, the most tokens to say, the metric.
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
    task=tuple(TASKS),
    data="data/sst2",
    suffix="",
    dev="dev",
    init="",
    tokenizer="",
    steps=400,
    peak=1e-3,
    small=False,
  )
  source, suffix, patterns, longest, metric = TASKS[arg.task]
  splits = common.splits(arg.data, arg.suffix or suffix, arg.dev)
  options = dict(columns=("text", "label")) if source == "files" else {}
  task = sections.TRANSLATION | dict(
    data=dict(name="formatted", of=dict(name=source, splits=splits) | options, **patterns),
    source_len=256 if arg.task == "qa" else 128,
    target_len=128 if arg.task == "tag" else 32,
    label_smoothing=0.0,
    metric=metric,
    decoding=dict(beam=1, length_penalty=0.0, max_len_ratio=0.0, max_len_extra=longest),
  )
  return common.fine_tune(task, arg, best_metric=BEST[metric], decoder=True)
