"""What an export says, and what it refuses, without torch: types, folded scales, limits, the card.

tests/parity/test_exports_parity.py compares exports with what the libraries that load them do.
"""

import dataclasses
import importlib.util
import json
import re
import shutil
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.config import TransformerConfig
from model.transformer import Transformer
from tests.helpers import FIXTURES, load_config
from tests.train.interop.helpers import LLAMA, SHAPES, SIZES, T5, TRAINED, head_of, problems
from train import export, export_check, inference, tasks
from train.common.errors import UserError
from train.common.trees import flatten
from train.interop import card, ctranslate2, folding, generation_out, settings, writing
from train.interop.directory import Directory
from train.interop.families.known import FAMILIES
from train.tasks.decoding_settings import Decoding


@pytest.mark.parametrize("family", SHAPES)
def test_values_have_the_types_of_the_familys_dataclass(family):
  changes, kind = SHAPES[family]
  fit = writing.fit(FAMILIES[family], SIZES | changes, kind, head_of(kind))
  assert not fit.lacks
  assert not problems(fit.config)
  wrong = dict(initializer_range=1, hidden_act=1, init_std="x", d_model=None, vocab_size="x")
  assert problems(fit.config | wrong)


@pytest.mark.parametrize(
  "text, kind",
  [
    ("scan.py:small", "translation"),
    ("wmt14.py:small", "translation"),
    ("mlm.py:small,data={folder}/prose", "mlm"),
    ("causal.py:small,data={folder}/prose", "causal"),
  ],
)
def test_our_configs_have_the_types_too(text, kind, corpus):
  model = dict(load_config(text, corpus).model) | dict(vocab_size=100)
  assert not problems(writing.best(model, kind, head_of(kind, model["activation"])).config)


def logits(cfg, params, source, inputs):
  graph, state = nnx.split(nnx.eval_shape(lambda: Transformer(cfg, rngs=nnx.Rngs(0))))
  paths, tree = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
  names = list(flatten(nnx.to_pure_dict(state)))
  assert len(paths) == len(names)
  state = jax.tree.unflatten(tree, [jnp.asarray(params[name]) for name in names])
  model = nnx.merge(graph, state)
  memory = model.encode(source)
  return model.logits(model.decode(inputs, memory, np.ones_like(source), np.ones_like(inputs)))


@pytest.mark.parametrize(
  "changes",
  [
    dict(T5),
    dict(T5, embed_scale=False, logits_scale=0.3),
    dict(T5, tie_output=False, share_embeddings=False),
    dict(norm_position="post", attention_scale=0.7, logits_scale=2.0),
  ],
)
def test_scales_go_into_the_weights(changes):
  before = dataclasses.asdict(TransformerConfig(**SIZES | changes))
  after = before | dict(embed_scale=not before["embed_scale"], attention_scale=1.0)
  after["logits_scale"] = 0.5
  model = Transformer(TransformerConfig(**before), rngs=nnx.Rngs(1))
  params = flatten(nnx.to_pure_dict(nnx.state(model)))
  params = {name: np.asarray(x) + 0.1 for name, x in params.items()}
  folded = folding.fold(params, before, after, True)
  source, inputs = np.array([[5, 6, 7, 2]]), np.array([[1, 8, 9]])
  expected = logits(TransformerConfig(**before), params, source, inputs)
  actual = logits(TransformerConfig(**after), folded, source, inputs)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
  unfolded = logits(TransformerConfig(**after), params, source, inputs)
  assert np.abs(unfolded - expected).max() > 1e-2


def test_a_t5_with_our_scales_is_a_t5():
  fit = writing.best(SIZES | T5, "translation", head_of("translation"))
  assert (fit.family.model_type, fit.is_folded) == ("t5", True)
  assert fit.config["tie_word_embeddings"] is True
  back = settings.settings(fit.config, fit.family, {}, "config.json")
  assert (back["embed_scale"], back["attention_scale"]) == (False, 1.0)


@pytest.mark.parametrize(
  "changes, kind, name",
  [
    (dict(name="lstm"), "translation", "model.name='lstm'"),
    (dict(decoder_layers=0), "classification", "head of a classification"),
    (dict(positions="alibi"), "translation", "model.positions='alibi'"),
    (dict(window=4), "translation", "model.window=4"),
    (dict(positions="disentangled"), "body", "model.positions='disentangled'"),
    (dict(norm_position="both"), "translation", "model.norm_position='both'"),
    (dict(positions="rotary", rope_theta=(1e4, 1e6)), "translation", "model.rope_theta=(10000.0"),
    (dict(decoder_layers=0, embedding_dim=4), "body", "model.embedding_dim=4"),
    (dict(encoder_layers=0), "translation", "prefix"),
    (LLAMA | dict(qkv_bias=True), "causal", "model.qkv_bias=True"),
    (LLAMA | dict(rope_scale=2.0), "causal", "model.rope_scale=2.0"),
  ],
)
def test_what_ctranslate2_lacks_is_named(changes, kind, name):
  with pytest.raises(UserError, match=re.escape(name)):
    ctranslate2.check(SIZES | changes, kind)


@pytest.mark.parametrize("changes", [{}, dict(qkv_bias=False, mlp_bias=False)])
def test_biases_that_are_nowhere_are_none(changes):
  ctranslate2.check(SIZES | LLAMA | changes, "causal")


def test_ctranslate2_serves_what_no_family_of_transformers_has():
  model = SIZES | dict(positions="rotary", norm_position="pre", num_kv_heads=1)
  ctranslate2.check(model, "translation")
  with pytest.raises(UserError, match=r"model\.positions is 'rotary'"):
    writing.best(model, "translation", head_of("translation"))


@pytest.mark.skipif(
  importlib.util.find_spec("ctranslate2") is not None, reason="ctranslate2 is installed"
)
def test_a_package_that_is_missing_is_named(tmp_path):
  with pytest.raises(UserError, match="pip install ctranslate2"):
    export.as_ctranslate2(TRAINED / "pre_norm", "latest", tmp_path / "out")
  assert not list(tmp_path.iterdir())


def test_the_limit_of_outputs_covers_ratio_and_extra():
  decoding = Decoding(max_len_ratio=1.5, max_len_extra=20, penalty="length")
  constant = generation_out.constant(decoding, 64)
  assert (constant.max_len_ratio, constant.max_len_extra) == (0.0, 116)
  roles = Directory(FIXTURES / "pegasus").tokenizer.roles
  ids = dict(pad_token_id=0, eos_token_id=1, bos_token_id=0)
  content = generation_out.for_transformers(constant, ids, roles)
  assert content["max_new_tokens"] == 116
  options = generation_out.for_ctranslate2(constant, ["a", "b"], roles, False)
  assert options["max_decoding_length"] == 115  # without eos
  assert options["min_decoding_length"] == 0  # CTranslate2's own default is 1
  assert (options["beam_size"], options["length_penalty"]) == (4, 0.6)
  assert generation_out.notes(decoding) != generation_out.notes(constant) == []


def test_sampling_is_written_for_both():
  decoding = Decoding(beam=1, temperature=0.5, top_k=3, top_p=0.9, max_len_ratio=0.0)
  roles = Directory(FIXTURES / "gpt2").tokenizer.roles
  names = [f"t{i}" for i in range(400)]
  options = generation_out.for_ctranslate2(decoding, names, roles, True)
  assert options["sampling_temperature"] == 0.5
  assert (options["sampling_topk"], options["sampling_topp"]) == (3, 0.9)
  assert options["include_prompt_in_result"] is False


@pytest.fixture
def copied(tmp_path):
  """Returns a function that copies a fixture and changes its JSON files."""

  def make(name, **files):
    folder = shutil.copytree(FIXTURES / name, tmp_path / name)
    for file, change in files.items():
      (folder / f"{file}.json").write_text(json.dumps(change))
    return folder

  return make


@pytest.mark.parametrize(
  "name, settings",
  [
    ("t5", dict(beam=3, nbest=2, length_penalty=0.6, stop="current", min_len=4, max_len_extra=9)),
    ("t5", dict(beam=1, temperature=0.5, top_k=3, top_p=0.9, banned=((7, 8), (9,)))),
    ("bart", dict(beam=2, stop="full", min_len=3, max_len_extra=8, forced_last=(2,))),  # forced
    ("bart", dict(beam=1, no_repeat_ngram=2, repetition_penalty=1.5, begin_banned=(5,))),
    ("llama", dict(beam=1, max_len_extra=11, max_len_total=12)),
    ("llama", dict(beam=1, max_len_extra=8)),
  ],
)
def test_settings_of_generation_are_those_that_were_written(name, settings, copied):
  usual = dict(max_len_ratio=0.0, max_len_extra=30, penalty="length", length_penalty=1.0)
  decoding = Decoding(**usual | dict(stop="current") | settings)
  source = Directory(FIXTURES / name)
  roles = dataclasses.replace(source.tokenizer.roles, ends=(3, source.tokenizer.roles.eos))
  ids = {f"{key}_token_id": source.config.get(f"{key}_token_id") for key in ("pad", "eos", "bos")}
  ids["decoder_start_token_id"] = source.config.get("decoder_start_token_id")
  written = generation_out.for_transformers(decoding, ids, roles)
  back = Directory(copied(name, generation_config=written))
  assert set(back.tokenizer.roles.output_ends) == set(roles.output_ends)
  read = back.generation | dict(seed=0)
  never = {(i,) for i in (roles.pad, roles.start)} - {(i,) for i in roles.output_ends}
  assert {*read["banned"]} == {*decoding.banned} | never
  changed = dataclasses.replace(decoding, banned=read["banned"])
  assert {key: vars(changed)[key] for key in read} == read


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  out = tmp_path_factory.mktemp("exports") / "out"
  export.as_hf(TRAINED / "pre_norm", "latest", out, license="mit")
  return out


def test_a_trained_translator_gives_the_same_texts_when_it_is_read_back(exported):
  settings = dict(beam=1)
  before, after = (
    inference.load(name, **settings) for name in (TRAINED / "pre_norm", f"hf:{exported}")
  )
  examples = [before.run.task.examples("test")[i] for i in range(30)]
  sources = [example["source"] for example in examples]
  ours, theirs = ([x["text"] for x in predictor(sources)] for predictor in (before, after))
  assert theirs == ours
  assert np.mean([x == example["target"] for x, example in zip(ours, examples)]) > 0.5
  limit = json.loads((exported / "generation_config.json").read_text())["max_new_tokens"]
  assert limit == before.run.task.decoding.longest(before.run.task.source_len)
  assert (after.run.task.decoding.max_len_ratio, after.run.task.decoding.max_len_extra) == (
    0,
    limit,
  )


def test_the_card_has_what_a_reader_asks_for(exported):
  text = (exported / "README.md").read_text()
  front = dict(line.split(": ", 1) for line in text.split("---")[1].splitlines() if ": " in line)
  assert front["license"] == '"mit"'
  assert front["pipeline_tag"] == '"translation"'
  start = json.loads((TRAINED / "pre_norm" / "run.json").read_text())["starts"][0]
  for digest in start["data"].values():
    assert digest in text
  assert start["git"]["commit"] in text
  assert "| validation | bleu |" in text
  assert "AutoModelForSeq2SeqLM" in text
  assert "make_trained.py pre_norm" in text


def test_cells_of_the_card_stay_in_their_table():
  rows = [("test", "a|b", "1\n2")]
  filled = card.Card("mlm", "transformers", "x", "mit", "", {}, {}, rows, {}).render()
  assert "| test | a\\|b | 1 2 |" in filled


@pytest.mark.parametrize("kind", typing.get_args(typing.Literal["body", "causal", "translation"]))
@pytest.mark.parametrize("library", ["transformers", "ctranslate2"])
def test_the_lines_of_use_are_python(kind, library):
  compile(card.usage(kind, library, 'a "text"'), "README.md", "exec")
  compile(card.usage(kind, "ctranslate2", "text", "</s>"), "README.md", "exec")


def test_an_export_that_fails_its_check_leaves_nothing(tmp_path, monkeypatch):
  def fail(*_):
    raise UserError("other outputs")

  monkeypatch.setattr(export_check, "check", fail)
  with pytest.raises(UserError, match="other outputs"):
    export.as_hf(TRAINED / "pre_norm", "latest", tmp_path / "out", check=True)
  assert not list(tmp_path.iterdir())


def test_a_missing_package_is_no_failure(monkeypatch):
  monkeypatch.setattr(export_check.importlib.util, "find_spec", lambda name: None)
  result = export_check.check(TRAINED / "pre_norm", "latest", None, "hf", None, None)
  assert result.startswith("not checked: transformers and torch")


def test_made_up_inputs_have_no_answers():
  task = tasks.make(Directory(FIXTURES / "bert_tagging").task())
  examples = export_check.inputs(task)
  assert len(examples) == export_check.COUNT
  assert {*examples[0]} == {"words"}
  assert len(task.requests(examples).lengths()) >= export_check.COUNT
