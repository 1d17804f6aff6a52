"""Folders as Hugging Face's `datasets` writes them give the examples of Parquet."""

import json
import pathlib
import pickle
import shutil
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.train.data.helpers import read_shards
from train.common.errors import NoSplit, UserError
from train.data import row_groups, sources
from train.data.source import as_shards, read_many

SAVED = pathlib.Path(__file__).parents[2] / "fixtures" / "saved_by_datasets"
ROWS = [{"text": f"Größe {i} " + "x " * (i % 7), "label": i % 2} for i in range(300)]
FEATURES = {
  "text": {"dtype": "string", "_type": "Value"},
  "label": {"_type": "ClassLabel", "names": ["no", "yes"]},
}
EXAMPLES = [{"text": row["text"], "label": ("no", "yes")[row["label"]]} for row in ROWS]
FIELDS = ("text", "label")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
  monkeypatch.setattr(row_groups, "CHUNK_BYTES", 400)
  monkeypatch.setattr(row_groups, "SHARD_BYTES", 1000)


def table(rows):
  metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
  return pa.Table.from_pylist(rows).replace_schema_metadata(metadata)


def write_arrow(path, rows, batch=50):
  content = table(rows)
  with pa.ipc.new_stream(path, content.schema) as writer:
    writer.write_table(content, max_chunksize=batch)


def save(folder, rows, files=2):
  """Writes rows as `datasets.Dataset.save_to_disk` does."""
  folder.mkdir(parents=True)
  names = [f"data-{n:05}-of-{files:05}.arrow" for n in range(files)]
  for n, name in enumerate(names):
    write_arrow(folder / name, rows[len(rows) * n // files : len(rows) * (n + 1) // files])
  state = {"_data_files": [{"filename": name} for name in names], "_split": None}
  (folder / "state.json").write_text(json.dumps(state))
  (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
  return str(folder)


def open_arrow(folder="", split="train", columns=FIELDS, **options):
  options |= {"folder": str(folder)} if folder else {}
  return sources.open_split({"name": "arrow", "columns": columns, **options}, split)


@pytest.mark.parametrize("part", ["", "[:90%]", "[33%:34%]"])
def test_arrow_is_parquet_by_index_and_by_shards(tmp_path, part):
  folder = save(tmp_path / "saved", ROWS)
  pq.write_table(table(ROWS), tmp_path / "x.parquet")
  spec = {"name": "parquet", "columns": FIELDS}
  parquet = sources.open_split(spec | {"splits": {"train": f"{tmp_path}/x.parquet{part}"}}, "train")
  rows = open_arrow(splits={"train": f"{folder}{part}"})
  shards = open_arrow(splits={"train": f"{folder}{part}"}, stream=True)
  assert as_shards(shards) is not None
  assert read_shards(shards) == list(rows) == list(parquet)
  assert rows[0] in EXAMPLES
  assert read_many(rows, [2, 0]) == [rows[2], rows[0]]
  for source in (rows, shards):
    assert len(pickle.dumps(source)) < 1500
  copy = pickle.loads(pickle.dumps(shards))
  for shard in range(shards.num_shards):
    blocks = list(shards.blocks(shard))
    for first in range(len(blocks) + 1):
      assert list(copy.blocks(shard, first)) == blocks[first:]


def test_a_split_is_a_folder_of_a_dict_a_saved_one_or_files_of_a_cache(tmp_path):
  for split in ("train", "test"):
    save(tmp_path / "dict" / split, ROWS[:100] if split == "train" else ROWS[100:])
  (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
  cache = tmp_path / "cache"
  cache.mkdir()
  write_arrow(cache / "my-train-00000-of-00002.arrow", ROWS[:60])
  write_arrow(cache / "my-train-00001-of-00002.arrow", ROWS[60:100])
  write_arrow(cache / "my-test.arrow", ROWS[100:])
  write_arrow(cache / "cache-0123.arrow", ROWS)
  (cache / "dataset_info.json").write_text('{"splits": {"train": {}, "test": {}}}')
  for folder in (tmp_path / "dict", cache):
    assert list(open_arrow(folder)) == EXAMPLES[:100]
    assert list(open_arrow(folder, "test")) == EXAMPLES[100:]
    with pytest.raises(NoSplit, match="no split 'tst'; it has train, test; did you mean test"):
      open_arrow(folder, "tst")
    with pytest.raises(UserError, match="has the splits train, test"):
      open_arrow(splits={"train": str(folder)})
  assert list(open_arrow(tmp_path / "dict" / "test")) == EXAMPLES[100:]
  assert (
    list(open_arrow(splits={"dev": str(cache / "my-test.arrow")}, split="dev")) == EXAMPLES[100:]
  )
  assert len(open_arrow(splits={"train": f"{cache}/my-train-*.arrow"})) == 100


def test_a_folder_that_save_to_disk_wrote():
  """tests/fixtures/saved_folder.py has written it by `datasets` 5.2."""
  columns = {"source": "translation.en", "target": "translation.de", "label": "label"}
  assert list(open_arrow(SAVED, columns=columns | {"tags": "tags"})) == [
    {"source": f"size {i}", "target": f"Größe {i}", "label": label, "tags": ["O", "B"]}
    for i, label in enumerate(("no", "yes", "no", "yes"))
  ]
  assert [x["label"] for x in open_arrow(SAVED, "test", columns=columns)] == ["-1"]


# Bad input


def test_files_that_are_missing_or_damaged_are_named(tmp_path):
  folder = pathlib.Path(save(tmp_path / "saved", ROWS))
  second = folder / "data-00001-of-00002.arrow"
  whole = second.read_bytes()
  feather = pa.BufferOutputStream()
  with pa.ipc.new_file(feather, table(ROWS).schema) as writer:
    writer.write_table(table(ROWS))
  damaged = [whole[:-4], whole[:-8], whole[:3000], b"", b"junk" * 100, feather.getvalue()]
  for data in damaged:
    second.write_bytes(data)
    for stream in (False, True):
      with pytest.raises(UserError, match=r"data-00001-of-00002\.arrow cannot be read"):
        open_arrow(folder, stream=stream)
  second.unlink()
  with pytest.raises(UserError, match=r"state\.json lists data-00001.*, which is not there"):
    open_arrow(folder)


def test_offsets_that_lead_out_of_the_memory_are_refused(tmp_path):
  folder = pathlib.Path(save(tmp_path / "saved", ROWS[:3], files=1))
  offsets = pa.py_buffer(struct.pack("<4i", 0, 10**9, 2, 3))
  text = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abc")])
  batch = pa.record_batch({"text": text, "label": [0, 1, 0]})
  with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", batch.schema) as writer:
    writer.write_batch(batch)
  for stream in (False, True):
    with pytest.raises(UserError, match=r"data-00000-of-00001\.arrow cannot be read"):
      read_shards(open_arrow(folder, stream=stream))


def test_dictionaries_indices_and_other_states_are_refused(tmp_path):
  folder = pathlib.Path(save(tmp_path / "saved", ROWS, files=1))
  text = pa.array(["a", "b"]).dictionary_encode()
  content = pa.table({"text": text, "label": [0, 1]})
  with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", content.schema) as writer:
    writer.write_table(content)
  with pytest.raises(UserError, match="encoded by dictionaries"):
    open_arrow(folder)
  state = json.loads((folder / "state.json").read_text())
  for change, message in (
    ({"_indices_data_files": [{"filename": "indices.arrow"}]}, "file of indices"),
    ({"_data_files": 3}, "'_data_files' must be a list"),
    ({"_data_files": [{"filename": "../x.arrow"}]}, r"\.\./x\.arrow is no file of this folder"),
    ({"_data_files": []}, "have no row"),
  ):
    (folder / "state.json").write_text(json.dumps(state | change))
    with pytest.raises(UserError, match=message):
      open_arrow(folder)
  (tmp_path / "dataset_dict.json").write_text('{"splits": ["../saved"]}')
  with pytest.raises(UserError, match=r"no split '\.\./saved'"):
    open_arrow(tmp_path, "../saved")


def test_wrong_folders_columns_and_rows_are_reported(tmp_path):
  folder = save(tmp_path / "saved", [*ROWS[:99], {"text": None, "label": 0}, *ROWS[100:]])
  shutil.copytree(folder, tmp_path / "no_state")
  (tmp_path / "no_state" / "state.json").unlink()
  write_arrow(tmp_path / "no_state" / "cache-01.arrow", ROWS)  # a result of map
  assert len(open_arrow(splits={"train": str(tmp_path / "no_state")}, on_bad_record="skip")) == 299
  with pytest.raises(UserError, match=r"00000-of-00002\.arrow, record batch 1, row 49 .*is null"):
    open_arrow(folder)
  with pytest.raises(UserError, match=r"label is column 'lable', .* columns are text, label; did"):
    open_arrow(folder, columns={"label": "lable"})
  with pytest.raises(NoSplit, match="has no split 'test'; it has train"):
    open_arrow(folder, "test")
  (tmp_path / "empty").mkdir()
  for options, message in (
    ({}, "give `folder`"),
    ({"folder": folder, "splits": {"train": folder}}, "give `folder`"),
    ({"folder": str(tmp_path / "empty")}, "has none of dataset_dict.json, state.json"),
    ({"splits": {"train": str(tmp_path / "empty")}}, "has no state.json, and no .arrow file"),
    ({"splits": {"train": str(tmp_path / "emptee")}}, "there is no file .*mean empty"),
  ):
    with pytest.raises(UserError, match=message):
      open_arrow(**options)
