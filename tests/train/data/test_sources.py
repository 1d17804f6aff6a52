"""A spec opens the source that it names, which pickles small; errors name the wrong key."""

import gzip
import json
import pickle
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.train.data.helpers import ToyPairs, read_shards, write_toy_pairs
from train.common.errors import NoSplit, UserError
from train.data import prepared, records, scan, sources
from train.data import source as source_module
from train.data.source import read_many


@pytest.fixture
def texts(tmp_path):
  """The spec of 1,000 lines with one field."""
  path = tmp_path / "x.txt"
  path.write_text("".join(f"line {i}\n" for i in range(1000)))
  return {"name": "files", "splits": {"train": {"text": str(path)}}}


@pytest.mark.parametrize("kind", ["scan", "files"])
def test_a_source_pickles_small_and_the_copy_reads_the_same(texts, kind):
  source = sources.open_split({"scan": {"name": "scan"}, "files": texts}[kind], "train")
  first = source[0]
  data = pickle.dumps(source)
  assert len(data) < 1000
  copy = pickle.loads(data)
  assert (len(copy), copy[0], copy.fingerprint) == (len(source), first, source.fingerprint)
  assert read_many(copy, [3, 1]) == [source[3], source[1]]
  with pytest.raises(IndexError):
    source[len(source)]


@pytest.mark.parametrize(
  "spec, split, message",
  [
    ({}, "train", "data.name is None; known: blank, formatted, concat, scan, files, gettext, tfds"),
    ({"name": "scna"}, "train", "'scna'.*did you mean scan"),
    ({"name": "scan", "holdot": 3}, "train", "data.holdot: .*did you mean holdout"),
    ({"name": "scan", "split": "jump"}, "train", "add-jump"),
    ({"name": "scan"}, "dev", "train, validation, test"),
    ({"name": "files"}, "train", "data.splits is missing"),
    ({"name": "files", "splits": {"train": 3}}, "train", "data.splits.train is 3"),
    ({"name": "files", "splits": "x"}, "x", "data.splits is 'x'"),
    ({"name": "files", "splits": {}}, "x", "listed are none"),
    ({"name": "files", "splits": {"train": "", "test": ""}}, "tst", "train, test.*mean test"),
    ({"name": "files", "splits": {"train": {}}}, "train", "distinct, not empty"),
    ({"name": "tfds", "source": "de"}, "train", "data.dataset is missing"),
    ({"name": "scan", "limit": {"train": -1}}, "train", "data.limit is .*-1"),
    ({"name": "scan", "limit": {"train": "5"}}, "train", "data.limit is .*'5'"),
    ({"name": "scan", "limit": 5}, "train", "data.limit is 5"),
    (
      {"name": "files", "splits": {"train": "x"}, "limit": {"trian": 5}},
      "train",
      r"data\.limit\.trian.*mean train",
    ),
    ({"name": "tfds", "dataset": "d", "data_dir": "gs://b/d"}, "train", "gs://b/d .* a disk"),
  ],
)
def test_wrong_specs_are_reported(spec, split, message):
  with pytest.raises(UserError, match=message):
    sources.open_split(spec, split)


# SCAN and TFDS


def test_scan_source_is_scan():
  spec = {"name": "scan", "split": "length", "holdout": 5}
  for part in scan.PARTS:
    source = sources.open_split(spec, part)
    assert [(x["source"], x["target"]) for x in source] == scan.split_pairs("length", part, 5)
  prints = {sources.open_split(spec, part).fingerprint for part in scan.PARTS}
  assert len(prints) == len(scan.PARTS)


@pytest.fixture
def toy(tmp_path):
  return write_toy_pairs(tmp_path)


def test_tfds_fields_are_the_texts_written(toy):
  source = sources.open_split(toy, "train")
  assert list(source) == [{"source": f"Größe {i}", "target": f"size {i}"} for i in range(7)]
  assert source._getitems([5, 2]) == [source[5], source[2]]
  assert list(pickle.loads(pickle.dumps(source))) == list(source)
  assert list(sources.open_split(toy, "train[2:4]")) == [source[2], source[3]]
  spec = toy | {"splits": {"train": "train[:5]", "validation": "train[5:]"}}
  assert [list(sources.open_split(spec, split)) for split in spec["splits"]] == [
    list(source)[:5],
    list(source)[5:],
  ]
  with pytest.raises(NoSplit, match="test"):
    sources.open_split(spec, "test")


def test_tfds_numbers_are_their_digits_and_classes_their_names(toy):
  spec = toy | {"count": "count", "score": "score", "label": "kind/label"}
  source = sources.open_split(spec, "train")
  assert [x["count"] for x in source] == [str(10**12 - i) for i in range(7)]
  assert [x["score"] for x in source] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]
  assert [x["label"] for x in source] == ["-1", "no", "yes", "-1", "no", "yes", "-1"]
  assert source._getitems([4, 1]) == [source[4], source[1]]
  assert list(pickle.loads(pickle.dumps(source))) == list(source)


def test_tfds_fingerprint_follows_split_fields_and_content(toy, tmp_path, monkeypatch):
  def fingerprint(spec=toy, split="train"):
    return sources.open_split(spec, split).fingerprint

  def generate_upside_down(self, count):
    examples = [example for _, example in generate(self, count)]
    for i, example in enumerate(examples):
      yield i, {**example, "de": examples[-1 - i]["de"]}

  first = fingerprint()
  assert first == fingerprint()
  generate = ToyPairs._generate_examples
  monkeypatch.setattr(ToyPairs, "_generate_examples", generate_upside_down)
  others = [
    fingerprint(split="test"),
    fingerprint({**toy, "target": "de"}),
    fingerprint(write_toy_pairs(tmp_path / "same_size")),
  ]
  assert len({first, *others}) == 4


@pytest.mark.parametrize("split", ["train", "train[10:93%]"])
def test_the_shards_of_a_tfds_dataset_hold_its_records(tmp_path, monkeypatch, split):
  monkeypatch.setattr(ToyPairs, "sizes", {"train": 300})
  monkeypatch.setattr(records, "SHARD_RECORDS", 40)
  monkeypatch.setattr(records, "CHUNK_BYTES", 4000)
  spec = write_toy_pairs(tmp_path, files=3) | {"label": "kind/label"}
  indexed = sources.open_split(spec, split)
  monkeypatch.setattr(records.Records, "skip_bad", None)  # would pass over all
  options = {key: value for key, value in spec.items() if key != "name"}
  shards = prepared.open_tfds(split, **options, stream=True, on_bad_record="skip")
  assert read_shards(shards) == list(indexed)
  assert shards.num_shards == {"train": 9}.get(split, 7)  # at most three in each file
  data = pickle.dumps(shards)
  assert len(data) < 1000
  copy = pickle.loads(data)
  assert (copy.fingerprint, copy.num_bytes) == (shards.fingerprint, shards.num_bytes)
  blocks = list(shards.blocks(0))
  assert len(blocks) > 1
  for first in range(len(blocks) + 1):
    assert list(copy.blocks(0, first)) == blocks[first:]


def test_a_large_tfds_dataset_is_streamed(toy, monkeypatch):
  assert len(sources.open_split(toy, "train")) == 7
  monkeypatch.setattr(source_module, "LARGE", 600)
  shards = sources.open_split(toy, "train")
  assert 600 < shards.num_bytes < 3000
  assert len(sources.open_split(toy, "test")) == 3
  assert len(sources.open_split(toy | {"stream": False}, "train")) == 7
  prints = [
    sources.open_split(spec, split).fingerprint
    for spec, split in (
      (toy, "train"),
      (toy, "train[:6]"),
      (toy | {"target": "de"}, "train"),
      (toy | {"on_bad_record": "skip"}, "train"),
    )
  ]
  assert prints[0] == shards.fingerprint
  assert len(set(prints)) == 4


def test_neither_tensorflow_nor_torch_nor_jax_is_imported(toy, texts):
  script = """
    import json, sys
    from train.data import sources
    for spec in json.loads(sys.argv[1]):
      source = sources.open_split(spec, "train")
      print(len(source), len(source[len(source) - 1]), file=sys.stderr)
    print(*sorted({m.split(".")[0] for m in sys.modules} & {"tensorflow", "torch", "jax"}))
  """
  specs = [toy, texts, {"name": "scan"}]
  command = [sys.executable, "-c", textwrap.dedent(script), json.dumps(specs)]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert done.stderr.split("\n")[-4:-1] == ["7 2", "1000 1", "16728 2"]
  assert done.stdout == "\n"


@pytest.mark.parametrize(
  "change, split, message",
  [
    ({}, "trian", "no split 'trian'; it has t.*did you mean train"),
    (
      {"target": "more/em"},
      "train",
      "data.target: .*count, de, kind/label, many, more/en, more/fr, score; did you mean more/en",
    ),
    ({"data_dri": "/x"}, "train", "data.data_dri: .*did you mean data_dir"),
    ({"target": "many"}, "train", "data.target: feature 'many' of toy_pairs is not one text"),
    ({"dataset": "toy_pears"}, "train", "tfds build toy_pears --file_format=array_record"),
  ],
)
def test_wrong_tfds_specs_are_reported(toy, change, split, message):
  with pytest.raises(UserError, match=message):
    sources.open_split({**toy, **change}, split)


def test_an_unprepared_dataset_is_reported_with_the_command(tmp_path):
  for dataset in ("toy_pairs", "toy_pairs/config", "wmt14_translate/de-en", "no name"):
    spec = {"name": "tfds", "dataset": dataset, "data_dir": str(tmp_path), "source": "de"}
    with pytest.raises(UserError, match=f"tfds build {dataset} .*--data_dir={tmp_path}"):
      sources.open_split(spec, "train")


def test_a_dataset_in_another_format_is_reported(tmp_path, toy):
  info = tmp_path / "toy_pairs" / "1.0.0" / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match="cannot be read by index"):
    sources.open_split(toy, "train")


def test_no_field_at_all_is_reported(toy):
  with pytest.raises(UserError, match="name the features"):
    sources.open_split({k: v for k, v in toy.items() if k not in ("source", "target")}, "train")


# Formatted


@pytest.fixture
def question(tmp_path):
  answers = [{"text": "a cat", "answer_start": 0}, {"text": "cat", "answer_start": 2}]
  qas = [
    {"id": "1", "question": "Who {sat}?", "answers": answers},
    {"id": "2", "question": "Why?", "answers": []},
  ]
  data = {"data": [{"paragraphs": [{"context": "a cat sat", "qas": qas}]}]}
  (tmp_path / "a.json").write_text(json.dumps(data))
  return {"name": "squad", "splits": {"train": str(tmp_path / "a.json")}}


def test_examples_are_formatted_by_their_fields(question, tmp_path):
  spec = {"source": "{question} in: {context}", "target": "{answers}"}
  source = sources.open_split({"name": "formatted", "of": question, **spec}, "train")
  assert list(source._getitems([1, 0])) == [
    {"source": "Why? in: a cat sat", "target": "", "answers": []},
    # all right answers are kept for the score
    {"source": "Who {sat}? in: a cat sat", "target": "a cat", "answers": source.of[0]["answers"]},
  ]
  assert (source[1], len(source)) == (source._getitems([1])[0], 2)
  assert pickle.loads(pickle.dumps(source))[0] == source[0]
  (tmp_path / "b.conll").write_text("a DET\ncat NOUN\n")
  tags = {"name": "conll", "splits": {"train": str(tmp_path / "b.conll")}}
  spec = {"name": "formatted", "of": tags, "source": "{words}", "target": "{{{tags}}}"}
  assert sources.open_split(spec, "train")[0] == {"source": "a cat", "target": "{DET NOUN}"}


def test_the_fingerprint_of_formatted_examples_follows_data_and_patterns(question, texts):
  specs = [
    {"of": question, "source": "{question}"},
    {"of": question, "source": "{context}"},
    {"of": question, "target": "{question}"},
    {"of": texts, "source": "{text}"},
  ]
  prints = [sources.open_split({"name": "formatted", **s}, "train").fingerprint for s in specs]
  assert len(set(prints)) == 4
  assert sources.open_split({"name": "formatted", **specs[0]}, "train").fingerprint == prints[0]


@pytest.mark.parametrize(
  "patterns, message",
  [
    ({"source": "{questoin}"}, "asks for 'questoin'; the examples have .*did you mean question"),
    ({"source": "{question"}, "a pattern asks for"),
    ({"source": "{}"}, "a pattern asks for"),
    ({"source": "{question.x}"}, "a pattern asks for"),
    ({}, "name the texts"),
  ],
)
def test_wrong_patterns_are_reported(question, patterns, message):
  with pytest.raises(UserError, match=message):
    sources.open_split({"name": "formatted", "of": question, **patterns}, "train")


def test_parts_of_a_file_are_the_file(tmp_path):
  rows = [f"text {i}\t{i}\n" for i in range(57)]
  # blank rows are dropped from all parts alike, or the parts would overlap
  for place in (3, 9, 9, 20):
    rows.insert(place, "\tblank\n")
  (tmp_path / "train.tsv").write_text("".join(rows))
  path, found, seen = f"{tmp_path}/train.tsv", [], set()
  for part in ("[:30%]", "[30%:90%]", "[90%:]"):
    spec = {"name": "files", "splits": {"train": path + part}, "columns": ("text", "label")}
    source = sources.open_split(spec, "train", ("text", "label"))
    assert 0 < len(source) < 57
    found += [source[i]["text"] for i in range(len(source))]
    seen.add(source.fingerprint)
  assert found == [f"text {i}" for i in range(57)]
  assert len(seen) == 3
  with pytest.raises(UserError, match=r"train.tsv\[90%:30%\] is no part of a file"):
    sources.open_split(spec | {"splits": {"train": path + "[90%:30%]"}}, "train")
  with pytest.raises(UserError, match=r"needs examples with 'txt', .* did you mean text"):
    sources.open_split(spec, "train", ("txt",))


def test_examples_are_counted_without_a_pass_over_the_data(tmp_path):
  lines = [f"{'word ' * (i % 9)}{i}" for i in range(9000)]
  for name in ("x.txt", "x.txt.gz"):
    text = "".join(f"{line}\n" for line in lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
  pq.write_table(pa.table({"text": lines}), tmp_path / "x.parquet", row_group_size=1000)

  def count(name, end, **options):
    spec = dict(name=name, splits={"train": str(tmp_path / end)}, **options)
    return source_module.count_examples(sources.open_split(spec, "train", ("text",)))

  assert count("text", "x.txt", unit="line") == (9000, True)
  assert count("parquet", "x.parquet", columns=("text",), stream=True) == (9000, True)
  assert count("parquet", "x.parquet[:50%]", columns=("text",), stream=True) == (4500, True)
  for end, error in (("x.txt", 0.05), ("x.txt.gz", 0.6)):  # digits and one word compress more
    number, known = count("text", end, unit="line", stream=True)
    assert number == pytest.approx(9000, rel=error)
    assert not known
    assert count("text", end, unit="line", stream=True) == (number, known)
  aligned = {side: str(tmp_path / "x.txt") for side in ("source", "target")}
  spec = dict(name="files", splits={"train": aligned}, stream=True)
  number, known = source_module.count_examples(sources.open_split(spec, "train"))
  assert known
  assert 0 <= number - 9000 < 512
  assert source_module.count_examples(source_module.Ranges(lines)) == (9000, True)
