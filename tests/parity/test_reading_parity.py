"""Live comparison with `transformers` (make parity): what is read means the same there as here."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest

from tests.helpers import FIXTURES
from tests.train.interop.helpers import add_tokens, build, outputs
from train import tasks
from train.interop import directory

torch = pytest.importorskip("torch", reason="`make parity` compares with torch and transformers")
transformers = pytest.importorskip("transformers", reason="`make parity` compares with them")

sys.path.insert(0, str(FIXTURES))

TEXTS = ["The lazy fox jumps.", "Is it the 3rd?", "He reads!"]
WRITERS = ("bart", "t5", "mt5", "marian", "pegasus", "mbart", "gpt2", "llama")
OTHER_WRITERS = ("umt5", "longt5", "led", "t5gemma", "mistral", "qwen2", "qwen3", "gemma", "gemma2")
OTHER_WRITERS += ("gemma3", "opt", "gpt_neox", "bert2bert", "roberta2roberta")


@pytest.fixture
def copied(tmp_path):
  """Returns a function that copies a fixture and changes fields of its JSON files."""

  def make(name, **files):
    folder = tmp_path / name
    shutil.copytree(FIXTURES / name, folder, dirs_exist_ok=True)
    for file, changes in files.items():
      path = folder / f"{file}.json"
      path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder

  return make


def compare(folder, texts=TEXTS):
  """Asserts that generations are equal token for token, and scores of beams."""
  source = directory.Directory(folder)
  task = tasks.make(source.task(strict=True))
  requests = task.requests([task.example(text) for text in texts])
  rows = [row["source"] for row in requests.read(range(len(texts)), range(len(texts)))]
  width = max(map(len, rows))
  ids = np.array([[*row, *[0] * (width - len(row))] for row in rows])
  mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows])
  batch = dict(source=ids, source_segments=mask, row=np.arange(len(ids))[:, None])
  batch["source_positions"] = np.tile(np.arange(width), (len(ids), 1))
  model, settings = build(source), task.decoding
  predictions = jax.jit(lambda batch: task.predict(model, batch, settings))(batch)
  first = task.tokenizer.roles.target_first if task.tokenizer.roles.force else ()
  name = source.config["architectures"][0]
  theirs = getattr(transformers, name).from_pretrained(folder).eval()
  for number, row in enumerate(rows):
    with torch.no_grad():
      out = theirs.generate(
        torch.tensor([list(row)]),
        attention_mask=torch.ones(1, len(row), dtype=torch.long),
        return_dict_in_generate=True,
        output_scores=True,
      )
    begin = 1 if theirs.config.is_encoder_decoder else len(row)
    for n, sequence in enumerate(out.sequences[:, begin:].tolist()):
      length = int(predictions["lengths"][number, n])
      ours = [*first, *predictions["tokens"][number, n, :length].tolist()]
      assert ours == sequence[: len(ours)], (number, n)
      ends = theirs.generation_config.eos_token_id
      ended = ours[-1] in (ends if isinstance(ends, list) else [ends])
      assert ended or len(sequence) == len(ours)
      assert set(sequence[len(ours) :]) <= {theirs.generation_config.pad_token_id, ours[-1]}
      if settings.beam > 1:
        score = float(predictions["scores"][number, n])
        np.testing.assert_allclose(score, float(out.sequences_scores[n]), rtol=1e-4, atol=1e-5)


SEARCHES = {
  "greedy": dict(max_new_tokens=20),
  "greedy limit": dict(max_new_tokens=3),
  "default": dict(),
  "beams": dict(num_beams=2, max_new_tokens=15, num_return_sequences=2),
  "beams limit": dict(num_beams=4, max_new_tokens=4, num_return_sequences=4),
  "early": dict(num_beams=4, max_new_tokens=15, early_stopping=True, length_penalty=0.3),
  "never": dict(num_beams=4, max_new_tokens=15, early_stopping="never", length_penalty=2.0),
  "negative": dict(num_beams=3, max_new_tokens=15, early_stopping="never", length_penalty=-0.5),
  "short": dict(num_beams=3, max_new_tokens=15, length_penalty=None, min_new_tokens=6),
  "no repeats": dict(num_beams=3, max_new_tokens=15, no_repeat_ngram_size=2),
  "penalty": dict(max_new_tokens=15, repetition_penalty=1.7),
  "penalty beams": dict(num_beams=2, max_new_tokens=12, repetition_penalty=1.3),
  "suppressed": dict(max_new_tokens=12, suppress_tokens=[7, 9], begin_suppress_tokens=[11, 12, 20]),
  "forced last": dict(num_beams=2, max_new_tokens=5, forced_eos_token_id=2),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("search", SEARCHES)
def test_strict_generation_is_that_of_transformers(name, search, copied):
  compare(copied(name, generation_config=SEARCHES[search]))


@pytest.mark.parametrize("name", OTHER_WRITERS)
@pytest.mark.parametrize("search", ["default", "beams", "penalty"])
def test_strict_generation_of_other_families_is_that_of_transformers(name, search, copied):
  compare(copied(name, generation_config=SEARCHES[search]))


@pytest.mark.parametrize("name", ["bart", "t5", "gpt2"])
@pytest.mark.parametrize("beams", [1, 3])
def test_each_of_several_ends_ends_an_output(name, beams, copied):
  """The ends are tokens that the plain search writes second, so that they matter."""
  plain = directory.Directory(copied(name, generation_config=dict(max_new_tokens=12)))
  vocabulary = plain.config["vocab_size"]
  folder = plain.path
  path = folder / "generation_config.json"
  content = json.loads(path.read_text())
  usual = content["eos_token_id"]
  for ends in ([usual, 5, 9, 17], [vocabulary // 2, vocabulary // 3, usual]):
    path.write_text(json.dumps(content | dict(eos_token_id=ends, num_beams=beams)))
    compare(folder)


@pytest.mark.parametrize("name", ["t5", "llama"])
@pytest.mark.parametrize("beams", [1, 3])
def test_banned_words_are_those_of_transformers(name, beams, copied):
  banned = [[9], [10, 11], [12, 13, 14], [20], [21, 20]]
  changes = dict(max_new_tokens=12, bad_words_ids=banned, num_beams=beams)
  compare(copied(name, generation_config=changes))


@pytest.mark.parametrize("name", ["bart", "t5", "mbart"])
def test_generation_config_wins_over_config(name, copied):
  changes = dict(eos_token_id=5, decoder_start_token_id=7, forced_bos_token_id=11, num_beams=2)
  others = dict(eos_token_id=6, decoder_start_token_id=8, forced_bos_token_id=12, num_beams=3)
  generation = changes | dict(max_new_tokens=12)
  compare(copied(name, generation_config=generation, config=others))


def test_options_may_stand_in_a_decoders_section(copied):
  folder = copied("bert2bert")
  (folder / "generation_config.json").unlink()
  path = folder / "config.json"
  config = json.loads(path.read_text()) | dict(eos_token_id=None, num_beams=2)
  options = dict(eos_token_id=3, max_length=12, no_repeat_ngram_size=2, num_beams=3)
  config["decoder"] |= options
  path.write_text(json.dumps(config))
  read = directory.Directory(folder).generation
  assert (read["beam"], read["max_len_extra"], read["no_repeat_ngram"]) == (2, 11, 2)
  compare(folder)


SIZES = dict(decoder_attention_heads=4, decoder_ffn_dim=12, encoder_ffn_dim=20)


@pytest.mark.parametrize("name", ["Bart", "MBart", "Marian", "Pegasus"])
def test_a_decoder_of_other_sizes_computes_the_same(name, tmp_path):
  make = pytest.importorskip("make")
  config = getattr(transformers, f"{name}Config")(
    vocab_size=60, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
    max_position_embeddings=30, pad_token_id=1, decoder_start_token_id=2, eos_token_id=2, **SIZES
  )  # fmt: skip
  suffix = "MTModel" if name == "Marian" else "ForConditionalGeneration"
  model = getattr(transformers, f"{name}{suffix}")(config).eval()
  with torch.inference_mode():
    make.fill(model, 0)
  model.save_pretrained(tmp_path)
  rng = np.random.default_rng(0)
  batch = {key: rng.integers(4, 60, (2, 7)) for key in ("input_ids", "decoder_input_ids")}
  batch["attention_mask"] = np.ones((2, 7), np.int64)
  with torch.no_grad():
    theirs = model(**{key: torch.tensor(value) for key, value in batch.items()}).logits.numpy()
  ours = outputs(directory.Directory(tmp_path), batch)["logits"]
  np.testing.assert_allclose(np.asarray(ours), theirs, atol=1e-4)


TEXT = "The lazy [E1] fox [e2] jumps[E1]over 24, Où? <extra_id_0> <mask> [MASK] de_DE <mask_2>."
CLASSES = {
  "bert_mlm": ("BertTokenizer", "BertTokenizerFast", dict(do_lower_case=False)),
  "electra_mlm": ("ElectraTokenizer", "BertTokenizer", dict(strip_accents=False)),
  "roberta_mlm": ("RobertaTokenizer", "RobertaTokenizerFast", dict(add_prefix_space=True)),
  "bart": ("BartTokenizer", "BartTokenizerFast", dict(add_prefix_space=True)),
  "gpt2": ("GPT2Tokenizer", "GPT2TokenizerFast", dict(add_prefix_space=True)),
  "llama": ("LlamaTokenizer", "LlamaTokenizerFast", dict(add_prefix_space=False)),
  "mistral": ("LlamaTokenizer", "LlamaTokenizerFast", dict(add_prefix_space=False)),
  "gemma": ("GemmaTokenizer", "GemmaTokenizerFast", dict(add_prefix_space=True)),
  "qwen2": ("Qwen2Tokenizer", "Qwen2TokenizerFast", {}),
  "gpt_neox": ("GPTNeoXTokenizer", "GPTNeoXTokenizerFast", dict(add_prefix_space=True)),
  "t5": ("T5Tokenizer", "T5TokenizerFast", dict(add_prefix_space=False)),
  "pegasus": ("PegasusTokenizer", "PegasusTokenizerFast", {}),
  "mbart": ("MBartTokenizer", "MBartTokenizerFast", {}),
}


@pytest.mark.parametrize("name", CLASSES)
def test_texts_have_the_ids_that_the_named_class_gives(name, copied):
  *classes, settings = CLASSES[name]
  rows = directory.Directory(FIXTURES / name).config["vocab_size"] + 20
  for cls in (*classes, "PreTrainedTokenizerFast"):
    for bos in ({}, dict(add_bos_token=True), dict(add_bos_token=False)):
      for changes in ({}, settings):
        config = dict(tokenizer_class=cls) | changes | bos
        folder = copied(name, tokenizer_config=config, config=dict(vocab_size=rows))
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(add_tokens(json.loads(path.read_text()))))
        ours = directory.Directory(folder).tokenizer
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        for text in (TEXT, "The fox", " the", "fox [E1]"):
          ids = theirs(text, add_special_tokens=False).input_ids
          assert ours.encode_batch([text]) == [ids], config
          assert ours.decode(ids) == theirs.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
          )
        framed = theirs("The fox").input_ids
        both = ours.roles.source_first if name in ("t5", "pegasus", "mbart", "bart") else ()
        first = [*both] or [*ours.roles.first]
        assert framed[: len(first)] == first
        assert framed[len(first)] == ours.encode_batch(["The fox"])[0][0], config
