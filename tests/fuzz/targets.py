"""What is fuzzed: for each parser, folders of valid files, which of them is changed, and how the
folder is read. Reading may raise UserError; anything else is a crash."""

import dataclasses
import gzip
import json
import pathlib
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from model.config import TransformerConfig
from tests.data import po
from train import provenance, seal, tasks, workdir, writer
from train.data import files, reading, sources, texts
from train.data.tokenizer import Tokenizer, train
from train.data.vocabulary import MOST_IDS
from train.interop import spm
from train.interop.directory import Directory
from train.interop.weights import Tensors

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
TEXTS = ("the quick é <mask> 北", "", "a\tb 12,345")


@dataclasses.dataclass(frozen=True)
class Target:
  """`seeds` are pairs of a folder's files (path -> content) and the one that is changed."""

  seeds: Callable[[], list[tuple[Mapping[str, bytes], str]]]
  read: Callable[[pathlib.Path, str], object]


def _fixture(name: str, *without: str) -> dict[str, bytes]:
  found = {path.name: path.read_bytes() for path in (FIXTURES / name).iterdir()}
  return {k: v for k, v in found.items() if not k.startswith("expected") and k not in without}


def _each(folder: Mapping[str, bytes], *names: str):
  return [(folder, name) for name in names if name in folder]


# A model's settings

FAMILIES = ("bert_classification", "electra_mlm", "distilbert_mlm", "roberta_classification")
FAMILIES += ("gpt2", "llama", "t5", "mt5", "bart", "mbart", "marian", "pegasus", "bert")
SENTENCES = {
  "modules.json": b'[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]',
  "1_Pooling/config.json": b'{"word_embedding_dimension": 8, "pooling_mode_cls_token": true}',
  "sentence_bert_config.json": b'{"max_seq_length": 16, "do_lower_case": false}',
}


def _settings():
  folders = [_fixture(name) for name in FAMILIES]
  both = ("config.json", "generation_config.json")
  found = [one for folder in folders for one in _each(folder, *both)]
  return found + _each(folders[-1] | SENTENCES, *SENTENCES)


def _read_settings(folder, _):
  found = Directory(folder)
  most = max(np.prod(shape) for shape in found.tensors.shapes.values())
  cfg = TransformerConfig(**found.model)
  assert max(cfg.vocab_size, cfg.dim, cfg.mlp_dim, cfg.num_heads) <= most
  assert cfg.encoder_layers + cfg.decoder_layers <= len(found.tensors.shapes)
  assert all(type(label) is str for label in found.labels)
  task = found.task()
  if "decoding" in task:
    assert 1 <= task["decoding"]["beam"] * task["decoding"]["max_len_extra"] <= 1 << 20


# Its weights


def _weights():
  one, shards = _fixture("bert_mlm"), _fixture("gpt2_sharded")
  return [
    *_each(one, "model.safetensors"),
    *_each(shards, "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
  ]


def _read_weights(folder, _):
  found = Tensors(folder)
  for name, shape in found.shapes.items():
    tensor = found[name]
    assert tensor.shape == shape
    assert tensor.dtype == np.float32
  for file, _ in found._stored.values():
    assert file is not None


def _read_params(folder, _):
  for weight in Directory(folder).params.values():
    assert np.asarray(weight).shape == weight.shape


def _params():
  folder = _fixture("bert_mlm")
  return _each(folder, "config.json", "model.safetensors")


# Its vocabulary


def _as_bpe(folder) -> dict[str, bytes]:
  model = json.loads(folder["tokenizer.json"])["model"]
  merges = "\n".join(x if isinstance(x, str) else " ".join(x) for x in model["merges"])
  made = {"vocab.json": json.dumps(model["vocab"]).encode(), "merges.txt": merges.encode()}
  return {k: v for k, v in folder.items() if k != "tokenizer.json"} | made


def _as_spm(name: str, file: str) -> dict[str, bytes]:
  folder = _fixture(name, "tokenizer.json")
  return folder | {file: (FIXTURES / "marian" / "source.spm").read_bytes()}


def _vocabularies():
  more = {"added_tokens.json": b'{"<more>": 5000}'}
  whole = [_fixture(name) for name in ("bert_mlm", "gpt2", "llama", "t5", "mbart", "pegasus")]
  spm = [_as_spm(*two) for two in (("t5", "spiece.model"), ("pegasus", "spiece.model"))]
  spm += [_as_spm(*two) for two in (("llama", "tokenizer.model"), ("mbart", "tokenizer.model"))]
  parts = [_fixture("bert") | more, _as_bpe(_fixture("gpt2")) | more, _fixture("marian"), *spm]
  names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
  names += ("vocab.json", "merges.txt", "added_tokens.json", "source.spm", "spiece.model")
  return [one for folder in (*whole, *parts) for one in _each(folder, *names)]


def _read_vocabulary(folder, _):
  found = Directory(folder)
  _check_tokenizer(found.tokenizer, found.config.get("vocab_size") or MOST_IDS)


def _check_tokenizer(tokenizer, rows):
  roles = tokenizer.roles
  assert 0 <= max(roles.pad, roles.eos, roles.start) < rows
  for encode in (tokenizer.encode_batch, tokenizer.encode_targets, tokenizer.encode_words):
    for ids in encode(TEXTS):
      assert all(0 <= i < rows for i in ids)
      assert isinstance(tokenizer.decode(ids), str)
  assert len(tokenizer.byte_lengths) == len(tokenizer.word_starts) == tokenizer.vocab_size


def _message(*fields: tuple[int, bytes | int | float]) -> bytes:
  """A protocol buffer of small fields."""
  made = b""
  for number, value in fields:
    if isinstance(value, bytes):
      assert len(value) < 16384
      length = bytes([len(value) & 127 | 128, len(value) >> 7])
      made += bytes([number << 3 | 2]) + length + value
    elif isinstance(value, float):
      made += bytes([number << 3 | 5]) + struct.pack("<f", value)
    else:
      made += bytes([number << 3, value])
  return made


def _pieces():
  pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<x>", 0.0, 4)]
  pieces += [(x, -float(i), 1) for i, x in enumerate(("\u2581", "a", "b", "ab", "\u2581ab", "é"))]
  body = b"".join(_message((1, _message((1, x.encode()), (2, s), (3, k)))) for x, s, k in pieces)
  made = {f"{kind}.model": body + _message((2, _message((3, kind)))) for kind in (1, 2)}
  made["real.model"] = (FIXTURES / "marian" / "source.spm").read_bytes()
  return [(made, name) for name in made]


def _read_pieces(folder, name):
  found = spm.convert(spm.load(folder / name))
  assert found.get_vocab_size() >= 1


def _own_tokenizers():
  made = {}
  specs = [dict(name=name, special=("<mask>",)) for name in ("word", "char", "byte")]
  specs += [dict(name=name, vocab_size=280) for name in ("bpe", "unigram")]
  trained = {spec["name"]: train(spec, TEXTS * 3) for spec in specs}
  for name, one in (trained | {"marian": Directory(FIXTURES / "marian").tokenizer}).items():
    with tempfile.TemporaryDirectory() as folder:
      one.save(f"{folder}/t.json")
      made[f"{name}.json"] = pathlib.Path(folder, "t.json").read_bytes()
  return [(made, name) for name in made]


def _read_own_tokenizer(folder, name):
  _check_tokenizer(Tokenizer.load(folder / name), MOST_IDS)


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
LINES = {
  "a.tsv": "one two\teins zwei\nthree\tdrei\r\n\u2028four\tvier\n".encode(),
  "a.jsonl": b'{"source": "a", "target": "b", "text": "c"}\n{"source": "", "target": "b", "text": "x"}',
  "a.txt": "One two\nthree.\n\n  \nFour é,\nsix.\n".encode(),
  "a.conll": b"-DOCSTART- O\n\nEU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\n",
  "a.conllu": b"# text\n1\tThe\tthe\tDET\n2-3\tx\t_\t_\n2\tcat\tcat\tNOUN\n",
  "a.json": json.dumps(SQUAD).encode(),
}


def _lines():
  packed = {f"{name}.gz": gzip.compress(content, 1) for name, content in LINES.items()}
  return [(LINES | packed, name) for name in (*LINES, *packed)]


def _read_lines(folder, name):
  path = folder / name
  match reading.kind(path):
    case ".tsv" | ".jsonl" as kind:
      rows = list(reading.READERS[kind]((path,), ("source", "target")))
      assert all(len(row) == 2 and all(type(x) is str for x in row) for row in rows)
      list(reading.READERS["aligned"]((path, folder / "a.tsv"), ("source", "target")))
    case ".txt":
      found = [x for unit in texts.UNITS for x in texts.documents(path, unit, 10, 90)]
      assert all(type(one["text"]) is str for one in found)
    case ".json":
      for one in texts.questions(path, 0, 100):
        assert all(one["context"].startswith(a["text"], a["answer_start"]) for a in one["answers"])
    case _:
      for one in texts.sentences(path, 0, -1):
        assert len(one["words"]) == len(one["tags"])
        assert all(one["words"])


def _catalogs():
  made = {}
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    entries = (po.MESSAGES, po.plural("%d file was read", "%d files were read", ["eine D", "D"]))
    for ending in ("po", "mo"):
      made[f"de.{ending}"] = po.write(folder / f"de.{ending}", *entries).read_bytes()
    with zipfile.ZipFile(folder / "a.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
      for name, content in made.items():
        wheel.writestr(f"pkg/de/LC_MESSAGES/{name}", content)
    made["a.whl"] = (folder / "a.whl").read_bytes()
  return [({name: content}, name) for name, content in made.items()]


def _read_catalog(folder, name):
  for source, target in po.read({"train": str(folder / name)}, min_words=1):
    assert source.strip()
    assert target.strip()
  assert {path.name for path in folder.parent.iterdir()} == {folder.name}  # nothing is unpacked


# TFDS's folders, whose records are ours here


def _records():
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "a.tsv")
    path.write_bytes(LINES["a.tsv"])
    made, _ = files.prepare("train", {"train": str(path)})
    found = {f"own/1.0.0/{one.name}": one.read_bytes() for one in made.iterdir()}
  return [(found, name) for name in found]


def _read_records(folder, _):
  spec = dict(name="tfds", dataset="text_files", data_dir=str(folder), source="source")
  (folder / "own").rename(folder / "text_files")
  found = sources.open_split(spec, "data")
  assert all(type(found[i]["source"]) is str for i in range(len(found)))


# A run's folder


def _run():
  start = dict(time="x", command=["a"], git=dict(commit="abc", dirty=True), versions={"jax": "1"})
  metrics = [dict(step=i, split="train", time=1.5, loss=2.5, other="nan") for i in range(3)]
  sealed = dict(format=1, files={"a": [1, "0"], "commit_success.txt": [0, "0"]})
  config = dict(seed=1, model=dict(dim=8, layers=[1, 2]), task=dict(name="mlm"), lr=0.1)
  made = {
    "config.json": json.dumps(config).encode(),
    "run.json": json.dumps(dict(starts=[start])).encode(),
    "metrics.jsonl": "".join(json.dumps(x) + "\n" for x in metrics).encode(),
    "skipped.jsonl": b'{"step": 1, "examples": [[1]]}\n{"step": 2, "examples": [[1]]}\n',
    "checksums/3.json": json.dumps(sealed).encode(),
    "labels.json": b'["a", "b"]',
    "checkpoints/3/a": b"a",
    "checkpoints/3/commit_success.txt": b"",
    "checkpoints/\u00b2/commit_success.txt": b"",
  }
  return _each(made, *[name for name in made if not name.startswith("checkpoints")])


def _read_run(folder, name):
  match name:
    case "config.json":
      config = workdir.load_config(folder)
      workdir.flat(config)
    case "run.json":
      for start in workdir._starts(folder / name):
        provenance.differences(start)
    case "metrics.jsonl":
      for line in writer.read_metrics(folder):
        assert type(line["step"]) is int
        assert type(line.get("loss", 0.0)) is float
      writer.drop_after(folder / name, 1)
    case "skipped.jsonl":
      writer.drop_after(folder / name, 1)
    case "labels.json":
      assert all(type(x) is str for x in tasks._labels(None, None, folder / name))
    case _:
      assert seal.steps(folder / "checkpoints") == [3]
      assert all(type(x) is str for x in seal.problems(folder / "checkpoints" / "3") or ())


TARGETS = {
  "hf settings": Target(_settings, _read_settings),
  "hf weights": Target(_weights, _read_weights),
  "hf whole": Target(_params, _read_params),
  "hf vocabulary": Target(_vocabularies, _read_vocabulary),
  "sentencepiece": Target(_pieces, _read_pieces),
  "own tokenizer": Target(_own_tokenizers, _read_own_tokenizer),
  "texts": Target(_lines, _read_lines),
  "catalogs": Target(_catalogs, _read_catalog),
  "tfds folder": Target(_records, _read_records),
  "run folder": Target(_run, _read_run),
}
