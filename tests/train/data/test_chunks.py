"""Chunks of files: together they are the file, wherever they are cut."""

import gzip
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.common.errors import UserError
from train.data import chunks, sources, texts

TEXTS = st.text(st.sampled_from(list("ab é漢\n\n\r\t")), max_size=300)
RULES = (chunks.RECORDS, chunks.LINES, chunks.PARTS, chunks.PARAGRAPHS)


@pytest.fixture
def small(monkeypatch):
  """Makes chunks of a few bytes."""

  def change(chunk_bytes=16, longest=40):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(chunks, "LOOK", 8)
    monkeypatch.setattr(
      texts,
      "RULES",
      {
        name: rule._replace(most=min(rule.most, longest), back=min(rule.back, 20))
        for name, rule in texts.RULES.items()
      },
    )

  change()
  return change


def open_text(path, **options):
  return sources.open_split(
    dict(name="text", splits=dict(train=str(path)), stream=True, **options), "train", ("text",)
  )


def examples(source):
  return [x for i in range(source.num_shards) for block in source.blocks(i) for x in block.examples]


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_chunks_are_the_file(tmp_path_factory, rule, text):
  path = tmp_path_factory.mktemp("chunks") / "x.txt"
  content = text.encode()
  path.write_bytes(content)
  path.with_suffix(".gz").write_bytes(gzip.compress(content))
  before = chunks.CHUNK_BYTES, chunks.LOOK
  chunks.CHUNK_BYTES, chunks.LOOK = 7, 5
  try:
    rule = rule._replace(most=min(rule.most, 11))
    count = chunks.count(len(content))
    found = [chunks.read_chunk(path, rule, i, 0, len(content)) for i in range(count)]
    assert b"".join(chunk.content for chunk in found) == content
    for chunk in found[1:]:
      assert not 0x80 <= (chunk.content or b"a")[0] < 0xC0 or not rule.cut  # no character is cut
      if chunk.begins and chunk.start < len(content) and not rule.cut:
        assert content[chunk.start - 1 : chunk.start] == b"\n"
    packed = [x for x in chunks.read_in_order(path.with_suffix(".gz"), rule) if x.content]
    plain = [x for x in found if x.content]
    if rule.cut:  # how a chunk begins and ends matters to records alone
      plain, packed = ([x._replace(begins=True, ends=True) for x in xs] for xs in (plain, packed))
    assert packed == plain
    for skip in range(3):
      rest = list(chunks.read_in_order(path.with_suffix(".gz"), rule, skip))
      assert rest == list(chunks.read_in_order(path.with_suffix(".gz"), rule))[skip:]
    for percent in (0, 30, 50, 100):
      place = len(content) * percent // 100
      halves = b""
      for start, stop in ((0, place), (place, len(content))):
        parts = range(chunks.count(stop - start))
        halves += b"".join(chunks.read_chunk(path, rule, i, start, stop).content for i in parts)
      assert halves == content
  finally:
    chunks.CHUNK_BYTES, chunks.LOOK = before


@pytest.mark.parametrize("unit", ["line", "paragraph"])
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_documents_are_those_of_the_whole_file(tmp_path_factory, unit, text):
  path = tmp_path_factory.mktemp("documents") / "x.txt"
  path.write_text(text, newline="")
  before = chunks.CHUNK_BYTES, chunks.LOOK
  chunks.CHUNK_BYTES, chunks.LOOK = 9, 4
  try:
    whole = sources.open_split(
      dict(name="text", splits=dict(train=str(path)), unit=unit, stream=False), "train"
    )
    assert examples(open_text(path, unit=unit)) == list(whole)
  finally:
    chunks.CHUNK_BYTES, chunks.LOOK = before


def test_a_long_document_is_cut_at_blanks(tmp_path, small):
  words = [f"w{i}" for i in range(100)]
  (tmp_path / "x.txt").write_text(" ".join(words))
  for unit in ("line", "paragraph", "file"):
    parts = [x["text"] for x in examples(open_text(tmp_path / "x.txt", unit=unit))]
    assert len(parts) > 10
    assert " ".join(part.strip() for part in parts).split() == words
    assert max(map(len, parts)) < 16 + 2 * 60


def test_text_without_blanks_is_cut_between_characters(tmp_path, small):
  text = "漢字かな" * 100
  (tmp_path / "x.txt").write_text(text)
  parts = [x["text"] for x in examples(open_text(tmp_path / "x.txt", unit="line"))]
  assert "".join(parts) == text
  assert len(parts) > 10


def test_json_lines_are_streamed(tmp_path, small):
  rows = [{"text": f"é {i} " + "x" * (i % 50), "n": i} for i in range(60)]
  lines = [json.dumps(row, ensure_ascii=False) for row in rows]
  (tmp_path / "x.jsonl").write_text("\ufeff" + "\n\n".join(lines) + "\n")
  assert [x["text"] for x in examples(open_text(tmp_path / "x.jsonl"))] == [x["text"] for x in rows]
  assert (
    examples(open_text(tmp_path / "x.jsonl"))[3:]
    == examples(pickle.loads(pickle.dumps(open_text(tmp_path / "x.jsonl"))))[3:]
  )


def test_a_bad_line_is_named_by_its_number_in_the_file(tmp_path, small):
  lines = [json.dumps({"text": f"text {i}"}) for i in range(40)]
  lines[30] = "{broken"
  (tmp_path / "x.jsonl").write_text("\n".join(lines))
  with pytest.raises(UserError, match=r"x\.jsonl, line 31, column 2"):
    examples(open_text(tmp_path / "x.jsonl"))
  skipped = open_text(tmp_path / "x.jsonl", on_bad_record="skip")
  assert len(examples(skipped)) == 39
  (message,) = [x for i in range(skipped.num_shards) for b in skipped.blocks(i) for x in b.bad]
  assert "line 31" in message


def test_a_record_that_is_too_long_is_one_bad_record(tmp_path, small, monkeypatch):
  monkeypatch.setattr(chunks, "RECORDS", chunks.RECORDS._replace(most=100))
  lines = [json.dumps({"text": f"text {i}" + "x" * (1000 * (i == 12))}) for i in range(40)]
  for name, pack in (("x.jsonl", bytes), ("x.jsonl.gz", gzip.compress)):
    (tmp_path / name).write_bytes(pack("\n".join(lines).encode()))
    skipped = open_text(tmp_path / name, on_bad_record="skip")
    kept = [int(x["text"].split()[1].rstrip("x")) for x in examples(skipped)]
    assert kept == [i for i in range(40) if i != 12]
    blocks = [block for i in range(skipped.num_shards) for block in skipped.blocks(i)]
    (message,) = [message for block in blocks for message in block.bad]
    assert "line 13: a record of more than 100 bytes" in message
    with pytest.raises(UserError, match="line 13: a record of more than 100 bytes"):
      examples(open_text(tmp_path / name))


def test_a_line_that_is_not_utf8_is_named(tmp_path, small):
  (tmp_path / "x.txt").write_bytes(b"good line\n" * 9 + b"bad \xff line\n" + b"good line\n" * 9)
  with pytest.raises(UserError, match=r"x\.txt, line 10, byte 5"):
    examples(open_text(tmp_path / "x.txt", unit="line"))
  skipped = open_text(tmp_path / "x.txt", unit="line", on_bad_record="skip")
  assert len(examples(skipped)) == 18


def test_a_cut_gzip_file_is_named(tmp_path, small):
  content = gzip.compress(b"".join(b"line %d\n" % i for i in range(100_000)))
  (tmp_path / "x.txt.gz").write_bytes(content[: len(content) // 2])
  with pytest.raises(UserError, match=r"x\.txt\.gz: not a complete gzip file"):
    examples(open_text(tmp_path / "x.txt.gz", unit="line"))


def test_a_part_of_a_large_compressed_file_is_refused(tmp_path, small):
  (tmp_path / "x.txt.gz").write_bytes(gzip.compress(b"a\n" * 100))
  with pytest.raises(UserError, match="compressed"):
    open_text(f"{tmp_path}/x.txt.gz[:90%]", unit="line")


def test_a_fingerprint_depends_on_sampled_bytes_and_sizes(tmp_path, small):
  path = tmp_path / "x.txt"
  fingerprints = set()
  for text in ("a\n" * 50, "a\n" * 51, "b\n" + "a\n" * 50, "a\n" * 50):
    path.write_text(text)
    fingerprints.add(open_text(path, unit="line").fingerprint)
  fingerprints.add(open_text(path, unit="paragraph").fingerprint)
  fingerprints.add(open_text(f"{path}[:50%]", unit="line").fingerprint)
  assert len(fingerprints) == 5


def test_a_file_that_grows_is_named(tmp_path, small):
  path = tmp_path / "x.txt"
  path.write_text("line\n" * 40)
  source = open_text(path, unit="line")
  whole = examples(source)
  path.write_text("line\n" * 41)
  again = pickle.loads(pickle.dumps(source))
  assert again.num_shards == source.num_shards  # a worker has the order of its parent
  with pytest.raises(UserError, match=r"x\.txt has 205 bytes, and 200 when"):
    examples(again)
  assert len(whole) == 40


@pytest.mark.parametrize("unit", ["line", "paragraph", "file"])
def test_blank_lines_by_the_hundred_thousand_are_passed_over(tmp_path, unit):
  (tmp_path / "x.txt").write_text("first" + "\n" * 300_000 + "second" + "\n" * 300_000)
  texts = [x["text"].strip() for x in examples(open_text(tmp_path / "x.txt", unit=unit))]
  assert [text for text in texts if text] == ["first", "second"]
