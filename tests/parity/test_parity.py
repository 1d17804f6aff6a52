"""Live comparison with `transformers` (make parity): variations in, our own runs out."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import FIXTURES, MINILM, train_config
from tests.train.interop.helpers import CHOICES, build, outputs
from train import export, inference, predict
from train.common.errors import UserError
from train.interop import directory

torch = pytest.importorskip("torch", reason="`make parity` compares with torch and transformers")
transformers = pytest.importorskip("transformers", reason="`make parity` compares with them")

sys.path.insert(0, str(FIXTURES))
make, variations = pytest.importorskip("make"), pytest.importorskip("variations")

# RoBERTa's positions start behind the id of padding.
REFUSED = ["m2m_100/untied", "roberta/pad=0"]
VARIATIONS = {variation.name: variation for variation in variations.variations()}


LONG = ("longformer", "led", "longt5")


def inputs(model, rows=3, length=9):
  """Returns a batch of random ids whose last row is shorter."""
  config, kind = model.config, type(model).__name__
  length = 25 if config.model_type in LONG else length  # beyond the windows
  rng, pad = np.random.default_rng(0), config.pad_token_id or 0
  if "MultipleChoice" in (config.architectures or [""])[0]:
    rows = 2 * CHOICES
  ids = rng.integers(5, config.vocab_size - 2, (rows, length))
  mask = np.ones_like(ids)
  # with a window, transformers' decoders compute NaN for padding that is further away from all
  # tokens
  windowed = getattr(config, "sliding_window", None) and config.model_type != "modernbert"
  if config.pad_token_id is not None and not windowed and config.model_type != "t5gemma":
    ids[-1, length - 3 :], mask[-1, length - 3 :] = pad, 0
  if "Classification" in kind or "Answering" in kind:  # a decoder's state of eos gets the labels
    ids[np.arange(rows), mask.sum(1) - 1] = config.eos_token_id or 5
  if kind == "LongformerForQuestionAnswering":
    ids[:, [4, 5]] = config.sep_token_id
  batch = dict(input_ids=ids, attention_mask=mask)
  if getattr(config, "type_vocab_size", 0) > 1 and config.model_type != "esm":
    batch["token_type_ids"] = np.minimum(np.arange(length) // 5, 1)[None].repeat(rows, 0)
  if config.model_type == "led":
    batch["global_attention_mask"] = (np.arange(length)[None] < 1).repeat(rows, 0).astype(int)
  if config.is_encoder_decoder and kind.endswith(("Generation", "MTModel", "EncoderDecoderModel")):
    batch["decoder_input_ids"] = rng.integers(5, config.vocab_size - 2, (rows, 7))
  return batch


def attempt(source, batch):
  """Returns what is computed here from a directory's model, and the error if it is refused."""
  try:
    return outputs(source, batch), ""
  except UserError as error:
    return None, str(error)


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_variation_gives_what_transformers_gives_or_is_refused_by_name(name, tmp_path):
  variation = VARIATIONS[name]
  model = variation.model(variation.config).eval()
  if variation.untied:
    make.untie(model)
  with torch.inference_mode():
    make.fill(model, 0)
  model.save_pretrained(tmp_path)
  source, batch = directory.Directory(tmp_path), inputs(model)
  actual, refused = attempt(source, {key: value.astype(np.int32) for key, value in batch.items()})
  if refused:
    assert variation.note or name in REFUSED, refused
    assert "config.json: " in refused or "must be a copy of" in refused
    return
  with torch.no_grad():
    tensors = {key: torch.tensor(value) for key, value in batch.items()}
    if source.kind == "choice":
      tensors = {key: value.reshape(-1, CHOICES, value.shape[-1]) for key, value in tensors.items()}
    single, double = model(**tensors), model.double()(**tensors)
  assert actual.keys() & double.keys()
  for key in actual.keys() & double.keys():
    expected = double[key].numpy()
    seen = slice(None)
    if expected.shape[:2] == batch["input_ids"].shape and "decoder_input_ids" not in batch:
      seen = batch["attention_mask"].astype(bool)
    # against float64, our error may be three times that of torch in float32, and a rounding
    theirs = float(np.abs(single[key].numpy()[seen] - expected[seen]).max())
    ours = float(np.abs(np.asarray(actual[key])[seen] - expected[seen]).max())
    assert ours <= 3 * theirs + 1e-5 * float(np.abs(expected).max()), (key, ours, theirs)


OWN = {  # config -> the class that loads its export
  "mlm.py:small,data={folder}/prose": "AutoModelForMaskedLM",
  "classify.py:small,data={folder}": "AutoModelForSequenceClassification",
  "tag.py:small,suffix=.conll,data={folder}": "AutoModelForTokenClassification",
  "text2text.py:small,data={folder}": "AutoModelForSeq2SeqLM",
}


@pytest.mark.parametrize("text", OWN)
def test_our_runs_give_there_what_they_give_here(text, corpus, tmp_path):
  pegasus = {"model.positions": "sinusoidal", "model.embedding_norm": False}
  changes = pegasus if "text2text" in text else {}
  train_config(text, corpus, tmp_path / "run", **changes)
  export.as_hf(tmp_path / "run", "latest", tmp_path / "out")
  model = getattr(transformers, OWN[text]).from_pretrained(tmp_path / "out").eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  run = inference.load_run(tmp_path / "run", "latest")
  ours = nnx.merge(run.graph, run.params)
  lines = ["the dog runs in the garden .", "a cat"]
  batch = tokenizer(lines, padding=True, return_tensors="pt", return_token_type_ids=False)
  ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
  if model.config.is_encoder_decoder:
    targets = np.array([[1, 7, 8, 9], [1, 9, 5, 6]])
    expected = model(**batch, decoder_input_ids=torch.tensor(targets)).logits
    memory = ours.encode(ids, mask)
    hidden = ours.decode(jnp.asarray(targets), memory, mask, np.ones_like(targets))
    actual, seen = ours.logits(hidden), np.ones_like(targets, bool)
    first = run.task.tokenizer.roles.source_first
  else:
    expected = model(**batch).logits
    hidden = ours.encode(ids, mask)
    first, seen = run.task.tokenizer.roles.first, mask.astype(bool)
    actual = ours.logits(ours.head(hidden)) if "mlm" in text else ours.head(hidden, mask)
    if "classify" in text:
      actual, seen = actual[:, 0], slice(None)
  eos = run.task.tokenizer.roles.eos
  for line, row, kept in zip(lines, ids, mask.astype(bool)):
    assert [*first, *run.task.tokenizer.encode_batch([line])[0], eos] == row[kept].tolist()
  np.testing.assert_allclose(np.asarray(actual)[seen], expected.detach().numpy()[seen], atol=1e-5)


def test_an_exported_translator_is_served_by_ctranslate2(corpus, tmp_path):
  ctranslate2 = pytest.importorskip("ctranslate2")
  changes = {"model.positions": "sinusoidal", "model.embedding_norm": False}
  train_config("text2text.py:small,data={folder}", corpus, tmp_path / "run", **changes)
  export.as_ctranslate2(tmp_path / "run", "latest", tmp_path / "ct2")
  pipeline = predict.load(tmp_path / "run", beam=1)
  tokenizer = pipeline.run.task.tokenizer
  translator = ctranslate2.Translator(str(tmp_path / "ct2"), device="cpu")
  for example in [pipeline.run.task.examples("test")[i]["source"] for i in range(4)]:
    (ids,) = tokenizer.encode_batch([example])
    names = [tokenizer._inner.id_to_token(i) for i in [*ids, tokenizer.roles.eos]]
    # ours leaves room for eos among its 8
    results = translator.translate_batch([names], beam_size=1, max_decoding_length=7)
    prediction = [tokenizer._inner.token_to_id(piece) for piece in results[0].hypotheses[0]]
    assert tokenizer.decode(prediction) == pipeline([example])[0]["text"]


def lines(count):
  """Returns random texts of words, accents, Chinese, emoji, punctuation and blanks."""
  rng = np.random.default_rng(0)
  parts = ["the", "dog", "Ärger", "naïve", "café", "façade", "北京", "中国", "東京", "한국", "😀"]
  parts += [
    "👩\u200d👩\u200d👧",
    "don't",
    "3.14",
    "--",
    "U.S.",
    "e\u0301",
    "ﬁ",
    "½",
    "\u00a0",
    "\t",
    "ẞ",
  ]
  return [" ".join(rng.choice(parts, rng.integers(1, 12))) for _ in range(count)]


@pytest.mark.skipif(not MINILM.exists(), reason="make data fetches data/minilm")
def test_a_real_tokenizer_gives_the_ids_that_transformers_gives():
  ours = directory.Directory(MINILM).tokenizer
  theirs = transformers.AutoTokenizer.from_pretrained(MINILM)
  texts = lines(1000)
  assert ours.encode_batch(texts) == theirs(texts, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
  "name",
  [
    "t5gemma/windows",
    "gemma3/layer_types",
    "gpt_neox/pct=0.5",
    "mistral/base",
    "opt/post",
    "bert2bert/layers=3+1",
    "roberta2roberta/untied",
  ],
)
def test_a_variation_generates_what_transformers_generates(name, tmp_path):
  """Greedily and by our cache, 12 tokens of random weights, which seldom end of themselves."""
  variation = VARIATIONS[name]
  model = variation.model(variation.config).eval()
  with torch.inference_mode():
    make.fill(model, 1)
  model.save_pretrained(tmp_path)
  ours, both = build(directory.Directory(tmp_path)), model.config.is_encoder_decoder
  ids = np.random.default_rng(1).integers(5, 48, (3, 9)).astype(np.int32)
  options = dict(max_new_tokens=12, min_new_tokens=12, do_sample=False)
  never = sorted({model.config.eos_token_id, model.config.pad_token_id, 2} - {None})
  mask = np.ones_like(ids)
  with torch.inference_mode():
    expected = model.generate(
      input_ids=torch.tensor(ids).long(),
      attention_mask=torch.tensor(mask).long(),
      suppress_tokens=never,
      **options,
    ).numpy()[:, 1 if both else ids.shape[1] :]
  if both:
    cache = ours.init_cache(3, 14, ours.encode(ids, mask), mask)
    token = jnp.full(3, model.config.decoder_start_token_id)
  else:
    cache, token = ours.prefill(ids, jnp.full(3, 9), ours.init_cache(3, 24))
  step, tokens = nnx.jit(lambda model, token, cache: model.decode_step(token, cache)), []
  for _ in range(12):
    logits, cache = step(ours, token[:, None], cache)
    token = logits[:, 0].at[:, jnp.array(never)].set(-jnp.inf).argmax(-1)
    tokens.append(np.asarray(token))
  np.testing.assert_array_equal(np.stack(tokens, 1), expected)
