"""Prepared corpora: a record holds what was packed, batches are those of the raw corpus bit for
bit, and what does not belong to the corpus is named."""

import gzip
import itertools
import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest

from tests import corpus as texts
from tests.train.data.helpers import Texts, assert_same_batches, pairs, prepare, take
from train.common.errors import NoSplit, UserError
from train.data import documents, items, sources, streamed_batches, token_corpus, token_records
from train.data.batches import Batches, Layout
from train.data.source import Ranges, count_examples
from train.data.streams import count_shards
from train.data.tokenizer_training import train_tokenizer

ROWS, LENGTH = 16, 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Writes 1.2 MB of text in two files, 10 chunks."""
  path = tmp_path_factory.mktemp("corpus")
  texts.write(path, 1_200_000, files=2)
  return path


@pytest.fixture(scope="module")
def tokenizer(folder):
  text = (folder / "part-00000.txt").read_text()[:200_000].splitlines()
  return train_tokenizer({"name": "bpe", "vocab_size": 600, "special": ("<mask>",)}, text)


def open_text(folder, stream=True, **options):
  spec = {"name": "text", "splits": {"train": str(folder)}, "unit": "line", "stream": stream}
  return sources.open_split(spec | options, "train", ("text",))


@pytest.fixture(scope="module")
def prepared(folder, tokenizer, tmp_path_factory):
  """Prepares the corpus and returns its spec."""
  return prepare(tmp_path_factory.mktemp("prepared"), open_text(folder), tokenizer)


@pytest.fixture
def copied(prepared, tmp_path):
  """Returns the path of a copy of the prepared corpus, to damage, and its spec."""
  path = shutil.copytree(prepared["folder"], tmp_path / "copy")
  return path, prepared | {"folder": str(path)}


def windows(source, tokenizer, kind="causal"):
  tokens = documents.Tokens(source, tokenizer)
  if kind == "mlm":
    objective = documents.MaskedLm(tokenizer.roles, tokenizer.words, 0.15)
    return documents.Windows(tokens, LENGTH - 2, objective)
  crosses = kind == "causal"
  return documents.Windows(tokens, LENGTH, documents.NextToken(tokenizer.roles), crosses)


def layout(kind):
  return Layout(ROWS, LENGTH, 0, most_hidden=LENGTH) if kind == "mlm" else Layout(ROWS, 0, LENGTH)


def batches_until(items, layout, epochs, workers=0):
  """Returns the batches of so many epochs, and one more."""
  with streamed_batches.open_batches(items, layout, seed=3, workers=workers) as batches:
    taken = [next(batches)]
    while batches.counts()["epoch"] < epochs:
      taken.append(next(batches))
    return [*taken, next(batches)]


# Records


@pytest.mark.parametrize("kind", ["uint16", "uint32"])
def test_a_record_holds_ids_and_texts(kind):
  fields = {"source": kind, "target": kind, "target_lang": "text"}
  top = 2 ** int(kind[4:]) - 1
  values = {"source": [[1, top], [], [3]], "target": [[], [], [7] * 9]}
  values["target_lang"] = ["de", "", "größer"]
  record, lengths = token_records.pack(values, fields, 5, 17, 2)
  examples = token_records.unpack(record, fields, 5, 17)
  assert [x["source"].tolist() for x in examples] == values["source"]
  assert [x["target"].tolist() for x in examples] == values["target"]
  assert [x["target_lang"] for x in examples] == values["target_lang"]
  assert lengths["target"].tolist() == [0, 0, 9]
  places = [(6, 17), (5, 18), (5, 17), (5, 17), (5, 17)]
  for content, (tag, shard) in zip([record, record, record[:-1], record + b"0", b""], places):
    with pytest.raises(ValueError, match=r"record|buffer"):
      token_records.unpack(content, fields, tag, shard)


def test_an_id_that_the_kind_cannot_hold_is_an_error():
  with pytest.raises(OverflowError):
    token_records.pack({"text": [[1 << 16]]}, {"text": "uint16"}, 0, 0, 0)
  assert token_records.kind_of_ids(1 << 16) == "uint16"
  assert token_records.kind_of_ids((1 << 16) + 1) == "uint32"


def test_lengths_are_counted_by_their_bits():
  bins = token_records.count_bins(np.asarray([0, 1, 2, 3, 4, 7, 8, 2**31]))
  assert bins[:5].tolist() == [1, 1, 2, 2, 1]
  assert bins[32] == 1
  assert bins.sum() == 8


# Equality with the raw corpus


@pytest.mark.parametrize("kind", ["causal", "documents", "mlm"])
def test_batches_are_those_of_the_raw_corpus(folder, prepared, tokenizer, kind):
  source = sources.open_split(prepared, "train", ("text",))
  raw = batches_until(windows(open_text(folder), tokenizer, kind), layout(kind), 1)
  assert_same_batches(raw, batches_until(windows(source, tokenizer, kind), layout(kind), 1))
  assert len(raw) > 50


def test_batches_are_the_same_for_any_number_of_workers(folder, prepared, tokenizer):
  raw = windows(open_text(folder), tokenizer)
  of = windows(sources.open_split(prepared, "train"), tokenizer)
  assert raw.fingerprint == of.fingerprint
  options = dict(seed=0, count=4)
  with streamed_batches.StreamedBatches(raw, layout("causal"), **options) as batches:
    wanted = take(batches, 12)
    state = json.loads(json.dumps(batches.get_state()))
    later = take(batches, 6)
  for workers in (1, 2):
    with streamed_batches.StreamedBatches(
      of, layout("causal"), workers=workers, **options
    ) as again:
      assert_same_batches(take(again, 12), wanted)
      if workers == 2:  # goes on from a position in the raw corpus
        again.set_state(state)
        assert_same_batches(take(again, 6), later)


def test_a_small_corpus_is_read_by_index_as_the_raw_one_is(folder, tokenizer, tmp_path):
  raw = open_text(folder, stream=False)
  spec = prepare(tmp_path / "out", raw, tokenizer)
  source = sources.open_split(spec, "train", ("text",))
  assert len(source) == len(raw) > 600
  a, b = windows(raw, tokenizer, "documents"), windows(source, tokenizer, "documents")
  with Batches(a, layout(""), seed=1) as left, Batches(b, layout(""), seed=1) as right:
    assert_same_batches(take(left, 20), take(right, 20))
  streamed = sources.open_split(spec | {"stream": True}, "train")
  assert count_shards(windows(streamed, tokenizer)) == -(-len(raw) // 256)


def open_packed(folder, out):
  """Opens the corpus as two compressed files, each a shard."""
  out.mkdir()
  for path in folder.iterdir():
    (out / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
  return open_text(out)


def open_parquet(folder, out):
  """Opens a corpus of two Parquet files, whose shards are groups of rows."""
  texts.write(out, 1_200_000, files=2, form="parquet")
  spec = {"name": "parquet", "splits": {"train": f"{out}/*.parquet"}, "columns": ("text",)}
  return sources.open_split(spec | {"stream": True}, "train", ("text",))


@pytest.mark.parametrize("open_raw", [open_packed, open_parquet])
def test_a_shard_may_have_several_records(folder, tokenizer, tmp_path, open_raw):
  raw = open_raw(folder, tmp_path / "raw")
  spec = prepare(tmp_path / "out", raw, tokenizer)
  source = sources.open_split(spec, "train")
  assert source.num_shards == raw.num_shards >= 2
  assert len(list(source.blocks(0))) == len(list(raw.blocks(0))) > 3
  assert list(map(len, read(source, 1))) == list(map(len, read(raw, 1)))
  raw, source = windows(raw, tokenizer), windows(source, tokenizer)
  options = dict(seed=0, count=2)
  with streamed_batches.StreamedBatches(raw, layout("causal"), **options) as batches:
    wanted = take(batches, 30)
  with streamed_batches.StreamedBatches(source, layout("causal"), **options) as batches:
    assert_same_batches(take(batches, 30), wanted)


def read(source, shard):
  return [block.examples for block in source.blocks(shard)]


def test_pairs_are_those_of_the_raw_corpus(tmp_path):
  raw = Texts(700)
  words = pairs(raw).tokenizer
  spec = prepare(tmp_path / "out", raw, words, fields=("source", "target"))
  source = sources.open_split(spec, "train", ("source", "target"))
  sizes = Layout(8, 24, 16)
  with Batches(pairs(raw), sizes, seed=0) as left, Batches(pairs(source), sizes, seed=0) as right:
    assert (left._lengths == right._lengths).all()
    assert_same_batches(take(left, 40), take(right, 40))
  streamed = sources.open_split(spec | {"stream": True}, "train")
  raw = batches_until(pairs(Ranges(raw)), sizes, 2)
  assert_same_batches(raw, batches_until(pairs(streamed), sizes, 2))


def test_pairs_keep_their_languages(tmp_path):
  rows = [
    {"source": "a b", "target": "c", "target_lang": "de"},
    {"source": "<2fr> a", "target": "c b", "target_lang": ""},
    {"source": "b", "target": "a", "target_lang": "fr"},
  ]
  words = train_tokenizer({"name": "word", "special": ("<2de>", "<2fr>")}, ["a b c"])
  raw = Rows(rows)
  spec = prepare(tmp_path / "out", raw, words, fields=("source", "target"))
  source = sources.open_split(spec, "train")
  assert [example["target_lang"] for example in source] == ["de", "", "fr"]
  left, right = (items.Pairs(x, words, 8, 8, "de") for x in (raw, source))
  for a, b in zip(left.read([0, 1, 2], [0, 0, 0]), right.read([0, 1, 2], [0, 0, 0])):
    assert a == b


class Rows(list):
  fingerprint = "rows"


def test_other_splits_stay_text(folder, tokenizer, tmp_path):
  rows = Rows([{"text": f"größer {i}", "answers": [{"text": "a"}]} for i in range(300)])
  spec = prepare(tmp_path / "out", rows, tokenizer, split="validation", fields=())
  assert list(sources.open_split(spec, "validation")) == rows
  with pytest.raises(NoSplit, match=r"'train'.*validation"):
    sources.open_split(spec, "train")
  prepare(tmp_path / "out", open_text(folder), tokenizer)
  assert sources.open_split(spec, "train").num_shards > 1
  assert len(sources.open_split(spec, "validation")) == 300


def test_what_is_pickled_is_small(prepared):
  source = sources.open_split(prepared, "train")
  list(source.blocks(0))
  assert len(pickle.dumps(source)) < 1000


def test_the_manifest_counts(folder, prepared, tokenizer):
  split = token_corpus.read_manifest(prepared["folder"])["splits"]["train"]
  raw = open_text(folder)
  blocks = [block for shard in range(raw.num_shards) for block in raw.blocks(shard)]
  count = sum(len(block.examples) for block in blocks)
  assert count_examples(sources.open_split(prepared, "train")) == (count, True)
  rows = tokenizer.encode_batch([example["text"] for block in blocks for example in block.examples])
  assert split["totals"]["documents"] == len(rows)
  assert split["totals"]["tokens"] == sum(map(len, rows))
  assert split["totals"]["records"] == raw.num_shards == split["totals"]["shards"]
  assert split["lengths"]["text"][9] == sum(256 <= len(row) < 512 for row in rows) > 0


# What does not belong to the corpus


def test_a_missing_or_cut_file_is_named_as_the_corpus_is_opened(copied):
  path, spec = copied
  file = path / token_corpus.read_manifest(path)["splits"]["train"]["files"][2]["name"]
  content = file.read_bytes()
  file.write_bytes(content[:-1000])
  with pytest.raises(UserError, match=f"{file.name} has .* bytes"):
    sources.open_split(spec, "train")
  file.unlink()
  with pytest.raises(UserError, match=f"{file.name} is missing.*train.prepare"):
    sources.open_split(spec, "train")
  file.write_bytes(content)
  note = file.with_suffix(".json")
  note.unlink()
  source = sources.open_split(spec | {"stream": False}, "train")
  with pytest.raises(UserError, match=f"{note.name}: No such file.*train.prepare"):
    len(source)


def damage(path, start):
  content = bytearray(path.read_bytes())
  content[start : start + 200] = bytes(200)
  path.write_bytes(content)


def test_a_damaged_record_is_named_by_file_and_number(copied, tokenizer):
  path, spec = copied
  file = path / token_corpus.read_manifest(path)["splits"]["train"]["files"][2]["name"]
  damage(file, 80_000)
  source = sources.open_split(spec, "train")
  with pytest.raises(UserError, match=rf"{file.name}, record 0 "):
    list(itertools.chain.from_iterable(map(source.blocks, range(source.num_shards))))


def test_a_file_of_another_place_or_tokenizer_is_named(copied, tokenizer, folder, tmp_path):
  path, spec = copied
  first, second = (file["name"] for file in manifest(path)["splits"]["train"]["files"][:2])
  shutil.copy(path / second, path / first)
  edit(path, lambda train: train["files"][0].update(bytes=train["files"][1]["bytes"]))
  with pytest.raises(UserError, match=rf"{pathlib.Path(first).name}, record 0 .*shard"):
    list(sources.open_split(spec, "train").blocks(0))
  other = train_tokenizer({"name": "char"}, ["another alphabet"])
  theirs = prepare(tmp_path / "other", open_text(folder), other)
  shutil.copy(pathlib.Path(theirs["folder"], first), path / first)
  edit(path, lambda train: train["files"][0].update(bytes=(path / first).stat().st_size))
  with pytest.raises(UserError, match=rf"{pathlib.Path(first).name}, record 0 .*tokenizer"):
    list(sources.open_split(spec, "train").blocks(0))


def manifest(path):
  return json.loads((path / "manifest.json").read_text())


def edit(path, change):
  content = manifest(path)
  change(content["splits"]["train"])
  (path / "manifest.json").write_text(json.dumps(content))


def test_another_version_is_refused(copied):
  path, spec = copied
  content = manifest(path) | {"version": 99}
  (path / "manifest.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match="version 99"):
    sources.open_split(spec, "train")
  (path / "manifest.json").unlink()
  with pytest.raises(UserError, match=r"no manifest\.json"):
    sources.open_split(spec, "train")


def test_another_tokenizer_is_refused(prepared, tokenizer):
  token_corpus.check_tokenizer(prepared, tokenizer)
  other = train_tokenizer({"name": "char"}, ["abc"])
  nested = {"name": "concat", "of": {"a": {"name": "formatted", "of": prepared, "text": "{text}"}}}
  for section in (prepared, nested):
    with pytest.raises(UserError, match=f"{prepared['folder']}.*another tokenizer"):
      token_corpus.check_tokenizer(section, other)
    with pytest.raises(UserError, match=r"tokenizer.*tokenizer\.json"):
      token_corpus.check_raw(section)
  token_corpus.check_tokenizer({"name": "text", "splits": {}}, other)


def test_a_split_without_examples_is_an_error(tokenizer, tmp_path):
  with pytest.raises(UserError, match="no example"):
    prepare(tmp_path / "out", Rows(), tokenizer)
  with pytest.raises(UserError, match="no example"):
    prepare(tmp_path / "out2", Rows(), tokenizer, split="validation", fields=())
