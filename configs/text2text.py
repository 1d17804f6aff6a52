"""python -m train.main --config configs/text2text.py:task=classify,data=DIR,init=runs/span \\
    --workdir runs/sst2_t2t

Learns labelled data as text to text with an encoder-decoder (Raffel et al. 2020, section 2.4): the
decoder writes the class, the number, the summary, the tags or the answer, greedily. The folder
holds train.tsv, dev.tsv and test.tsv (`text<TAB>label`, `text<TAB>summary`; or .csv or .jsonl, or
one file as in configs/classify.py); train, dev and test in columns or CoNLL-U; or train.json,
dev.json and test.json (SQuAD). Summaries are scored by ROUGE, which requirements-experiments.txt
installs.
"""

from configs import common, smaller
from configs.common import Argument

# The source, its files' endings, and how examples are written.
SOURCES = {
  "classify": ("files", common.TABLES, dict(source="classify: {text}", target="{label}")),
  "regress": ("files", common.TABLES, dict(source="regress: {text}", target="{label}")),
  "summarize": ("files", common.TABLES, dict(source="summarize: {text}", target="{summary}")),
  "tag": ("conll", common.TAGS, dict(source="tag: {words}", target="{tags}")),
  "qa": (
    "squad",
    common.QUESTIONS,
    dict(source="question: {question} context: {context}", target="{answers}"),
  ),
}
# The columns of a table.
FIELDS = {
  "classify": ("text", "label"),
  "regress": ("text", "label"),
  "summarize": ("text", "summary"),
  "tag": ("words", "tags"),
  "qa": ("id", "question", "context", "answers"),
}
# The kind of label, the metric that chooses a checkpoint, and the most tokens of a source, a target
# and an output.
LABELS = {
  "classify": ("classes", "accuracy", 128, 32, 8),
  "regress": ("numbers", "pearson", 128, 32, 8),
  "summarize": ("summaries", "rougeL", 512, 128, 128),
  "tag": ("tags", "accuracy", 128, 128, 128),
  "qa": ("answers", "f1", 256, 32, 32),
}


def get_config(arg=""):
  arg = common.parse(
    arg,
    task=Argument(tuple(SOURCES), "the kind of labels"),
    data=Argument("data/sst2", "a folder, or one file"),
    suffix=Argument("", "the ending of the files (.json.gz); empty: the one that train has"),
    dev=Argument("dev", "the validation file; 10% holds out the last tenth of train"),
    test=Argument("test", "the test file; 10% holds out the last tenth of train, behind dev"),
    columns=Argument("", "names or numbers of the columns in a table: review+sentiment, 2+1"),
    init="",
    tokenizer="",
    steps=400,
    peak=1e-3,
    small=False,
    **smaller.OF_BOTH,
  )
  source, suffix, patterns = SOURCES[arg.task]
  kind, best_metric, source_len, target_len, output_len = LABELS[arg.task]
  endings = arg.suffix or (*suffix, *common.PARQUET)
  splits = common.splits(arg.data, endings, arg.dev, arg.test)
  options = {}
  if (name := common.table_source(splits["train"])) != "files" or source == "files":
    source, options = name, dict(columns=common.columns(arg.columns, FIELDS[arg.task]))
  elif arg.columns:
    raise ValueError(f"columns={arg.columns} is for tables, not for the files of task={arg.task}")
  task = dict(
    name="text_to_text",
    data=dict(name="formatted", of=dict(name=source, splits=splits) | options, **patterns),
    source_len=source_len,
    target_len=target_len,
    kind=kind,
    decoding=dict(max_len_extra=output_len),
  )
  return common.fine_tune(task, arg, best_metric=best_metric, decoder=True)
