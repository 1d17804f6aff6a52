"""Parquet gives the examples of JSON lines, by index and shard by shard; errors name file and
row."""

import itertools
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.train.data.helpers import assert_same_batches, batches_of, read_shards, take
from train.common.errors import UserError
from train.data import row_groups, sources
from train.data.source import as_shards, first_example, read_many, sample

PAIRS = [
  {"source": f"{i} " + "x " * (i % 7) + "Größe", "target": f"{i}" + " y" * (i % 5)}
  for i in range(300)
]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
  """Makes several blocks of a shard, and several shards of a group."""
  monkeypatch.setattr(row_groups, "CHUNK_BYTES", 400)
  monkeypatch.setattr(row_groups, "SHARD_BYTES", 1000)


def write(path, rows, group=64, **options):
  pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group, **options)
  return str(path)


def open_parquet(value, columns=("source", "target"), split="train", **options):
  spec = {"name": "parquet", "splits": {split: value}, "columns": columns, **options}
  return sources.open_split(spec, split)


def is_streamed(source):
  return as_shards(source) is not None


def test_small_parquet_is_json_lines_in_the_same_order(tmp_path):
  blank = {"source": " ", "target": "blank"}
  rows = [*PAIRS[:5], blank, blank, *PAIRS[5:9], blank, *PAIRS[9:], blank]
  (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
  files = {"name": "files", "splits": {"train": str(tmp_path / "x.jsonl")}}
  lines = sources.open_split(files, "train")
  source = open_parquet(write(tmp_path / "x.parquet", rows))
  assert list(source) == list(lines) == PAIRS
  assert_same_batches(take(batches_of(source), 20), take(batches_of(lines), 20))
  assert len(open_parquet(str(tmp_path / "x.parquet"), split="test")) == 304  # blanks are kept


def test_streams_of_parquet_and_of_json_lines_have_the_same_examples(tmp_path):
  rows = [{"text": pair["source"]} for pair in PAIRS]
  (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
  spec = {"name": "text", "splits": {"train": str(tmp_path / "x.jsonl")}, "stream": True}
  lines = read_shards(sources.open_split(spec, "train"))
  assert lines == read_shards(
    open_parquet(write(tmp_path / "x.parquet", rows), ("text",), stream=True)
  )
  assert lines == rows


@pytest.mark.parametrize("part", ["", "[:90%]", "[33%:34%]"])
def test_shards_and_rows_are_the_same_examples(tmp_path, part):
  for name, rows in (("a", PAIRS[:200]), ("b", PAIRS[200:])):
    write(tmp_path / f"{name}.parquet", rows)
  rows = open_parquet(f"{tmp_path}/*.parquet{part}", stream=False)
  shards = open_parquet(f"{tmp_path}/*.parquet{part}", stream=True)
  assert is_streamed(shards)
  assert not is_streamed(rows)
  assert (
    read_shards(shards)
    == list(rows)
    == PAIRS[slice(*{"": (0, 300), "[:90%]": (0, 270)}.get(part, (99, 102)))]
  )
  assert shards.num_shards > (6 if len(rows) > 3 else 0)
  assert open_parquet(f"{tmp_path}{part}", stream=True).fingerprint == shards.fingerprint


def test_a_reference_is_read_by_pyarrow(tmp_path):
  path = write(tmp_path / "x.parquet", PAIRS, version="1.0", compression="zstd")
  assert list(open_parquet(path)) == pq.read_table(path).to_pylist()


def test_blocks_are_always_the_same_ones_from_any_number_on(tmp_path):
  shards = open_parquet(write(tmp_path / "x.parquet", PAIRS), stream=True)
  copy = pickle.loads(pickle.dumps(shards))
  for shard in range(shards.num_shards):
    blocks = list(shards.blocks(shard))
    assert len(blocks) > 1
    for first in range(len(blocks) + 1):
      assert list(copy.blocks(shard, first)) == blocks[first:]


def test_rows_pickle_small_and_are_read_in_any_order(tmp_path, monkeypatch):
  monkeypatch.setattr(row_groups, "LARGE", 4000)  # bytes of groups that are kept
  source = open_parquet(write(tmp_path / "x.parquet", PAIRS))
  source[0]
  data = pickle.dumps(source)
  assert len(data) < 1000
  copy = pickle.loads(data)
  assert (len(copy), copy.fingerprint) == (len(source), source.fingerprint)
  indices = np.random.default_rng(0).integers(0, 300, 50).tolist()
  assert read_many(copy, indices) == [source[i] for i in indices] == [PAIRS[i] for i in indices]
  for index in (300, -1):
    with pytest.raises(IndexError):
      source[index]


def test_a_group_is_read_once_for_many_rows_and_few_are_kept(tmp_path, monkeypatch):
  source = open_parquet(write(tmp_path / "x.parquet", PAIRS))
  groups, read = [], row_groups.RowGroups.read
  monkeypatch.setattr(
    row_groups.RowGroups,
    "read",
    lambda self, group, most=None: groups.append(group.number) or read(self, group, most),
  )
  indices = [290, 3, 299, 70, 0, 1]
  assert read_many(source, indices) == [PAIRS[i] for i in indices]
  assert groups == [0, 1, 4]
  assert source[2] == PAIRS[2]
  assert groups == [0, 1, 4]
  monkeypatch.setattr(row_groups, "LARGE", 1)  # bytes of groups that are kept
  assert [source[i] for i in (2, 70, 2)] == [PAIRS[i] for i in (2, 70, 2)]
  assert groups == [0, 1, 4, 1, 0]


def test_the_size_decides_whether_rows_are_streamed(tmp_path, monkeypatch):
  path = write(tmp_path / "x.parquet", PAIRS)
  assert not is_streamed(open_parquet(path))
  monkeypatch.setattr("train.data.source.LARGE", 1000)
  assert is_streamed(open_parquet(path))
  assert not is_streamed(open_parquet(f"{path}[:10%]"))
  assert not is_streamed(open_parquet(path, {"target": "target"}, limit={"train": 3}))


def test_the_fingerprint_follows_content_columns_and_part(tmp_path):
  path, other = write(tmp_path / "x.parquet", PAIRS), write(tmp_path / "y.parquet", PAIRS[::-1])
  for stream in (False, True):
    prints = [
      open_parquet(value, columns, stream=stream, **more).fingerprint
      for value, columns, more in (
        (path, ("source", "target"), {}),
        (other, ("source", "target"), {}),
        (path, {"source": "target", "target": "source"}, {}),
        (f"{path}[:50%]", ("source", "target"), {}),
        (path, ("source", "target"), {"on_bad_record": "skip"}),
      )
    ]
    assert len(set(prints)) == 5


# Values


def write_typed(path, columns, features=None):
  metadata = {"huggingface": json.dumps({"info": {"features": features or {}}})}
  table = pa.table({name: pa.array(*value) for name, value in columns.items()})
  pq.write_table(table.replace_schema_metadata(metadata), path)
  return str(path)


def test_values_become_text(tmp_path):
  path = write_typed(
    tmp_path / "x.parquet",
    {
      "large": (["a", "b"], pa.large_string()),
      "category": (["x", "x"], pa.dictionary(pa.int8(), pa.string())),
      "integer": ([-3, 10**15], pa.int64()),
      "single": ([0.2, 1e10], pa.float32()),
      "double": ([0.1, 2.0], pa.float64()),
      "flag": ([True, False], pa.bool_()),
      "a.b": (["dot", "ted"], pa.string()),
    },
  )
  fields = ("large", "category", "integer", "single", "double", "flag", "a.b")
  assert list(open_parquet(path, dict(zip("abcdefg", fields)))) == [
    dict(zip("abcdefg", row))
    for row in (
      ("a", "x", "-3", "0.2", "0.1", "true", "dot"),
      ("b", "x", "1000000000000000", "1e+10", "2.0", "false", "ted"),
    )
  ]


def test_classes_are_their_names(tmp_path):
  classes = {"_type": "ClassLabel", "names": ["neg", "pos"]}
  tags = {"_type": "ClassLabel", "names": ["O", "B-PER"]}
  path = write_typed(
    tmp_path / "x.parquet",
    {
      "kind": ([1, 0, -1], pa.int64()),
      "words": ([["a", "b"], ["c"], ["d"]], pa.list_(pa.string())),
      "old": ([[1, 0], [0], [1]], pa.list_(pa.int64())),
      "new": ([[0, 1], [1], [0]], pa.large_list(pa.int64())),
      "nested": ([{"kind": 0}] * 3, pa.struct({"kind": pa.int8()})),
    },
    {
      "kind": classes,
      "old": [tags],
      "new": {"_type": "List", "feature": tags},
      "nested": {"kind": classes},
    },
  )
  columns = {"label": "kind", "words": "words", "tags": "old", "labels": "new"}
  rows = list(open_parquet(path, columns, split="test"))
  assert [row["label"] for row in rows] == ["pos", "neg", "-1"]
  assert [row["tags"] for row in rows] == [["B-PER", "O"], ["O"], ["B-PER"]]
  assert rows[0]["words"] == ["a", "b"]
  assert rows[0]["labels"] == '["O", "B-PER"]'  # as .jsonl gives lists
  assert first_example(open_parquet(path, {"label": "nested.kind"}))["label"] == "neg"


def test_translations_and_questions_of_hugging_face(tmp_path):
  pairs = [{"translation": {"de": "eins", "en": "one"}}, {"translation": {"de": "b", "en": "c"}}]
  path = write(tmp_path / "x.parquet", pairs)
  columns = {"source": "translation.en", "target": "translation.de"}
  assert list(open_parquet(path, columns)) == [
    {"source": "one", "target": "eins"},
    {"source": "c", "target": "b"},
  ]
  questions = [
    {
      "id": "7",
      "context": "a cat sat",
      "question": "Who?",
      "answers": {"text": ["cat"], "answer_start": [2]},
    },
    {"id": "8", "context": "a", "question": "?", "answers": {"text": [], "answer_start": []}},
  ]
  path, fields = write(tmp_path / "y.parquet", questions), ("id", "context", "question", "answers")
  (tmp_path / "y.jsonl").write_text("\n".join(map(json.dumps, questions)))
  squad = {"name": "squad", "splits": {"train": str(tmp_path / "y.jsonl")}}
  assert list(open_parquet(path, fields)) == list(sources.open_split(squad, "train"))


def test_labels_have_names_of_a_file_or_columns(tmp_path):
  (tmp_path / "names.txt").write_text("no\nyes\n")
  path = write(tmp_path / "x.parquet", [{"text": "a", "label": 1, "spam": 0, "ham": 1}] * 3)
  named = open_parquet(path, ("text", "label"), label_names=str(tmp_path / "names.txt"))
  assert named[2] == {"text": "a", "label": "yes"}
  columns = {"text": "text", "label_0": "spam", "label_1": "ham"}
  for stream in (False, True):
    source = open_parquet(path, columns, label_columns=("spam", "ham"), stream=stream)
    assert first_example(source) == {"text": "a", "labels": '["ham"]'}


# Sources of shards


def test_wrappers_take_shards(tmp_path):
  path = write(tmp_path / "x.parquet", PAIRS)
  inner = {"name": "parquet", "splits": {"train": path}, "columns": ("source", "target")}
  spec = {"name": "formatted", "of": inner, "text": "{target}: {source}"}
  rows = sources.open_split(spec, "train", ("text",))
  shards = sources.open_split({**spec, "stream": True}, "train", ("text",))
  assert is_streamed(shards)
  assert read_shards(shards) == list(rows)
  assert shards.num_bytes == shards.of.num_bytes > 0
  assert read_shards(pickle.loads(pickle.dumps(shards))) == list(rows)
  scan = {"name": "scan"}
  joined = sources.open_split({"name": "concat", "of": {"a": inner, "b": scan}}, "train")
  both = {"a": {**inner, "stream": True}, "b": scan}
  mixed = sources.open_split({"name": "concat", "of": both}, "train")
  assert not is_streamed(joined)
  assert is_streamed(mixed)
  assert read_shards(mixed) == list(joined)
  assert mixed.num_shards == shards.num_shards + -(-len(sources.open_split(scan, "train")) // 256)
  assert mixed.num_bytes > shards.num_bytes
  last = mixed.num_shards - 1
  assert not list(mixed.blocks(last, 1))
  for changed, message in (({"text": "{sourc}"}, "mean source"), ({}, "needs examples")):
    with pytest.raises(UserError, match=message):
      sources.open_split({**spec, "stream": True} | changed, "train", ("other",))


def test_a_sample_is_all_examples_in_an_order_of_the_seed(tmp_path):
  path = write(tmp_path / "x.parquet", PAIRS)
  shards = open_parquet(path, stream=True)
  samples = [list(sample(shards, seed)) for seed in (0, 0, 1)]
  assert samples[0] == samples[1] != samples[2]
  for examples in samples:
    assert sorted(map(str, examples)) == sorted(map(str, PAIRS))
  limited = open_parquet(path, stream=True, limit={"train": 7})
  assert (list(limited), len(limited)) == (samples[0][:7], 7)
  assert list(pickle.loads(pickle.dumps(limited))) == samples[0][:7]


# Bad input


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
  "value, message",
  [(None, "column 'target' is null"), ("ß" * 501, "has 1,002 bytes, more than 1,000")],
)
def test_a_bad_row_is_an_error_or_is_skipped(
  tmp_path, warnings, monkeypatch, stream, value, message
):
  monkeypatch.setattr("train.data.columns.MAX_RECORD_BYTES", 1000)
  rows = [pair | ({"target": value} if i == 150 else {}) for i, pair in enumerate(PAIRS)]
  path = write(tmp_path / "x.parquet", rows)
  where = rf"x\.parquet, row group 2, row 22 \(from 0\): .*{message}"
  source = open_parquet(path, stream=stream) if stream else None
  with pytest.raises(UserError, match=where + ".*on_bad_record='skip'"):
    read_shards(source) if stream else open_parquet(path, stream=stream)
  source = open_parquet(path, stream=stream, on_bad_record="skip")
  kept = PAIRS[:150] + PAIRS[151:]
  if not stream:
    assert list(source) == kept == read_many(source, range(299))
    assert warnings[-1] == f"1 of 300 records of {path} were skipped"
    return
  assert read_shards(source) == kept
  wrapped = sources.Formatted(source, {"text": "{source}"}, "")
  blocks = itertools.chain.from_iterable(map(wrapped.blocks, range(source.num_shards)))
  (message,) = [message for block in blocks for message in block.bad]
  assert message.startswith(f"{path}, row group 2, row 22")
  assert sorted(map(str, sample(source, 0))) == sorted(map(str, kept))
  assert warnings == [f"skipped: {message}"]


def test_too_many_bad_rows_stop_the_run(tmp_path):
  path = write(tmp_path / "x.parquet", [{"text": None if i % 9 else "a"} for i in range(99)])
  with pytest.raises(UserError, match=r"88 of 99 records cannot be read.*row 1 "):
    open_parquet(path, ("text",), on_bad_record="skip")


@pytest.mark.parametrize("stream", [False, True])
def test_other_values_are_refused(tmp_path, stream):
  def read(columns, kinds, features=None):
    path = write_typed(tmp_path / "x.parquet", columns, features)
    source = open_parquet(path, kinds, stream=stream)
    return read_shards(source) if stream else list(source)

  classes = {"x": {"_type": "ClassLabel", "names": ["no"]}}
  answers = pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int32())})
  answer = [{"text": ["b"], "answer_start": [0]}]
  invalid = pa.array([b"a\xff"]).view(pa.string())
  for columns, fields, message in (
    ({"x": ([float("nan")],)}, ("x",), "'x' is nan, which is no number"),
    ({"x": ([1],)}, ("x",), "'x' is class 1 of 1"),
    ({"x": ([["a", None]],)}, {"labels": "x"}, "'x' is null"),
    ({"x": (invalid,)}, ("x",), "'x' is not UTF-8"),
    (
      {"context": (["a"],), "answers": (answer, answers)},
      ("context", "answers"),
      "the context has no 'b' at 0",
    ),
  ):
    with pytest.raises(UserError, match=rf"x\.parquet, row group 0, row 0 .*{message}"):
      read(columns, fields, classes)


@pytest.mark.parametrize(
  "columns, message",
  [
    (("txt",), r"txt is column 'txt', which is not there; .* text, pair.de, pair.*mean text\?"),
    ({"text": "pair.dee"}, r"'pair.dee', which is not there; .*mean pair.de\?"),
    ({"text": "pair"}, "type struct<.*; name one of its fields, such as text=COLUMN.de"),
    ({"text": "list"}, "type list<.*; a list can be one of words, tags, labels, choices"),
    ({"words": "text"}, "a list of texts is needed"),
    ({"text": "bytes"}, "type binary; it is no text, number or boolean"),
    ({"text": "day"}, "type date32.*; it is no text"),
    ({"answers": "text"}, "answers have the fields text and answer_start"),
    ((), r"data.columns is \(\): name"),
    (None, "data.columns is None: name"),
    ("text", "data.columns is 'text': name"),
    ({"text": 1}, r"data.columns is \{'text': 1\}: name"),
  ],
)
def test_wrong_columns_are_reported_when_the_data_are_opened(tmp_path, columns, message):
  kinds = {
    "text": (["a"],),
    "pair": ([{"de": "a", "en": "b"}],),
    "list": ([["a"]],),
    "bytes": ([b"a"],),
    "day": ([1], pa.date32()),
  }
  path = write_typed(tmp_path / "x.parquet", kinds)
  for stream in (False, True):
    with pytest.raises(UserError, match=message):
      open_parquet(path, columns, stream=stream)


def test_files_that_cannot_be_read_are_named(tmp_path):
  path = write(tmp_path / "x.parquet", PAIRS)
  whole = (tmp_path / "x.parquet").read_bytes()
  for data in (whole[:3000], b"", b"PAR1", whole[-100:]):
    (tmp_path / "y.parquet").write_bytes(data)
    for stream in (False, True):
      with pytest.raises(UserError, match=r"y\.parquet cannot be read"):
        open_parquet(f"{tmp_path}/*.parquet", stream=stream)
  damaged = bytearray(whole)
  damaged[100:1500] = b"\xff" * 1400  # the footer is whole
  (tmp_path / "y.parquet").write_bytes(damaged)
  with pytest.raises(UserError, match=r"y\.parquet"):
    read_shards(open_parquet(str(tmp_path / "y.parquet"), stream=True))
  write(tmp_path / "z.parquet", [{"other": "a"}])  # a later file has other columns
  with pytest.raises(UserError, match=r"z\.parquet: data.columns: source .* columns are other"):
    open_parquet([path, str(tmp_path / "z.parquet")], stream=True)


def test_no_file_and_no_row_are_reported(tmp_path):
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=r"has no \.parquet file"):
    open_parquet(str(tmp_path / "empty"))
  with pytest.raises(UserError, match="no file matches"):
    open_parquet(f"{tmp_path}/*.parquet")
  path = write(tmp_path / "x.parquet", PAIRS[:3])
  with pytest.raises(UserError, match=r"the part \[0%:10%\] has no row"):
    open_parquet(f"{path}[:10%]")
  pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "y.parquet")
  with pytest.raises(UserError, match="the files have no row"):
    open_parquet(str(tmp_path / "y.parquet"), ("text",))
  path = write(tmp_path / "z.parquet", [{"text": " "}] * 2)
  with pytest.raises(UserError, match="all 2 examples have a blank field"):
    open_parquet(path, ("text",))
