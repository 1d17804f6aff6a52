"""python -m train.main --config configs/text2text.py:task=classify,data=DIR,init=runs/span \\
    --workdir runs/sst2_t2t

Labelled data as text in, text out, by an encoder-decoder (Raffel et al. 2020, section 2.4): the
decoder writes the class, the number, the tags or the answer, greedily. data is a folder with
train.tsv, dev.tsv, test.tsv (`text<TAB>label`), with train, dev, test in columns or CoNLL-U, or
with train.json, dev.json, test.json (SQuAD). init=RUN starts from a pre-trained encoder-decoder.
Arguments: task=classify|regress|tag|qa, data=DIR, suffix= (".conllu.gz", ".json.gz"), dev=NAME (or
10%: the last tenth of train.tsv), init=RUN, tokenizer=RUN (its vocabulary, random weights),
steps=, peak=, small.
"""

from configs import common, sections

# For each task: the source, its files' ending, how examples are written, the kind of label, and the
# metric that chooses a checkpoint.
TASKS = {
  "classify": (
    "files",
    ".tsv",
    dict(source="classify: {text}", target="{label}"),
    "classes",
    "accuracy",
  ),
  "regress": (
    "files",
    ".tsv",
    dict(source="regress: {text}", target="{label}"),
    "numbers",
    "pearson",
  ),
  "tag": ("conll", ".conllu.gz", dict(source="tag: {words}", target="{tags}"), "tags", "accuracy"),
  "qa": (
    "squad",
    ".json",
    dict(source="question: {question} context: {context}", target="{answers}"),
    "answers",
    "f1",
  ),
}
# Tokens of a source, a target and an output, where they are not those of short labels.
LENGTHS = {"tag": (128, 128, 128), "qa": (256, 32, 32)}


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
  source, suffix, patterns, kind, best_metric = TASKS[arg.task]
  source_len, target_len, output_len = LENGTHS.get(arg.task, (128, 32, 8))
  splits = common.splits(arg.data, arg.suffix or suffix, arg.dev)
  options = dict(columns=("text", "label")) if source == "files" else {}
  task = sections.TEXT_TO_TEXT | dict(
    data=dict(name="formatted", of=dict(name=source, splits=splits) | options, **patterns),
    kind=kind,
    source_len=source_len,
    target_len=target_len,
    decoding=sections.TEXT_TO_TEXT["decoding"] | dict(max_len_extra=output_len),
  )
  return common.fine_tune(task, arg, best_metric=best_metric, decoder=True)
