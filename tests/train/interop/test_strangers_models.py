"""A stranger's directory is refused at once if it lies about its size or leads elsewhere."""

import json
import os
import pathlib
import shutil
import struct
import time
import tracemalloc

import pytest

from train.common.errors import UserError
from train.interop.directory import Directory
from train.interop.weights import Tensors

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"


def written(path, header, data=b"", length=None):
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor(start, stop, shape, dtype="F32"):
  return dict(dtype=dtype, shape=shape, data_offsets=[start, stop])


@pytest.mark.parametrize(
  "header, data, told",
  [
    (
      {"a": tensor(0, 4, [1]), "huge": tensor(4, 10**10, [10**9])},
      b"1234",
      "huge would end at byte",
    ),
    ({"a": tensor(0, 4, [10**9])}, b"1234", "shape"),
    ({"a": tensor(0, 4, [1])}, b"12345", "not fully covered"),
    ({"a": tensor(0, 4, [1]), "b": tensor(0, 4, [1])}, b"1234", "invalid offset"),
    ({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, b"1234" * 3, "invalid offset"),
    ({"a": tensor(0, 4, [-1])}, b"1234", "-1"),
    ({"a": tensor(0, 4, [1], "F33")}, b"1234", "F33"),
    ({"a": tensor(0, 4, [4], "F8_E5M2")}, b"1234", "a is of F8_E5M2"),
    (
      {"a.weight": tensor(0, 4, [1]), "a.gamma": tensor(4, 8, [1])},
      b"12345678",
      "is a second a.weight",
    ),
    ([], b"", "invalid type"),
  ],
)
def test_tensors_that_are_not_there_are_refused_before_any_is_made(tmp_path, header, data, told):
  written(tmp_path / "model.safetensors", header, data)
  began = time.monotonic()
  tracemalloc.start()
  with pytest.raises(UserError, match=f"model.safetensors.*{told}"):
    Tensors(tmp_path)
  assert tracemalloc.get_traced_memory()[1] < 10**7
  tracemalloc.stop()
  assert time.monotonic() - began < 2


@pytest.mark.parametrize("length", [2**63, 10**8 + 1, 10**7])
def test_a_header_of_a_false_length_is_refused(tmp_path, length):
  written(tmp_path / "model.safetensors", {}, length=length)
  with pytest.raises(UserError, match="not a complete safetensors file"):
    Tensors(tmp_path)


@pytest.mark.parametrize(
  "name",
  [
    "../model.safetensors",
    "/etc/passwd",
    "a/b.safetensors",
    "..",
    "",
    "config.json",
    "a\\b.safetensors",
  ],
)
def test_a_shard_lies_in_its_folder(tmp_path, name):
  shutil.copy(FIXTURES / "bert_mlm" / "model.safetensors", tmp_path)
  (tmp_path / "in" / "a").mkdir(parents=True)
  shutil.copy(FIXTURES / "bert_mlm" / "model.safetensors", tmp_path / "in" / "a" / "b.safetensors")
  index = tmp_path / "in" / "model.safetensors.index.json"
  index.write_text(json.dumps(dict(weight_map={"a": name})))
  with pytest.raises(UserError, match=r"index\.json: weight_map has"):
    Tensors(tmp_path / "in")


def test_links_in_the_folder_are_followed_as_of_hugging_faces_cache(tmp_path):
  (tmp_path / "snapshot").mkdir()
  for file in (FIXTURES / "gpt2_sharded").iterdir():
    shutil.copy(file, tmp_path / file.name)
    os.symlink(f"../{file.name}", tmp_path / "snapshot" / file.name)
  assert Tensors(tmp_path / "snapshot").shapes == Tensors(FIXTURES / "gpt2_sharded").shapes


@pytest.mark.parametrize(
  "name, changes, told",
  [
    ("bert_mlm", dict(num_hidden_layers=10**9), "encoder_layers is 1000000000, but .*layer.2"),
    ("t5", dict(num_decoder_layers=10**9), "decoder_layers is 1000000000, but .*block.2"),
    ("bert_mlm", dict(vocab_size=10**12), "vocab_size is 1000000000000; it must be int"),
    ("bert_mlm", dict(vocab_size=2 * 10**9), "vocab_size is 2000000000, and the largest tensor"),
    ("bert_mlm", dict(intermediate_size=2 * 10**9), "mlp_dim is 2000000000, and"),
    ("bert_mlm", dict(hidden_size="8"), "hidden_size is '8'; it must be int"),
    ("bert_mlm", dict(layer_norm_eps=float("nan")), "layer_norm_eps is nan"),
    ("bert_mlm", dict(layer_norm_eps=-1.0), "norm_eps is -1.0; it must be at least 0"),
    ("bert_mlm", dict(id2label=[1]), "id2label is"),
    ("bert_mlm", dict(architectures={"a": 1}), "architectures is"),
    ("pegasus", dict(max_position_embeddings=2 * 10**9), "2000000000 positions"),
    ("t5", dict(d_model=0), "config.json"),
    ("t5gemma", dict(encoder=None), "the section encoder is missing"),
    ("bart", dict(num_hidden_layers=3), "num_hidden_layers is 3 and encoder_layers 2"),
    ("llama", dict(rope_parameters=[1]), "rope_parameters is"),
  ],
)
def test_a_model_larger_than_its_tensors_is_not_built(tmp_path, name, changes, told):
  folder = tmp_path / name
  shutil.copytree(FIXTURES / name, folder)
  config = json.loads((folder / "config.json").read_text()) | changes
  (folder / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match=told):
    _ = Directory(folder).model


@pytest.mark.parametrize(
  "file, content, told",
  [
    ("generation_config.json", dict(num_beams=10**6, max_new_tokens=10**6), "num_beams is 1000000"),
    ("generation_config.json", dict(max_new_tokens=-5), "longest output -5"),
    ("generation_config.json", dict(num_beams="4"), "num_beams is '4'"),
    ("tokenizer_config.json", dict(extra_ids=10**9), "extra_ids is 1000000000"),
    ("tokenizer_config.json", dict(unk_token=7), "unk_token is 7"),
    ("tokenizer_config.json", dict(added_tokens_decoder={"x": {}}), "added_tokens_decoder.x"),
  ],
)
def test_settings_that_would_fill_the_memory_are_refused(tmp_path, file, content, told):
  folder = tmp_path / "t5"
  shutil.copytree(FIXTURES / "t5", folder)
  if file == "tokenizer_config.json":
    (folder / "tokenizer.json").unlink()
    shutil.copy(FIXTURES / "marian" / "source.spm", folder / "spiece.model")
  (folder / file).write_text(json.dumps(content))
  with pytest.raises(UserError, match=f"{file}.*{told}"):
    _ = Directory(folder).generation


def test_an_id_beyond_all_vocabularies_is_refused(tmp_path):
  """The tables with a number for each id would take 16 GB."""
  folder = tmp_path / "bert_mlm"
  shutil.copytree(FIXTURES / "bert_mlm", folder)
  made = json.loads((folder / "tokenizer.json").read_text())
  made["model"]["vocab"]["far"] = 2**32 - 1
  (folder / "tokenizer.json").write_text(json.dumps(made))
  config = {k: v for k, v in Directory(folder).config.items() if k != "vocab_size"}
  (folder / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match="4294967296 ids"):
    _ = Directory(folder).tokenizer
