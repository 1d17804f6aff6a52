"""What a directory's files say is followed, or named: options of generation, tokens, old files."""

import json
import logging
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers import FIXTURES
from tests.train.interop.helpers import add_tokens, build, open_fixture, outputs
from train import predict, pretrained, tasks
from train.common.errors import UserError
from train.interop import directory, tokenizers_in


@pytest.fixture
def copied(tmp_path):
  """Returns a function that copies a fixture and changes its tensors and its JSON files."""

  def make(name, change_tensors=lambda tensors: tensors, **files):
    folder = tmp_path / name
    shutil.copytree(FIXTURES / name, folder, dirs_exist_ok=True)
    if (folder / "model.safetensors").exists():
      tensors = load_file(folder / "model.safetensors")
      save_file(change_tensors(tensors), folder / "model.safetensors")
    for file, change in files.items():
      path = folder / f"{file}.json"
      before = json.loads(path.read_text()) if path.exists() else {}
      path.write_text(json.dumps(change(before) if callable(change) else before | change))
    return folder

  return make


def written(source, strict=True, text="The lazy fox jumps.", **settings):
  """Returns the ids of the best output for a text."""
  task = tasks.make(source.task(strict=strict))
  settings = task.settings(**settings)
  requests = task.requests([task.example(text)])
  ids = np.asarray([requests.read([0], [0])[0]["source"]])
  batch = dict(source=ids, source_segments=np.ones_like(ids), row=np.zeros((1, 1), int))
  batch["source_positions"] = np.arange(ids.shape[1])[None]
  model = build(source)
  prediction = jax.jit(lambda batch: task.predict(model, batch, settings))(batch)
  return prediction["tokens"][0, 0, : prediction["lengths"][0, 0]].tolist()


# Options of generation


def test_generation_config_counts_before_config(copied, caplog):
  with caplog.at_level(logging.WARNING):
    ids = dict(eos_token_id=5, decoder_start_token_id=7, forced_bos_token_id=11)
    others = dict(eos_token_id=6, decoder_start_token_id=8, forced_bos_token_id=12)
    roles = directory.Directory(
      copied("bart", config=others, generation_config=ids)
    ).tokenizer.roles
  assert (roles.output_ends, roles.start, roles.target_first, roles.force) == ((5,), 7, (11,), True)
  assert "eos_token_id is 5 in generation_config.json, which counts, and 6 in" in caplog.text
  assert roles.eos == 2  # the tokenizer's, which ends sources


def test_any_of_several_ends_ends_an_output(copied):
  plain = written(open_fixture("t5"))
  middle = plain[len(plain) // 2]
  folder = copied("t5", generation_config=dict(eos_token_id=[1, middle]))
  source = directory.Directory(folder)
  for strict in (True, False):
    assert written(source, strict) == plain[: plain.index(middle) + 1]
  assert source.tokenizer.decode([*plain, 5]) == source.tokenizer.decode(
    plain[: plain.index(middle)]
  )
  path = folder / "saved.json"
  source.tokenizer.save(path)
  assert type(source.tokenizer).load(path).roles == source.tokenizer.roles


def test_options_that_are_not_followed_are_named_at_once(copied, caplog):
  options = dict(
    guidance_scale=1.5, eta_cutoff=0.1, encoder_repetition_penalty=1.2, typical_p=1.0, num_beams=2,
    watermarking_config={"bias": 2.0}, made_up=3, use_cache=True, length_penalty=None,
    bad_words_ids=[[9], [10, 11]], early_stopping="never",
  )  # fmt: skip
  with caplog.at_level(logging.WARNING):
    section = directory.Directory(copied("t5", generation_config=options)).generation
  (line,) = [x.getMessage() for x in caplog.records if "no counterpart" in x.getMessage()]
  named = set(re.findall(r"(\w+)=", line))
  assert named >= {"guidance_scale", "eta_cutoff", "encoder_repetition_penalty", "made_up"}
  assert not named & {"typical_p", "use_cache", "num_beams", "length_penalty", "bad_words_ids"}
  assert (section["length_penalty"], section["stop"]) == (1.0, "exact")
  assert section["banned"] == ((9,), (10, 11))


def test_sampling_has_the_defaults_of_transformers(copied):
  section = directory.Directory(copied("t5", generation_config=dict(do_sample=True))).generation
  assert (section["temperature"], section["top_k"], section["top_p"]) == (1.0, 50, 1.0)


@pytest.mark.parametrize(
  "name, options, expected",
  [
    ("t5", dict(max_new_tokens=9), dict(max_len_extra=9, max_len_total=0)),
    ("t5", dict(max_length=9, min_length=4), dict(max_len_extra=8, min_len=3)),
    ("bart", dict(max_new_tokens=9, min_new_tokens=4), dict(max_len_extra=8, min_len=3)),  # forced
    ("llama", dict(max_length=9), dict(max_len_extra=8, max_len_total=9)),
    ("llama", dict(), dict(max_len_extra=50, max_len_total=0)),
  ],
)
def test_lengths_count_what_transformers_counts(name, options, expected, copied):
  section = directory.Directory(copied(name, generation_config=options)).generation
  assert expected.items() <= section.items()


def test_prompt_and_output_together_have_at_most_max_length_tokens(copied):
  source = directory.Directory(copied("llama", generation_config=dict(max_length=12)))
  task = tasks.make(source.task())
  (prompt,) = [row["source"] for row in task.requests([{"text": "The fox"}]).read([0], [0])]
  longest = dict(beam=1, min_len=12)  # so that no end comes before
  assert len(prompt) + len(written(source, text="The fox", **longest)) == 12


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(early_stopping="sometimes"), "early_stopping is 'sometimes'"),
    (dict(do_sample=True, temperature=0.0), "temperature is 0.0"),
    (dict(do_sample=True, top_p=0.0), "top_p is 0.0"),
    (dict(num_beams=0), "num_beams is 0"),
    (dict(repetition_penalty=-1.0), "repetition_penalty is -1.0"),
  ],
)
def test_an_impossible_option_is_refused_by_its_file(options, message, copied):
  folder = copied("t5", generation_config=options)
  with pytest.raises(UserError, match=rf"generation_config\.json: .*{message}"):
    pretrained.open(f"hf:{folder}").task()


def test_facts_of_two_places_are_named(copied, caplog):
  two = dict(rope_theta=50.0, rope_parameters=dict(rope_type="default", rope_theta=100.0))
  with caplog.at_level(logging.WARNING):
    assert directory.Directory(copied("llama", config=two)).model["rope_theta"] == 100.0
    source = open_fixture("gpt2")
    tokenizers_in.read(source.path, source.config | dict(vocab_size=1000), source.options)
  assert "rope_theta is 50.0, and rope_parameters has rope_theta 100.0, which counts" in caplog.text
  assert (
    f"a vocabulary of {source.tokenizer.vocab_size}, and the model's table has 1000" in caplog.text
  )


def test_labels_of_one_name_are_refused_and_other_numbers_named(copied, caplog):
  both = {"0": "a", "1": "a", "2": "b"}
  folder = copied("bert_classification", config=dict(id2label=both))
  with pytest.raises(UserError, match=r"config\.json: id2label has 'a' twice"):
    _ = directory.Directory(folder).labels
  names = dict(id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 2, "b": 1, "c": 0})
  with caplog.at_level(logging.WARNING):
    source = directory.Directory(copied("bert_classification", config=names))
    assert source.labels == ("a", "b", "c")
  assert "label2id and id2label differ" in caplog.text


def test_an_output_at_its_limit_just_ends_in_strict_mode(caplog):
  source = open_fixture("t5")
  free = written(source, max_len_extra=3)
  ours = written(source, strict=False, max_len_extra=3, beam=1)
  assert (len(free), len(ours)) == (3, 3)
  assert (free[-1] == 1, ours[-1] == 1) == (False, True)
  assert free[:2] == ours[:2]
  caplog.clear()
  with caplog.at_level(logging.INFO):
    predict.load(f"hf:{FIXTURES / 't5'}", generation="transformers")
    assert "decoded by our rules" not in caplog.text
    predict.load(f"hf:{FIXTURES / 't5'}")
  assert caplog.text.count("decoded by our rules") == 1


def test_strict_beams_need_the_penalty_of_transformers():
  task = tasks.make(open_fixture("t5").task(strict=True))
  with pytest.raises(UserError, match="penalty"):
    task.settings(beam=2, penalty="wu")


# Tokenizers


@pytest.mark.parametrize("name", ["bert_mlm", "roberta_mlm", "t5", "llama", "mbart", "pegasus"])
def test_names_of_added_tokens_are_these_tokens(name, copied):
  rows = open_fixture(name).config["vocab_size"] + 20
  folder = copied(name, tokenizer=add_tokens, config=dict(vocab_size=rows))
  tokenizer = directory.Directory(folder).tokenizer
  special, plain = (tokenizer.copy_inner().token_to_id(x) for x in ("[E1]", "[e2]"))
  (ids,) = tokenizer.encode_batch(["the [E1] fox [e2]"])
  assert (ids.count(special), ids.count(plain)) == (1, 1)
  (offsets,) = tokenizer.encode_offsets(["the [E1] fox [e2]"])
  assert offsets[0] == ids
  text = tokenizer.decode(ids)
  assert "[E1]" not in text
  assert "[e2]" in text
  roles = tokenizer.roles
  frame = {roles.pad, roles.eos, roles.start, *roles.first, *roles.source_last}
  frame -= {*roles.languages}
  names = " ".join(name for name, i in tokenizer.specials.items() if i in frame)
  assert names
  assert not frame & set(tokenizer.encode_batch([f"the {names} fox"])[0])


@pytest.mark.parametrize(
  "name, text, token",
  [
    ("t5", "the <extra_id_0> fox", "<extra_id_0>"),
    ("bart", "the <mask> fox", "<mask>"),
    ("bert_classification", "the [MASK] fox", "[MASK]"),
    ("mbart", "the de_DE fox", "de_DE"),
    ("mbart", "the en_XX fox", "en_XX"),
  ],
)
def test_names_of_the_vocabularys_special_tokens_are_these_tokens(name, text, token):
  tokenizer = open_fixture(name).tokenizer
  (ids,) = tokenizer.encode_batch([text])
  assert ids.count(tokenizer.specials[token]) == 1
  assert token not in tokenizer.decode(ids)


def test_encoding_is_a_function_without_dropout(copied, caplog):
  def drop(content):
    content["model"]["dropout"] = 0.5
    return content

  with caplog.at_level(logging.WARNING):
    tokenizer = directory.Directory(copied("roberta_mlm", tokenizer=drop)).tokenizer
  text = "The lazy fox jumps over the good words that he reads"
  assert all(
    ids == open_fixture("roberta_mlm").tokenizer.encode_batch([text])[0]
    for ids in tokenizer.encode_batch([text] * 50)
  )
  assert "dropout is 0.5" in caplog.text


@pytest.mark.parametrize(
  "name, settings, alone, generic",
  [
    ("bert_mlm", dict(do_lower_case=False), False, True),
    ("roberta_mlm", dict(add_prefix_space=True), False, True),
    ("llama", dict(add_prefix_space=False), False, True),
    ("llama", dict(add_bos_token=False), True, True),
  ],
)
def test_settings_are_followed_as_the_named_class_does(name, settings, alone, generic, copied):
  """`alone`, `generic`: the ids are those without the setting, with the family's class and with a
  generic one. add_bos_token has no effect where tokenizer.json has a frame."""
  text = "The fox"
  usual = open_fixture(name).tokenizer
  for cls, same in ((None, alone), ("PreTrainedTokenizerFast", generic)):
    config = settings | ({"tokenizer_class": cls} if cls else {})
    tokenizer = directory.Directory(copied(name, tokenizer_config=config)).tokenizer
    assert (tokenizer.encode_batch([text]) == usual.encode_batch([text])) == same
    assert tokenizer.roles.first == usual.roles.first


# Models


@pytest.mark.parametrize(
  "name, buffer",
  [
    ("distilbert_mlm", "distilbert.embeddings.position_ids"),
    ("bert_mlm", "bert.embeddings.position_ids"),
    ("roberta_mlm", "roberta.embeddings.position_ids"),
    ("bart", "model.encoder.version"),
    ("bart", "model.decoder.embed_positions._float_tensor"),
  ],
)
def test_buffers_of_old_files_are_no_weights(name, buffer, copied):
  folder = copied(name, lambda tensors: tensors | {buffer: np.arange(3.0, dtype=np.float32)})
  assert directory.Directory(folder).params.keys() == open_fixture(name).params.keys()


def test_a_number_of_labels_stands_for_their_names(copied, caplog):
  def rename(config):
    return {k: v for k, v in config.items() if k not in ("id2label", "label2id")} | dict(
      num_labels=3
    )

  source = directory.Directory(copied("bert_classification", config=rename))
  assert source.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
  assert source.params["head/labels/kernel"].shape[-1] == 3
  with caplog.at_level(logging.WARNING):
    both = dict(num_labels=5, id2label={"0": "a", "1": "b", "2": "c"})
    source = directory.Directory(copied("bert_classification", config=both))
    assert source.labels == ("a", "b", "c")
  assert "num_labels is 5 and id2label has 3 labels, which count" in caplog.text


def test_an_untied_output_has_the_bias_that_is_added(copied):
  """Files of an untied BERT have two, of which transformers adds the decoder's."""
  output, bias = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"

  def untie(tensors):
    table = tensors["bert.embeddings.word_embeddings.weight"]
    return tensors | {output: table + 1, bias: tensors["cls.predictions.bias"] + 2}

  folder = copied("bert_mlm", untie, config=dict(tie_word_embeddings=False))
  params, tied = directory.Directory(folder).params, open_fixture("bert_mlm").params
  assert np.array_equal(params["output_bias"], np.asarray(tied["output_bias"]) + 2)


def test_gpt2s_inverse_layer_scale_is_folded_into_queries(copied):
  source = open_fixture("gpt2")
  scaled = directory.Directory(copied("gpt2", config=dict(scale_attn_by_inverse_layer_idx=True)))
  for part in ("kernel", "bias"):
    for layer in range(2):
      path = f"decoder/blocks/{layer}/self_attention/query/{part}"
      expected = np.asarray(source.params[path]) / (layer + 1)
      np.testing.assert_allclose(np.asarray(scaled.params[path]), expected, rtol=1e-6)
  batch = load_file(FIXTURES / "gpt2" / "expected.safetensors")
  logits = [np.asarray(outputs(x, batch)["logits"]) for x in (source, scaled)]
  assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_a_table_of_positions_that_is_no_sinusoid_is_refused(copied):
  name = "model.encoder.embed_positions.weight"
  assert name in load_file(FIXTURES / "pegasus" / "model.safetensors")
  folder = copied("pegasus", lambda tensors: tensors | {name: tensors[name] + 0.5})
  with pytest.raises(UserError, match=r"encoder\.embed_positions\.weight differs by 0\.5"):
    _ = directory.Directory(folder).params


def test_a_decoder_may_have_other_sizes_than_its_encoder(copied):
  def widen(tensors):
    return {
      name: np.concatenate([x, x], axis=-1 if name.endswith("fc2.weight") else 0)
      if re.search(r"decoder.*(fc1|fc2\.weight)", name)
      else x
      for name, x in tensors.items()
    }

  sizes = dict(decoder_ffn_dim=40, decoder_attention_heads=4)
  source = directory.Directory(copied("bart", widen, config=sizes))
  assert (source.model["mlp_dim"], source.model["decoder_mlp_dim"]) == (20, 40)
  assert (source.model["num_heads"], source.model["decoder_heads"]) == (2, 4)
  assert source.params["decoder/blocks/0/mlp/up/kernel"].shape == (8, 40)
  assert source.params["encoder/blocks/0/mlp/up/kernel"].shape == (8, 20)
  assert source.params["decoder/blocks/0/self_attention/query/kernel"].shape == (8, 4, 2)


@pytest.mark.parametrize("strict, which", [(False, "first"), (True, "none")])
def test_an_led_has_a_global_token_where_generate_has_none(strict, which):
  assert open_fixture("led").task(strict=strict)["global_attention"] == which
