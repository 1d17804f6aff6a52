"""Exports of trained runs answer as the runs do, in transformers and in CTranslate2 (make parity).

The runs of tests/fixtures/trained answer nearly all inputs right, so that a wrong start token or a
lost setting changes texts; models of random weights are compared by their numbers.
"""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.config import TransformerConfig
from model.transformer import Transformer
from tests.helpers import FIXTURES, train_config
from tests.train.interop.helpers import SHAPES, SIZES, TRAINED, head_of
from train import export, export_check
from train.common.errors import UserError
from train.common.trees import flatten
from train.data.roles import OWN
from train.interop import ctranslate2, writing
from train.interop.families.known import FAMILIES

transformers = pytest.importorskip("transformers", reason="`make parity` compares with it")
pytest.importorskip("torch", reason="`make parity` compares with transformers on torch")
library = pytest.importorskip("ctranslate2", reason="`make parity` compares with it")
SLOW = pytest.mark.slow

RUNS = [(name, form) for name in ("pre_norm", "post_norm", "decoder") for form in export.FORMATS]
RUNS += [("masked", "hf"), ("classifier", "hf")]
RUNS.remove(("decoder", "ctranslate2"))  # it has a window


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=SLOW)])
@pytest.mark.parametrize("name, form", RUNS)
def test_a_trained_run_gives_the_same_texts_there(name, form, count, tmp_path, monkeypatch):
  monkeypatch.setattr(export_check, "COUNT", count)
  export.FORMATS[form](TRAINED / name, "latest", tmp_path / "out", check=True)
  card = (tmp_path / "out" / "README.md").read_text()
  assert f"for {count} inputs." in card  # without near ties


SHORT = ("A dog.", "Two men", "the red garden", "Why?", "12 cats")
READ = (
  "bart_qa",
  "electra_replaced",
  "byt5",
  "gemma2_tagging",
  "gpt2_classification",
  "gpt_neox",
  "led",
  "llama_qa",
)
READ += ("longformer_qa", "longt5", "mbart_classification", "opt", "qwen3", "t5_tagging", "t5gemma")


@pytest.mark.parametrize("name", READ)
def test_a_directory_that_is_read_and_written_gives_the_same(name, tmp_path, monkeypatch):
  monkeypatch.setattr(export_check, "WORDS", SHORT)
  export.as_hf(f"hf:{FIXTURES / name}", "latest", tmp_path / "out", check=True)
  card = (tmp_path / "out" / "README.md").read_text()
  assert "for 20 inputs" in card
  assert ("global_attention_mask" in card) == (name == "led")


def test_an_export_on_which_the_library_fails_is_not_left(tmp_path, monkeypatch):
  monkeypatch.setattr(export_check, "WORDS", (" ".join(["fox"] * 60),) * 2)  # 40 positions
  with pytest.raises(UserError, match=r"transformers fails on the export \(IndexError.*--no-check"):
    export.as_hf(f"hf:{FIXTURES / 'marian'}", "latest", tmp_path / "out", check=True)
  assert not list(tmp_path.iterdir())


def test_an_export_that_returns_several_outputs_is_checked(tmp_path):
  folder = shutil.copytree(FIXTURES / "bart", tmp_path / "bart")
  options = dict(num_beams=3, num_return_sequences=2, max_new_tokens=9)
  (folder / "generation_config.json").write_text(json.dumps(options))
  export.as_hf(f"hf:{folder}", "latest", tmp_path / "out", check=True)
  assert (
    json.loads((tmp_path / "out" / "generation_config.json").read_text()).items()
    >= {"num_return_sequences": 2}.items()
  )


@pytest.mark.parametrize("form", export.FORMATS)
def test_a_wrong_start_token_is_noticed(form, tmp_path, monkeypatch):
  opened = export.open_source

  def broken(*args):
    source = opened(*args)
    roles = dataclasses.replace(source.tokenizer.roles, start=source.tokenizer.roles.pad)
    monkeypatch.setattr(source.tokenizer, "roles", roles)
    return source

  monkeypatch.setattr(export, "open_source", broken)
  with pytest.raises(UserError, match="other outputs"):
    export.FORMATS[form](TRAINED / "pre_norm", "latest", tmp_path / "out", check=True)
  assert not list(tmp_path.iterdir())


def test_the_beams_of_ctranslate2_give_what_beams_give_here(tmp_path):
  """With the settings of generation.json as they stand; the penalty is the one that both have."""
  export.as_ctranslate2(TRAINED / "pre_norm", "latest", tmp_path / "out")
  options = json.loads((tmp_path / "out" / "generation.json").read_text())
  model = library.Translator(str(tmp_path / "out"), device="cpu")
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(tmp_path / "out" / "tokenizer.json")
  )
  predictor = export.inference.load(TRAINED / "pre_norm", penalty="length")
  examples = [predictor.run.task.examples("test")[i] for i in range(100)]
  sources = [example["source"] for example in examples]
  ours = [output["text"] for output in predictor(sources)]
  rows = [tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) for text in sources]
  outputs = model.translate_batch(rows, **options)
  ids = [tokenizer.convert_tokens_to_ids(output.hypotheses[0]) for output in outputs]
  theirs = [tokenizer.decode(row) for row in ids]
  assert theirs == ours


@pytest.mark.parametrize("family", SHAPES)
def test_the_familys_own_dataclass_takes_the_config(family, tmp_path):
  changes, kind = SHAPES[family]
  config = writing.fit(FAMILIES[family], SIZES | changes, kind, head_of(kind)).config
  (tmp_path / "config.json").write_text(json.dumps(config))
  loaded = transformers.AutoConfig.from_pretrained(tmp_path)
  assert loaded.vocab_size == SIZES["vocab_size"]
  with pytest.raises(Exception, match="vocab_size"):
    transformers.AutoConfig.for_model(**config | {"vocab_size": "x"})


def test_the_table_of_types_is_transformers(monkeypatch):
  monkeypatch.syspath_prepend(str(FIXTURES))
  import config_types

  table = json.loads((FIXTURES / "config_types.json").read_text())
  known = {name: config_types.types(name) for name in table}
  assert table == json.loads(json.dumps(known))


BOTH = dict(encoder_layers=2, decoder_layers=2)
LONE = dict(encoder_layers=0, decoder_layers=2)
BODY = dict(encoder_layers=2, decoder_layers=0)
SETTINGS = [
  dict(norm_position="pre"),
  dict(norm="rms", norm_position="pre", norm_eps=0.5),
  dict(positions="learned", position_offset=2, norm_eps=0.5),
  dict(positions="sinusoidal_t2t", position_offset=2, norm_position="pre"),
  dict(decoder_heads=2, decoder_mlp_dim=12, positions="learned", decoder_max_len=40),
  dict(positions="rotary", rope_theta=100.0, head_dim=6, num_kv_heads=2),
  dict(positions="relative", attention_scale=1.0, gated=True, activation="gelu_tanh"),
  dict(positions="alibi"),
  dict(positions="none", activation="tanh", embed_scale=False),
  dict(num_kv_heads=1, embedding_norm=True, activation="gelu"),
  dict(bias=False, tie_output=False, output_bias=True, logits_scale=0.3, share_embeddings=False),
  dict(dim=18, num_heads=3, activation="silu", gated=True, token_types=0),
]
NAMES = [f"t{i}" for i in range(30)]


class Names:
  """A tokenizer of 30 words."""

  roles = OWN

  def copy_inner(self):
    return self

  def get_vocab(self):
    return {name: i for i, name in enumerate(NAMES)}

  def id_to_token(self, i):
    return NAMES[i]


@pytest.mark.parametrize("sides", [BOTH, LONE, BODY], ids=["both", "decoder", "encoder"])
@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_ctranslate2_computes_what_the_model_computes(changes, sides, tmp_path):
  cfg = TransformerConfig(vocab_size=30, **{"dim": 16, "num_heads": 4, "mlp_dim": 24, "max_len": 32}
                          | sides | changes)  # fmt: skip
  kind = {2: "translation", 1: "causal"}.get(bool(cfg.encoder_layers) + bool(cfg.decoder_layers))
  kind = "body" if sides is BODY else kind
  if ctranslate2.lacking(dataclasses.asdict(cfg), kind):
    assert cfg.positions in ("alibi", "relative")
    return
  rng = np.random.default_rng(0)
  graph, state = nnx.split(Transformer(cfg, rngs=nnx.Rngs(0)))
  state = jax.tree.map(lambda x: x + 0.3 * rng.standard_normal(x.shape).astype(np.float32), state)
  params = {name: np.asarray(x) for name, x in flatten(nnx.to_pure_dict(state)).items()}
  ctranslate2.write(tmp_path, dataclasses.asdict(cfg), params, Names(), 64)
  source, target = rng.integers(4, 30, (1, 9)), rng.integers(4, 30, (1, 20))
  inputs = np.concatenate([[[1]], target], axis=1)
  words = [[NAMES[i] for i in row] for row in (source[0], target[0])]

  @jax.jit
  def states(source, inputs):
    model, seen = nnx.merge(graph, state), jnp.ones_like(inputs)
    memory = model.encode(source) if cfg.encoder_layers else None
    if not cfg.decoder_layers:
      return memory
    read = None if memory is None else jnp.ones_like(source)
    return model.logits(model.decode(inputs, memory, read, seen))

  def greedy(before):
    """Returns 8 tokens after `before`, each the likeliest."""
    row = np.full((1, 21), 4)
    row[0, : len(before)] = before
    for at in range(len(before), len(before) + 8):
      row[0, at] = np.argmax(np.asarray(states(source, row))[0, at - 1])
    return row[0, len(before) : len(before) + 8].tolist()

  ours, folder = np.asarray(states(source, inputs))[0], str(tmp_path)
  options = dict(beam_size=1, end_token="t3")
  if kind == "body":
    theirs = library.Encoder(folder).forward_batch([words[0]]).last_hidden_state
    theirs = np.array(theirs)[0]
  elif kind == "causal":
    model = library.Generator(folder)
    theirs = np.array(model.forward_batch([["t1", *words[1]]]))[0]
    result = model.generate_batch(
      [["t1", *words[1][:4]]], max_length=8, include_prompt_in_result=False, **options
    )
    assert greedy(inputs[0, :5])[: len(result[0].sequences_ids[0])] == result[0].sequences_ids[0]
  else:
    model = library.Translator(folder)
    theirs = np.array(model.score_batch([words[0]], [words[1]])[0].log_probs)
    ours = np.asarray(jax.nn.log_softmax(ours))[np.arange(21), [*target[0], OWN.eos]]
    result = model.translate_batch([words[0]], max_decoding_length=8, **options)
    ids = [NAMES.index(name) for name in result[0].hypotheses[0]]
    assert greedy([1])[: len(ids)] == ids
  np.testing.assert_allclose(ours, theirs, atol=1e-4)


CONFIGS = {  # each own config -> what refuses it for transformers and for CTranslate2; "": exported
  "scan.py:small": ("", ""),
  "scan.py:small,positions=learned": ("embedding_norm", ""),
  "scan.py:small,positions=rotary": ("model.positions", ""),
  "scan.py:small,model=lstm": ("model.name", "model.name"),
  "multi30k.py:small,data={folder}": ("", ""),
  "multi30k.py:small,recipe=tiny,data={folder}": ("", ""),
  "wmt14.py:small": ("", ""),
  "catalogs.py:small,data={folder}": ("", ""),
  "mlm.py:small,data={folder}/prose": ("", "head of a mlm"),
  "electra.py:small,data={folder}/prose": ("Electra run", "Electra run"),
  "span.py:small,data={folder}/prose": ("model.positions", ""),
  "causal.py:small,data={folder}/prose": ("", "model.window"),
  "causal.py:small,window=0,data={folder}/prose": ("", ""),
  "prefix.py:small,data={folder}/prose": ("model.positions", ""),
  "prefix.py:small,model=decoder,data={folder}/prose": ("task.prefix", "task.prefix"),
  "classify.py:small,data={folder}": ("", "head of a classification"),
  "classify.py:small,pool=mean,data={folder}": ("task.pool is 'mean'", "head of a classification"),
  "tag.py:small,suffix=.conll,data={folder}": ("", "head of a tagging"),
  "qa.py:small,train={folder}/train.json": ("task.transform", "head of a qa"),
  "text2text.py:small,data={folder}": ("model.positions", ""),
  "glue.py:small": ("", "head of a classification"),
  "mixture.py:small,data={folder}": ("Mixture run", "Mixture run"),
}


@SLOW
@pytest.mark.parametrize("text", CONFIGS)
def test_each_config_is_exported_or_refused_by_name(text, corpus, tmp_path):
  train_config(text, corpus, tmp_path / "run")
  for form, refused in zip(export.FORMATS, CONFIGS[text]):
    out = tmp_path / form
    try:
      export.FORMATS[form](tmp_path / "run", "latest", out, check=True)
      answer = (out / "README.md").read_text()
    except UserError as error:
      answer = str(error)
      assert not out.exists()
    expected = refused or "gives the same"
    assert expected in answer, (form, answer)
