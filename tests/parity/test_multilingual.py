"""Translators of several languages give the ids and the outputs of `transformers` (make parity)."""

import json
import shutil

import numpy as np
import pytest

from tests.helpers import FIXTURES
from train import export, inference
from train.data import languages
from train.interop import directory

torch = pytest.importorskip("torch", reason="`make parity` compares with torch and transformers")
transformers = pytest.importorskip("transformers", reason="`make parity` compares with them")

NAMES = {  # fixture -> directions
  "nllb": [("eng_Latn", "deu_Latn"), ("fra_Latn", "eng_Latn"), ("zho_Hans", "fra_Latn")],
  "m2m_100": [("en", "de"), ("fr", "en"), ("zh", "fr")],
  "mbart50": [("en_XX", "de_DE"), ("fr_XX", "en_XX"), ("zh_CN", "af_ZA")],
  "mbart": [("en_XX", "ro_RO"), ("fr_XX", "en_XX"), ("zh_CN", "fr_XX")],
}
TEXTS = ("The lazy fox jumps.", "Is it the 3rd?", "Où est 北京?", "  two  blanks, a\ttab", "")
LIMIT = 12


def framed(tokenizer, text, source, target):
  roles = languages.frame(tokenizer, source, target)
  return roles.source(tokenizer.encode_batch([text])[0])


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_framed_alike(name):
  ours = directory.Directory(FIXTURES / name).tokenizer
  theirs = transformers.AutoTokenizer.from_pretrained(FIXTURES / name)
  for source, target in NAMES[name]:
    theirs.src_lang = source
    for text in TEXTS:
      assert framed(ours, text, source, target) == theirs(text).input_ids, text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("beams", [1, 3])
def test_each_direction_generates_alike(name, beams):
  theirs = transformers.AutoTokenizer.from_pretrained(FIXTURES / name)
  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(FIXTURES / name).eval()
  settings = dict(beam=beams, max_len_ratio=0.0, generation="transformers")
  first = 0 if name == "mbart" else 1  # tokens that are forced, which are no output here
  pipeline = inference.load(f"hf:{FIXTURES / name}", max_len_extra=LIMIT - first, **settings)
  ours = pipeline.arrays(
    [
      dict(source=text, source_lang=source, target_lang=target)
      for text, (source, target) in zip(TEXTS, NAMES[name])
    ]
  )
  for row, (text, (source, target)) in enumerate(zip(TEXTS, NAMES[name])):
    theirs.src_lang = source
    batch = theirs(text, return_tensors="pt")
    token = languages.frame(pipeline.run.task.tokenizer, target_lang=target)
    key = "decoder_start_token_id" if name == "mbart" else "forced_bos_token_id"
    forced = {key: languages.prompt(token)[-1]}
    out = model.generate(**batch, **forced, num_beams=beams, do_sample=False, max_new_tokens=LIMIT)
    expected = out[0, 1 + first :].tolist()
    length = int(ours["lengths"][row, 0])
    tokens = ours["tokens"][row, 0, :length].tolist()
    assert tokens == [i for i in expected if i != 1], (source, target)


def settings_of(folder, **changes):
  path = folder / "tokenizer_config.json"
  settings = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({key: x for key, x in settings.items() if x != "gone"}))


@pytest.mark.parametrize(
  "name, changes",
  [
    ("nllb", dict(legacy_behaviour=True)),
    ("nllb", dict(src_lang=None)),
    ("nllb", dict(src_lang="gone", tgt_lang="gone")),
    ("nllb", dict(src_lang="fra_Latn")),
    ("nllb", dict(tokenizer_class="PreTrainedTokenizerFast")),
    ("m2m_100", dict(src_lang="gone")),
    ("m2m_100", dict(src_lang="zh", tgt_lang="fr")),
    ("mbart50", dict(src_lang="gone")),
    ("mbart", dict(src_lang="de_DE")),
  ],
)
def test_the_frame_follows_tokenizer_config(name, changes, tmp_path):
  folder = tmp_path / name
  shutil.copytree(FIXTURES / name, folder)
  settings_of(folder, **changes)
  ours = directory.Directory(folder).tokenizer
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  for text in TEXTS:
    ids = ours.encode_batch([text])[0]
    assert ours.roles.source(ids) == theirs(text).input_ids, text


@pytest.mark.parametrize("codes", ["m2m100", "wmt21"])
def test_m2m_numbers_its_languages_behind_vocab_json(codes, tmp_path):
  """Some pieces of the SentencePiece model have no id, and are unknown."""
  folder = tmp_path / "m2m"
  shutil.copytree(FIXTURES / "m2m_100", folder)
  vocab = json.loads((folder / "vocab.json").read_text())
  names = [name for name in vocab if name not in ("he", "▁the", "o")]
  (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
  settings_of(folder, language_codes=codes)
  ours = directory.Directory(folder).tokenizer
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  assert ours.languages == theirs.lang_code_to_id
  for text in ("The lazy fox", "the one", "Où est 北京? o", *TEXTS):
    assert framed(ours, text, "en", "de") == theirs(text).input_ids, text
    known = [i for i in theirs(text).input_ids if 3 < i < len(names)]
    assert ours.decode(known) == theirs.decode(known, skip_special_tokens=True)
  assert ours.vocab_size == len(names) + len(theirs.lang_code_to_id)
  assert np.all(np.asarray(ours.encode_batch(["the one o"])[0]) < ours.vocab_size)


@pytest.mark.parametrize("name", ["m2m_100", "nllb", "mbart50"])
def test_the_tokenizer_of_an_export_places_other_languages(name, tmp_path):
  source = f"hf:{FIXTURES / name}"
  export.as_hf(source, "latest", tmp_path / "out")
  before, after = (
    transformers.AutoTokenizer.from_pretrained(folder)
    for folder in (FIXTURES / name, tmp_path / "out")
  )
  given = NAMES[name][1][0]
  assert given != before.src_lang
  for tokenizer in (before, after):
    tokenizer.src_lang = given
  assert after("The lazy fox")["input_ids"] == before("The lazy fox")["input_ids"]
