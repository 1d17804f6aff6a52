"""Fuzz targets: files from Hugging Face, and tokenizers."""

import json
import pathlib
import struct
import tempfile
from collections.abc import Mapping

import numpy as np

from model.config import TransformerConfig
from train.data.roles import MOST_IDS
from train.data.tokenizer import Tokenizer
from train.data.tokenizer_training import train_tokenizer
from train.interop import spm
from train.interop.directory import Directory
from train.interop.weights import Tensors

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
TEXTS = ("the quick é <mask> 北", "", "a\tb 12,345")


def _fixture(name: str, *without: str) -> dict[str, bytes]:
  files = {path.name: path.read_bytes() for path in (FIXTURES / name).iterdir()}
  return {k: v for k, v in files.items() if not k.startswith("expected") and k not in without}


def each(folder: Mapping[str, bytes], *names: str):
  return [(folder, name) for name in names if name in folder]


# A model's settings

FAMILIES = ("bert_classification", "electra_mlm", "distilbert_mlm", "roberta_classification")
FAMILIES += ("gpt2", "llama", "t5", "mt5", "bart", "mbart", "marian", "pegasus", "bert")
SENTENCES = {
  "modules.json": b'[{"type": "sentence_transformers.models.Transformer", "path": ""},'
  b' {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]',
  "1_Pooling/config.json": b'{"word_embedding_dimension": 8, "pooling_mode_cls_token": true}',
  "sentence_bert_config.json": b'{"max_seq_length": 16, "do_lower_case": false}',
}


def settings():
  folders = [_fixture(name) for name in FAMILIES]
  both = ("config.json", "generation_config.json")
  seeds = [seed for folder in folders for seed in each(folder, *both)]
  return seeds + each(folders[-1] | SENTENCES, *SENTENCES)


def read_settings(folder, _):
  directory = Directory(folder)
  most = max(np.prod(shape) for shape in directory.tensors.shapes.values())
  cfg = TransformerConfig(**directory.model)
  assert max(cfg.vocab_size, cfg.dim, cfg.mlp_dim, cfg.num_heads) <= most
  assert cfg.encoder_layers + cfg.decoder_layers <= len(directory.tensors.shapes)
  assert all(type(label) is str for label in directory.labels)
  task = directory.task()
  if "decoding" in task:
    assert 1 <= task["decoding"]["beam"] * task["decoding"]["max_len_extra"] <= 1 << 20


# Its weights


def weights():
  one, shards = _fixture("bert_mlm"), _fixture("gpt2_sharded")
  return [
    *each(one, "model.safetensors"),
    *each(shards, "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
  ]


def read_weights(folder, _):
  tensors = Tensors(folder)
  for name, shape in tensors.shapes.items():
    tensor = tensors[name]
    assert tensor.shape == shape
    assert tensor.dtype == np.float32
  for file, _ in tensors._stored.values():
    assert file is not None


def read_params(folder, _):
  for weight in Directory(folder).params.values():
    assert np.asarray(weight).shape == weight.shape


def params():
  folder = _fixture("bert_mlm")
  return each(folder, "config.json", "model.safetensors")


# Its vocabulary


def _as_bpe(folder) -> dict[str, bytes]:
  model = json.loads(folder["tokenizer.json"])["model"]
  merges = "\n".join(x if isinstance(x, str) else " ".join(x) for x in model["merges"])
  files = {"vocab.json": json.dumps(model["vocab"]).encode(), "merges.txt": merges.encode()}
  return {k: v for k, v in folder.items() if k != "tokenizer.json"} | files


def _as_spm(name: str, file: str) -> dict[str, bytes]:
  folder = _fixture(name, "tokenizer.json")
  return folder | {file: (FIXTURES / "marian" / "source.spm").read_bytes()}


def vocabularies():
  whole = [_fixture(name) for name in ("bert_mlm", "gpt2", "llama", "t5", "mbart", "pegasus")]
  spm = [_as_spm(*two) for two in (("t5", "spiece.model"), ("pegasus", "spiece.model"))]
  spm += [_as_spm(*two) for two in (("llama", "tokenizer.model"), ("mbart", "tokenizer.model"))]
  bert = _fixture("bert") | {"added_tokens.json": b'{"[MASK]": 4}'}
  parts = [bert, _as_bpe(_fixture("gpt2")), _fixture("marian"), *spm]
  names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
  names += ("vocab.json", "merges.txt", "added_tokens.json", "source.spm", "spiece.model")
  names += ("tokenizer.model",)
  return [seed for folder in (*whole, *parts) for seed in each(folder, *names)]


def read_vocabulary(folder, _):
  directory = Directory(folder)
  _check_tokenizer(directory.tokenizer, directory.config.get("vocab_size") or MOST_IDS)


def _check_tokenizer(tokenizer, rows):
  roles = tokenizer.roles
  assert 0 <= max(roles.pad, roles.eos, roles.start) < rows
  for encode in (tokenizer.encode_batch, tokenizer.encode_targets, tokenizer.encode_words):
    for ids in encode(TEXTS):
      assert all(0 <= i < rows for i in ids)
      assert isinstance(tokenizer.decode(ids), str)
  assert len(tokenizer.byte_lengths) == len(tokenizer.word_starts) == tokenizer.vocab_size


def _message(*fields: tuple[int, bytes | int | float]) -> bytes:
  """Encodes a protocol buffer of small fields."""
  encoded = b""
  for number, value in fields:
    if isinstance(value, bytes):
      assert len(value) < 16384
      length = bytes([len(value) & 127 | 128, len(value) >> 7])
      encoded += bytes([number << 3 | 2]) + length + value
    elif isinstance(value, float):
      encoded += bytes([number << 3 | 5]) + struct.pack("<f", value)
    else:
      encoded += bytes([number << 3, value])
  return encoded


def pieces():
  pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<x>", 0.0, 4)]
  pieces += [(x, -float(i), 1) for i, x in enumerate(("\u2581", "a", "b", "ab", "\u2581ab", "é"))]
  body = b"".join(_message((1, _message((1, x.encode()), (2, s), (3, k)))) for x, s, k in pieces)
  contents = {f"{kind}.model": body + _message((2, _message((3, kind)))) for kind in (1, 2)}
  contents["real.model"] = (FIXTURES / "marian" / "source.spm").read_bytes()
  return [(contents, name) for name in contents]


def read_pieces(folder, name):
  tokenizer = spm.convert(spm.load(folder / name))
  assert tokenizer.get_vocab_size() >= 1


def own_tokenizers():
  contents = {}
  specs = [dict(name=name, special=("<mask>",)) for name in ("word", "char", "byte")]
  specs += [dict(name=name, vocab_size=280) for name in ("bpe", "unigram")]
  trained = {spec["name"]: train_tokenizer(spec, TEXTS * 3) for spec in specs}
  for name, one in (trained | {"marian": Directory(FIXTURES / "marian").tokenizer}).items():
    with tempfile.TemporaryDirectory() as folder:
      one.save(f"{folder}/t.json")
      contents[f"{name}.json"] = pathlib.Path(folder, "t.json").read_bytes()
  return [(contents, name) for name in contents]


def read_own_tokenizer(folder, name):
  _check_tokenizer(Tokenizer.load(folder / name), MOST_IDS)
