"""Data from strangers cannot exhaust the memory, lead out of its folder, or run code."""

import gzip
import json
import pathlib
import sys
import zipfile

import pytest

from tests.train.data import po
from train.common import json_files
from train.common.errors import UserError
from train.data import bad_records, files, gettext_catalogs, reading, records, sources, texts

ERROR = bad_records.BadRecords("error")


@pytest.mark.parametrize("text", ["x" * 3_000_000, "x\n" * 1_500_000])
def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch, text):
  monkeypatch.setattr(reading, "MOST_PACKED", 100_000)
  (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
  with pytest.raises(
    UserError, match=r"a.txt.gz(: unpacks to more than 200 times|, line 1: has more)"
  ):
    list(reading.read_lines(tmp_path / "a.txt.gz", ERROR))


def test_a_well_compressed_file_is_read(tmp_path, monkeypatch):
  monkeypatch.setattr(reading, "MOST_PACKED", 1)
  lines = [f"{i % 7} of {i % 11}" for i in range(3000)]
  (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
  assert list(reading.read_lines(tmp_path / "b.txt.gz", ERROR)) == lines


@pytest.mark.parametrize("line", ['{"text": ' + "9" * 5000 + "}", "[" * 100_000])
def test_json_that_python_cannot_parse_is_reported(tmp_path, line):
  (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + line)
  with pytest.raises(UserError, match=r"a\.jsonl, line 2"):
    texts.read_documents(tmp_path / "a.jsonl", "file", 0, 100, ERROR)


# Catalogs


def test_a_large_member_is_not_unpacked(tmp_path, monkeypatch):
  with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
    wheel.writestr("de/a.po", b" " * 20_000)
  monkeypatch.setattr(json_files, "MOST_BYTES", 10_000)
  with pytest.raises(UserError, match=r"a\.whl/de/a\.po has more than 10,000 bytes"):
    po.read(tmp_path / "a.whl")


def test_members_are_read_and_never_written(tmp_path):
  """A member's name cannot lead out of a folder."""
  content = po.write(tmp_path / "de.po", po.MESSAGES).read_bytes()
  with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
    wheel.writestr("../../de/a.po", content)
  before = sorted(tmp_path.rglob("*"))
  assert len(po.read(tmp_path / "a.whl")) == len(po.MESSAGES)
  assert sorted(tmp_path.rglob("*")) == before
  for module in (gettext_catalogs, files, reading, texts):
    source = pathlib.Path(module.__file__).read_text(encoding="utf-8")
    assert ".extract" not in source
    assert "unpack_archive" not in source


@pytest.mark.parametrize("ending", ["po", "mo"])
def test_a_catalog_that_names_a_file_is_not_that_file(tmp_path, ending):
  """polib would open that file."""
  other = po.write(tmp_path / "other" / f"secret.{ending}", po.MESSAGES)
  (tmp_path / f"de.{ending}").write_text(str(other))
  with pytest.raises(UserError, match=rf"de\.{ending}.*not a gettext catalog"):
    po.read(tmp_path / f"de.{ending}")


@pytest.mark.parametrize("rule", ["1/0", "5/(n-5)", "(" * 900])
def test_a_rule_of_plurals_that_fails_is_reported(tmp_path, rule):
  path = po.write(
    tmp_path / "de.po", po.plural("%d file read", "%d files read", "ab"), rule=f"plural={rule};"
  )
  with pytest.raises(UserError, match="Plural-Forms"):
    po.read(path)


def test_texts_that_overlap_are_refused(tmp_path):
  """A file of one megabyte could hold a thousand texts of one megabyte."""
  path = po.write(tmp_path / "de.mo", {"x" * 5000: "y" * 5000, "a": "b", "c": "d"})
  content = bytearray(path.read_bytes())
  first = int.from_bytes(content[12:16], "little")
  longest = max(range(4), key=lambda i: content[first + 8 * i : first + 8 * i + 4][::-1])
  entry = content[first + 8 * longest : first + 8 * longest + 8]
  content[first : first + 32] = entry * 4
  path.write_bytes(content)
  with pytest.raises(UserError, match="overlap"):
    po.read(path)


# TFDS


@pytest.mark.parametrize("key", ["pythonClassName", "type"])
def test_a_feature_of_a_strangers_module_is_not_imported(tmp_path, monkeypatch, key):
  (tmp_path / "a.tsv").write_text("a\tb\n")
  folder, _ = files.prepare("train", {"train": str(tmp_path / "a.tsv")})
  there = tmp_path / "text_files" / "1.0.0"
  there.mkdir(parents=True)
  for file in folder.iterdir():
    (there / file.name).write_bytes(file.read_bytes())
  (tmp_path / "strangers_module.py").write_text("raise SystemExit('it ran')")
  monkeypatch.syspath_prepend(tmp_path)
  spec = dict(name="tfds", dataset="text_files", data_dir=str(tmp_path), source="source")
  assert len(sources.open_split(spec, "data")) == 1
  made = json.loads((there / "features.json").read_text())
  made = {"type": "strangers_module.X", "content": {}} if key == "type" else made
  if key != "type":
    made["featuresDict"]["features"]["source"][key] = "strangers_module.X"
  (there / "features.json").write_text(json.dumps(made))
  with pytest.raises(UserError, match=r"features.json: .*strangers_module.X.*not imported"):
    sources.open_split(spec, "data")
  assert "strangers_module" not in sys.modules


def test_a_damaged_record_is_reported(tmp_path):
  (tmp_path / "a.tsv").write_text("a\tb\n")
  folder, fields = files.prepare("train", {"train": str(tmp_path / "a.tsv")})
  there = tmp_path / "copy"
  there.mkdir()
  for file in folder.iterdir():
    content = bytearray(file.read_bytes())
    if "array_record" in file.name and file.suffix != ".json":
      content[content.index(b"source")] ^= 1
    (there / file.name).write_bytes(content)
  source = records.Records(str(there), "data", {name: name for name in fields}, "", "do it anew")
  with pytest.raises(UserError, match=r"record 0.*do it anew"):
    source[0]
