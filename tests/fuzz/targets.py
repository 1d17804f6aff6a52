"""The fuzzed parsers: folders of valid files, the file in each that is mutated, and a function that
reads the folder. Reading may raise UserError; any other error is a crash."""

import dataclasses
import gzip
import json
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz import hub
from tests.train.data import po
from tests.train.data.helpers import Docs, read_shards
from train import tasks
from train.data import (
  bad_records,
  files,
  label_names,
  questions,
  reading,
  sentences,
  sources,
  tables,
  texts,
)
from train.record import checksums, provenance, workdir, writer
from train.record.loggers import registry

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
TEXTS = ("the quick é <mask> 北", "", "a\tb 12,345")


ERROR = bad_records.BadRecords("error")
FIELDS = ("source", "target")


@dataclasses.dataclass(frozen=True)
class Target:
  """A parser; `seeds` are pairs of a folder's files (path -> content) and the one to mutate."""

  seeds: Callable[[], list[tuple[Mapping[str, bytes], str]]]
  read: Callable[[pathlib.Path, str], object]


# Texts

SQUAD = dict(
  data=[
    dict(
      title="a",
      paragraphs=[
        dict(
          context="One two three.",
          qas=[
            dict(id="1", question="What?", answers=[dict(text="two", answer_start=4)]),
            dict(id="2", question="Who?", is_impossible=True, answers=[]),
          ],
        )
      ],
    )
  ]
)
FLAT = [
  dict(context="One two.", question="What?", answers=dict(text=["two"], answer_start=[4])),
  dict(id=3, context="One two.", question="Who?", title="b"),
]
LINES = {
  "a.tsv": "one two\teins zwei\nthree\tdrei\r\n\u2028four\tvier\n".encode(),
  "a.csv": b'source,target,id\n"a ""b"", c\ne",d,1\n',  # all have three lines
  "b.csv": b'a,b\r\n\n"c",d\r\n',
  "a.jsonl": b'{"source": "a", "target": "b", "text": "c"}\n{"source": 1.5, "target": true}\n'
  b'{"source": "d", "target": "e", "text": ""}',
  "a.txt": "One two\nthree.\n\n  \nFour é,\nsix.\n".encode(),
  "a.conll": b"-DOCSTART- O\n\nEU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\n",
  "a.conllu": b"# text\n1\tThe\tthe\tDET\n2-3\tx\t_\t_\n2\tcat\tcat\tNOUN\n",
  "a.bio": "#\tx://x\t[9]\n1\tone\tO\tO\n1-2\tx\tO\tO\n# a = b\n\n#\t1\u00a0\tO\tO\n".encode(),
  "a.labels": b"bad\nvery good\r\n\n",
  "a.json": json.dumps(SQUAD).encode(),
  "b.json": json.dumps(FLAT).encode(),
  "questions.jsonl": "\n".join(map(json.dumps, FLAT)).encode(),
}


def _lines():
  packed = {f"{name}.gz": gzip.compress(content, 1) for name, content in LINES.items()}
  pack = pa.Codec("zstd").compress
  packed |= {f"{name}.zst": pack(content, asbytes=True) for name, content in LINES.items()}
  return [(LINES | packed, name) for name in (*LINES, *packed)]


def _read_questions(path):
  for question in questions.read_questions(path, 0, 100, ERROR):
    for answer in question["answers"]:
      assert question["context"].startswith(answer["text"], answer["answer_start"])
  for question in questions.read_questions(path, 10, 90, ERROR, learnable=False):
    assert type(question["id"]) is type(question["question"]) is str
    assert all(type(x["answer_start"]) is int for x in question.get("answers", ()))


def _read_lines(folder, name):
  path = folder / name
  if name.startswith("questions"):
    _read_questions(path)
    return
  match reading.file_type(path):
    case ".tsv" | ".csv" | ".jsonl":
      table = tables.find_table(path, FIELDS, False if name.startswith("b") else None)
      rows = list(tables.read_rows(table, FIELDS, ERROR))
      assert all(len(row) == 2 and all(type(x) is str for x in row) for row in rows)
      aligned = tables.Table("aligned", (path, folder / "a.tsv"))
      list(tables.read_rows(aligned, FIELDS, ERROR))
    case ".labels":
      assert all(label_names.name_labels(Docs(["a"]), str(path)).names)
    case ".txt":
      for unit in texts.UNITS:
        for document in texts.read_documents(path, unit, 10, 90, ERROR):
          assert type(document["text"]) is str
    case ".json":
      _read_questions(path)
    case _:
      for word, tag in ((0, -1), (1, 2)):
        for sentence in sentences.read_sentences(path, word, tag, ERROR):
          assert len(sentence["words"]) == len(sentence["tags"])
          assert all(sentence["words"])


def _catalogs():
  contents = {}
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    entries = (po.MESSAGES, po.plural("%d file was read", "%d files were read", ["eine D", "D"]))
    for ending in ("po", "mo"):
      contents[f"de.{ending}"] = po.write(folder / f"de.{ending}", *entries).read_bytes()
    with zipfile.ZipFile(folder / "a.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
      for name, content in contents.items():
        wheel.writestr(f"pkg/de/LC_MESSAGES/{name}", content)
    contents["a.whl"] = (folder / "a.whl").read_bytes()
  return [({name: content}, name) for name, content in contents.items()]


def _read_catalog(folder, name):
  for source, target in po.read({"train": str(folder / name)}, min_words=1):
    assert source.strip()
    assert target.strip()
  assert {path.name for path in folder.parent.iterdir()} == {folder.name}  # nothing was unpacked


# TFDS folders, with records written here


def _records():
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "a.tsv")
    path.write_bytes(LINES["a.tsv"])
    prepared, _ = files.prepare("train", {"train": str(path)})
    contents = {f"own/1.0.0/{file.name}": file.read_bytes() for file in prepared.iterdir()}
  return [(contents, name) for name in contents]


def _read_records(folder, _):
  spec = dict(name="tfds", dataset="text_files", data_dir=str(folder), source="source")
  (folder / "own").rename(folder / "text_files")
  source = sources.open_split(spec, "data")
  assert all(type(source[i]["source"]) is str for i in range(len(source)))


# Tables that are stored by columns

ROWS = [
  dict(text=f"Größe {i}", pair=dict(de="a" * i, en="b"), label=i % 2, words=["a", "é"] * (i % 3))
  for i in range(40)
]
CLASSES = dict(label=dict(_type="ClassLabel", names=["no", "yes"]))
COLUMNS = dict(text="text", text_pair="pair.de", label="label", words="words")


def _stored():
  metadata = dict(huggingface=json.dumps(dict(info=dict(features=CLASSES))))
  table = pa.Table.from_pylist(ROWS).replace_schema_metadata(metadata)
  contents = {"data.arrow": pa.BufferOutputStream()}
  with pa.ipc.new_stream(contents["data.arrow"], table.schema) as writer:
    writer.write_table(table, max_chunksize=15)
  for name, options in (("a", {}), ("b", dict(compression="zstd", use_dictionary=False))):
    contents[f"{name}.parquet"] = pa.BufferOutputStream()
    pq.write_table(table, contents[f"{name}.parquet"], row_group_size=15, **options)
  contents = {name: bytes(content.getvalue()) for name, content in contents.items()}
  contents["state.json"] = b'{"_data_files": [{"filename": "data.arrow"}], "_split": null}'
  return [(contents, name) for name in contents]


def _read_stored(folder, name):
  spec = dict(name="arrow", folder=str(folder), columns=COLUMNS)
  if name.endswith(".parquet"):
    spec = dict(name="parquet", splits=dict(train=str(folder / name)), columns=COLUMNS)
  for stream in (False, True):
    source = sources.open_split(spec | dict(stream=stream), "train")
    for example in read_shards(source) if stream else source:
      words = example.pop("words")
      assert all(type(value) is str for value in (*example.values(), *words))


# A run's folder


def _run():
  start = dict(time="x", command=["a"], git=dict(commit="abc", dirty=True), versions={"jax": "1"})
  metrics = [dict(step=i, split="train", time=1.5, loss=2.5, other="nan") for i in range(3)]
  written = dict(format=1, files={"a": [1, "0"], "commit_success.txt": [0, "0"]})
  config = dict(seed=1, model=dict(dim=8, layers=[1, 2]), task=dict(name="mlm"), lr=0.1)
  contents = {
    "config.json": json.dumps(config).encode(),
    "run.json": json.dumps(dict(starts=[start])).encode(),
    "metrics.jsonl": "".join(json.dumps(x) + "\n" for x in metrics).encode(),
    "skipped.jsonl": b'{"step": 1, "examples": [[1]]}\n{"step": 2, "examples": [[1]]}\n',
    "checksums/3.json": json.dumps(written).encode(),
    "loggers.json": b'{"wandb": {"run": "a1", "steps": {"train": 2, "validation": 1}}}',
    "labels.json": b'["a", "b"]',
    "checkpoints/3/a": b"a",
    "checkpoints/3/commit_success.txt": b"",
    "checkpoints/\u00b2/commit_success.txt": b"",
  }
  return hub.each(contents, *[name for name in contents if not name.startswith("checkpoints")])


def _read_run(folder, name):
  match name:
    case "config.json":
      config = workdir.load_config(folder)
      workdir.flat(config)
    case "run.json":
      for start in workdir.starts(folder):
        provenance.differences(start)
    case "metrics.jsonl":
      for line in writer.read_metrics(folder):
        assert type(line["step"]) is int
        assert type(line.get("loss", 0.0)) is float
      writer.drop_after(folder / name, 1)
    case "skipped.jsonl":
      writer.drop_after(folder / name, 1)
    case "loggers.json":
      for state in registry.read(folder / name).values():
        assert type(state["run"]) is str
        assert all(type(step) is int for step in state["steps"].values())
    case "labels.json":
      assert all(type(x) is str for x in tasks._labels(None, None, folder / name, write=False))
    case _:
      assert checksums.steps(folder / "checkpoints") == [3]
      assert all(type(x) is str for x in checksums.problems(folder / "checkpoints" / "3") or ())


TARGETS = {
  "hf settings": Target(hub.settings, hub.read_settings),
  "hf weights": Target(hub.weights, hub.read_weights),
  "hf whole": Target(hub.params, hub.read_params),
  "hf vocabulary": Target(hub.vocabularies, hub.read_vocabulary),
  "sentencepiece": Target(hub.pieces, hub.read_pieces),
  "own tokenizer": Target(hub.own_tokenizers, hub.read_own_tokenizer),
  "texts": Target(_lines, _read_lines),
  "catalogs": Target(_catalogs, _read_catalog),
  "tfds folder": Target(_records, _read_records),
  "stored tables": Target(_stored, _read_stored),
  "run folder": Target(_run, _read_run),
}
