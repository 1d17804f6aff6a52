"""Configs and commands read Parquet, and folders that `datasets` has saved, as they read tables."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import helpers
from tests.helpers import FIXTURES, ROOT
from train import evaluate, predict, resolve
from train.data import sources

SAVED = FIXTURES / "saved_by_datasets"


def data_of(text):
  data = resolve.load(f"{ROOT}/configs/{text}").task.data.to_dict()
  return data.get("of", data)


def parts(path, dev="[80%:90%]"):
  return dict(train=f"{path}[:80%]", validation=f"{path}{dev}", test=f"{path}[90%:]")


@pytest.mark.parametrize(
  "text, columns",
  [
    ("classify.py:", ("text", "label")),
    ("classify.py:columns=review+stars,", dict(text="review", label="stars")),
    ("text2text.py:task=qa,", ("id", "question", "context", "answers")),
    ("tag.py:columns=tokens+ner_tags,", dict(words="tokens", tags="ner_tags")),
    ("multi30k.py:source=a.en,target=a.de,", dict(source="a.en", target="a.de")),
    ("nllb.py:init=hf:{nllb},dev=10%,test=10%,", dict(source="source", target="target")),
    ("choice.py:", ("text", "choices", "label")),
  ],
)
def test_a_parquet_file_is_cut_into_splits(text, columns):
  text = text.replace("{nllb}", f"{FIXTURES}/nllb")
  for path in ("a/x.parquet", "a/x-*.parquet"):
    data = data_of(f"{text}data={path}")
    assert (data["name"], data["columns"], data["splits"]) == ("parquet", columns, parts(path))


def test_folders_have_files_of_each_split_as_the_hub_names_them(tmp_path):
  for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
    (tmp_path / f"{name}.parquet").touch()
  splits = data_of(f"classify.py:data={tmp_path}")["splits"]
  files = dict(train="train", validation="validation", test="test")
  assert splits == {split: f"{tmp_path}/{name}-*.parquet" for split, name in files.items()}
  splits = data_of(f"tag.py:data={tmp_path},test=10%")["splits"]
  assert splits["test"] == f"{tmp_path}/train-*.parquet[90%:]"


def test_saved_folders_are_tables():
  data = data_of(f"classify.py:data={SAVED},dev=10%")
  assert data["name"] == "arrow"
  assert data["splits"] == dict(
    train=f"{SAVED}/train[:90%]", validation=f"{SAVED}/train[90%:]", test=f"{SAVED}/test"
  )
  assert data_of(f"classify.py:data={SAVED}/train")["splits"] == parts(f"{SAVED}/train")
  data = data_of(f"multi30k.py:data={SAVED}/train,source=translation.en,target=translation.de")
  examples = list(sources.open_split(data, "train"))
  assert examples[0] == dict(source="size 0", target="Größe 0")


@pytest.mark.parametrize("config", ["mlm.py", "span.py", "electra.py", "prefix.py"])
def test_prose_is_the_column_text(config, tmp_path):
  (tmp_path / "a.parquet").touch()
  for path in (tmp_path, f"{tmp_path}/*.parquet", SAVED / "train"):
    data = data_of(f"{config}:data={path}")
    assert data["name"] == ("arrow" if path == SAVED / "train" else "parquet")
    assert data["splits"] == dict(train=f"{path}[:98%]", validation=f"{path}[98%:]")
    assert data["columns"] == dict(text="text")
  assert data_of(f"{config}:data={SAVED}")["splits"]["train"] == f"{SAVED}/train[:98%]"
  assert data_of(f"causal.py:data={tmp_path}")["splits"]["train"] == f"{tmp_path}[:90%]"
  data = resolve.load(f"{ROOT}/configs/{config}:data=a.parquet", ["task.data.columns.text=content"])
  assert data.task.data.columns.text == "content"


@pytest.fixture(scope="module")
def stored(corpus, tmp_path_factory):
  """Returns a folder with the corpus' tables as Parquet."""
  folder = tmp_path_factory.mktemp("stored")
  for split in ("train", "dev", "test"):
    lines = (corpus / f"{split}.tsv").read_text().splitlines()
    rows = [dict(zip(("text", "label"), line.split("\t"))) for line in lines]
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet", row_group_size=7)
  return folder


def results_of(capsys, command, *words):
  capsys.readouterr()
  command.main(list(map(str, words)))
  return capsys.readouterr().out


@pytest.mark.slow
def test_a_run_on_parquet_is_the_run_on_the_table(corpus, stored, tmp_path, capsys):
  runs = {}
  for name, folder in (("tsv", corpus), ("parquet", stored)):
    runs[name] = tmp_path / name
    helpers.train_config("classify.py:small,data={folder}", folder, runs[name])
  losses = [
    [json.loads(line).get("loss") for line in (run / "metrics.jsonl").read_text().splitlines()]
    for run in runs.values()
  ]
  assert losses[0] == losses[1]
  assert any(losses[0])
  table, data = corpus / "test.tsv", stored / "test.parquet"
  results = [
    json.loads(results_of(capsys, evaluate, "--workdir", run, "--data", file))
    for run in runs.values()
    for file in (table, data)
  ]
  assert len({result["loss"] for result in results}) == 1
  content = pq.read_table(data)
  bare = content.drop_columns("label").rename_columns(["review"])
  pq.write_table(bare, tmp_path / "bare.parquet")
  words = ("--workdir", runs["tsv"], "--data")
  outputs = results_of(capsys, predict, *words, table)
  assert results_of(capsys, predict, *words, data) == outputs
  assert (
    results_of(capsys, predict, *words, tmp_path / "bare.parquet", "--columns", "review") == outputs
  )
  saved = tmp_path / "saved"
  saved.mkdir()
  with pa.ipc.new_stream(saved / "data.arrow", content.schema) as writer:
    writer.write_table(content)
  (saved / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
  assert results_of(capsys, predict, *words, saved) == outputs
  assert results_of(capsys, predict, "--workdir", runs["parquet"], "--data", table) == outputs
