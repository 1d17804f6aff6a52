"""Tokenizers of Hugging Face directories give the ids that another implementation gives."""

import json
import random
import re

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tests.helpers import MINILM
from train.common.errors import UserError
from train.data import languages
from train.data.tokenizer import Tokenizer
from train.data.tokenizer_training import train_tokenizer
from train.interop import spm, tokenizers_in, tokenizers_out

TEXTS = [
  "the cat sat on the mat .",
  "A dog and a cat; the dog ran, didn't it?",
  "Zwölf Boxkämpfer jagen Viktor über den großen Sylter Deich",
  "Le café est très bon, naïve façade",
  "日本の猫がいる。 你好，世界！",
] * 4
LINES = [
  *TEXTS[:5],
  "",
  "   ",
  "x",
  "  double  blanks ",
  "tab\tand\nline",
  "emoji 🦊🎉👩‍👩‍👧 here",
  "Cafe\u0301 ﬁ ½ Ⅳ ＡＢＣ",
  "unseen щ ж Ω ≈",
  "no\u00a0break\u3000ideographic",
  "12,345.67% -- (x) [y] <z>",
]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def directory(path, config, **content):
  """Writes a directory of files, a dict as JSON, and returns its tokenizer."""
  path.mkdir(exist_ok=True)
  for name, what in (content | {"config.json": config}).items():
    what = json.dumps(what) if isinstance(what, (dict, list)) else what
    (path / name).write_bytes(what if isinstance(what, bytes) else what.encode())
  return tokenizers_in.read(path, config)


# WordPiece


WORDS = "the cat ##s sat , un ##aff ##able cafe café Café 日"
PIECES = ["[PAD]", "x", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
BERT = dict(model_type="bert", vocab_size=len(PIECES) + 2, type_vocab_size=2)  # a padded table


@pytest.mark.parametrize(
  "settings, expected",
  [
    ({}, ["the", "cat", "##s", ",", "un", "##aff", "##able", "cafe", "日", "日"]),
    (
      dict(do_lower_case=False),
      ["[UNK]", "cat", "##s", ",", "un", "##aff", "##able", "Café", "日", "日"],
    ),
    (
      dict(strip_accents=False),
      ["the", "cat", "##s", ",", "un", "##aff", "##able", "café", "日", "日"],
    ),
    (
      dict(tokenize_chinese_chars=False),
      ["the", "cat", "##s", ",", "un", "##aff", "##able", "cafe", "[UNK]"],
    ),
  ],
)
def test_a_wordpiece_vocabulary_by_hand(settings, expected, tmp_path):
  files = {"vocab.txt": "\n".join(PIECES) + "\n", "tokenizer_config.json": settings}
  one = directory(tmp_path / "bert", BERT, **files)
  (ids,) = one.encode_batch(["The cats, unaffable Café 日日"])
  assert [PIECES[i] for i in ids] == expected
  assert one.roles.first == (3,)
  assert one.roles.between == (one.roles.eos,) == (4,)
  assert (one.roles.pad, one.roles.unk, one.roles.mask, one.roles.types) == (0, 2, 5, True)
  assert one.decode(one.encode_batch(["the cats sat"])[0]) == "the cats sat"


@pytest.mark.parametrize("lowercase", [True, False])
def test_vocab_txt_is_read_as_the_librarys_bert(lowercase, tmp_path):
  theirs = tokenizers.BertWordPieceTokenizer(lowercase=lowercase)
  theirs.train_from_iterator(TEXTS, vocab_size=200, show_progress=False)
  theirs.save_model(str(tmp_path))
  theirs = tokenizers.BertWordPieceTokenizer(str(tmp_path / "vocab.txt"), lowercase=lowercase)
  files = {"vocab.txt": (tmp_path / "vocab.txt").read_bytes()}
  files |= {"tokenizer_config.json": dict(do_lower_case=lowercase)}
  one = directory(tmp_path / "bert", BERT | dict(vocab_size=300), **files)
  roles = one.roles
  for line in LINES:
    (ids,) = one.encode_batch([line])
    assert [*roles.first, *ids, roles.eos] == theirs.encode(line).ids
  a, b = one.encode_batch(LINES[:2])
  pair = theirs.encode(*LINES[:2])
  assert [*roles.first, *a, *roles.between, *b, roles.eos] == pair.ids
  other = directory(
    tmp_path / "json", BERT | dict(vocab_size=300), **{"tokenizer.json": theirs.to_str()}
  )
  assert other.roles == roles
  assert other.encode_batch(LINES) == one.encode_batch(LINES)
  assert not directory(
    tmp_path / "distil", BERT | dict(vocab_size=300, model_type="distilbert"), **files
  ).roles.types


@pytest.mark.skipif(not MINILM.exists(), reason="make data fetches data/minilm")
def test_berts_own_vocabulary_is_the_same_from_both_files(tmp_path):
  names = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "config.json")
  content = {name: (MINILM / name).read_bytes() for name in names}
  config = json.loads(content.pop("config.json"))
  words, whole = content.pop("tokenizer.json"), None
  whole = directory(tmp_path / "json", config, **{"tokenizer.json": words})
  one = directory(tmp_path / "txt", config, **content)
  assert whole.roles == one.roles
  assert whole.encode_batch(LINES) == one.encode_batch(LINES)
  assert one.encode_marked("the [MASK] sat") == [1996, 103, 2938]


# Byte-level BPE


def byte_level(specials, tail=()):
  """Returns vocab.json and merges.txt, and the tokenizer of the library that they are made from."""
  theirs = tokenizers.Tokenizer(models.BPE())
  theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  theirs.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=400, special_tokens=[*specials], initial_alphabet=BYTES, show_progress=False
  )
  theirs.train_from_iterator(TEXTS, trainer)
  theirs.add_special_tokens([*tail])
  model = json.loads(theirs.to_str())["model"]
  vocab = model["vocab"] | {name: theirs.token_to_id(name) for name in tail}
  merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
  return theirs, {"vocab.json": vocab, "merges.txt": "#version: 0.2\n" + merges}


def test_merges_are_read_as_the_librarys_gpt2(tmp_path):
  theirs, files = byte_level((), ["<|endoftext|>"])
  size = len(files["vocab.json"])
  one = directory(tmp_path / "gpt2", dict(model_type="gpt2", vocab_size=size), **files)
  assert one.encode_batch(LINES) == [theirs.encode(line).ids for line in LINES]
  assert [one.decode(ids) for ids in one.encode_batch(LINES)] == LINES
  roles = one.roles
  assert roles.pad == roles.eos == roles.start == size - 1
  assert (roles.first, roles.mask, roles.unk) == ((), None, None)
  blank = files | {"tokenizer_config.json": dict(add_prefix_space=True)}
  other = directory(tmp_path / "blank", dict(model_type="gpt2", vocab_size=size), **blank)
  assert other.encode_batch(LINES[:5]) == [theirs.encode(" " + line).ids for line in LINES[:5]]
  assert one.encode_words(["the", "cat"]) == other.encode_words(["the", "cat"])


def test_roberta_and_bart_frame_texts_by_their_own_tokens(tmp_path):
  _, files = byte_level(["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"])
  config = dict(model_type="roberta", vocab_size=len(files["vocab.json"]))
  one = directory(tmp_path / "roberta", config, **files)
  theirs = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
  inner = one.copy_inner()
  inner.post_processor = theirs
  (a, b), roles = one.encode_batch(LINES[:2]), one.roles
  assert [*roles.first, *a, roles.eos] == inner.encode(LINES[0]).ids
  pair = inner.encode(*LINES[:2]).ids
  # the library's own trims offsets, and it puts nothing between the texts of a pair
  assert [*roles.first, *a, *roles.between, *b, roles.eos] == pair
  assert one.encode_marked("the <mask> sat") == [
    *one.encode_batch(["the"])[0],
    roles.mask,
    *one.encode_batch([" sat"])[0],
  ]
  config |= dict(model_type="bart", is_encoder_decoder=True, decoder_start_token_id=2)
  roles = directory(tmp_path / "bart", config, **files).roles
  assert (roles.source_first, roles.target_first, roles.start, roles.eos) == ((0,), (0,), 2, 2)


def test_proteins_are_split_into_letters(tmp_path):
  letters = ["<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "V", "<null_1>", "<mask>"]
  config = dict(model_type="esm", vocab_size=10)
  one = directory(tmp_path / "esm", config, **{"vocab.txt": "\n".join(letters)})
  assert one.encode_batch(["LAG VA", "LxyA", "x L"]) == [[4, 5, 6, 7, 5], [4, 3, 5], [3, 4]]
  assert one.encode_marked("L<mask>A") == [4, 9, 5]
  assert (one.roles.first, one.roles.eos, one.roles.pad, one.roles.mask) == ((0,), 2, 1, 9)


# SentencePiece


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A function from options to the file of a model and SentencePiece's own reading of it."""
  sentencepiece = pytest.importorskip("sentencepiece")
  folder = tmp_path_factory.mktemp("spm")

  def of(name, texts=TEXTS, **options):
    (folder / "text").write_text("\n".join(texts))
    path, size = folder / f"{name}.model", options.pop("vocab_size", 150)
    if not path.exists():
      sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / name),
        vocab_size=size,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
      )
    return path, sentencepiece.SentencePieceProcessor(model_file=str(path))

  return of


PLAIN = dict(normalization_rule_name="identity", remove_extra_whitespaces=False)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize(
  "name, options", [("nfkc", {}), ("plain", PLAIN), ("bare", PLAIN | dict(add_dummy_prefix=False))]
)
@pytest.mark.parametrize("fallback", [False, True])
def test_a_sentencepiece_model_is_split_as_by_itself(kind, name, options, fallback, trained):
  size = 420 if fallback else 150
  path, theirs = trained(
    f"{kind}{name}{fallback}", model_type=kind, vocab_size=size, byte_fallback=fallback, **options
  )
  ours = spm.convert(spm.load(path))
  for line in LINES:
    ids = ours.encode(line).ids
    assert ids == theirs.encode(line), line
    if theirs.unk_id() not in ids:  # which they show as something else
      assert ours.decode(ids) == theirs.decode(ids)


SYMBOLS = dict(
  names=["<x>", "<xy>", "<sep>"], digits=list("0123456789"), words=["the", "cat"], parts=["ca"]
)
SYMBOLS |= dict(blanks=["New York", "a b"], edges=[" x", "y "])


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("symbols", SYMBOLS)
def test_symbols_of_a_user_are_one_piece(kind, symbols, trained):
  given = SYMBOLS[symbols]
  for name, options in (("nfkc", {}), ("plain", PLAIN)):
    path, theirs = trained(
      f"own{kind}{symbols}{name}", model_type=kind, user_defined_symbols=given, **options
    )
    ours = spm.convert(spm.load(path))
    draw = random.Random(0)
    parts = [*given, *given, "the", "cat", " ", "  ", "New York", "a b", "12", "x", ".", "A", "<"]
    texts = ["".join(draw.choices(parts, k=draw.randint(1, 9))) for _ in range(200)]
    for line in ("the <x> cat", "a<xy>b<x>", "<x>", "the cat", *texts):
      assert ours.encode(line).ids == theirs.encode(line), line


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(treat_whitespace_as_suffix=True), "treat_whitespace_as_suffix"),
    (dict(user_defined_symbols=["\uff21"]), "user_defined_symbols has '\uff21'"),
    (dict(user_defined_symbols=["\u2581the cat"]), "user_defined_symbols has '\u2581the cat'"),
  ],
)
def test_settings_that_would_give_other_pieces_are_refused(options, words, trained):
  path, _ = trained(f"refused{words[-4]}", **options)
  with pytest.raises(UserError, match=words):
    spm.load(path)


def t5(tmp_path, trained, **settings):
  path, theirs = trained("t5", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
  config = dict(model_type="t5", vocab_size=400, is_encoder_decoder=True, decoder_start_token_id=0)
  files = {"spiece.model": path.read_bytes(), "tokenizer_config.json": settings}
  return directory(tmp_path / "t5", config, **files), theirs


def test_t5_has_its_sentinels_behind_the_pieces_backwards(tmp_path, trained):
  one, theirs = t5(tmp_path, trained)
  size = theirs.get_piece_size()
  assert one.vocab_size == size + 100
  assert one.sentinels == tuple(size + 99 - number for number in range(100))
  assert one.encode_batch(LINES) == [theirs.encode(line) for line in LINES]
  the, sat = theirs.encode("the"), theirs.encode("sat")
  for text in ("the <extra_id_0> sat <extra_id_1>", "the <extra_0> sat <extra_1>"):
    assert one.encode_marked(text) == [*the, size + 99, *sat, size + 98]
  assert one.encode_batch(["the <extra_id_0> sat"]) == [[*the, size + 99, *sat]]
  assert (one.roles.pad, one.roles.eos, one.roles.start, one.roles.unk) == (0, 1, 0, 2)
  assert one.roles.source_first == one.roles.target_first == ()
  few, _ = t5(tmp_path, trained, extra_ids=3)
  assert few.sentinels == (size + 2, size + 1, size)


def test_mbart_numbers_pieces_one_later_and_puts_languages_first(tmp_path, trained):
  path, theirs = trained("mbart")
  size = theirs.get_piece_size()
  config = dict(
    model_type="mbart", vocab_size=size + 60, is_encoder_decoder=True, decoder_start_token_id=2
  )
  settings = dict(tokenizer_class="MBart50Tokenizer", src_lang="de_DE", tgt_lang="en_XX")
  files = {"sentencepiece.bpe.model": path.read_bytes()}
  one = directory(tmp_path / "mbart", config, **files, **{"tokenizer_config.json": settings})
  expected = [[i + 1 if i else 3 for i in theirs.encode(line)] for line in LINES]
  assert one.encode_batch(LINES) == expected
  assert one.vocab_size == size + 1 + 52 + 1
  # ar_AR, cs_CZ, de_DE, en_XX are the first of the languages
  assert (one.roles.source_first, one.roles.target_first) == ((size + 3,), (size + 4,))
  assert (one.roles.start, one.roles.eos, one.roles.mask) == (2, 2, size + 53)
  forced = directory(tmp_path / "mbart", config | dict(forced_bos_token_id=size + 9))
  assert forced.roles.target_first == (size + 9,)
  usual = dict(settings, src_lang=None)
  usual = directory(tmp_path / "mbart", config, **{"tokenizer_config.json": usual})
  assert usual.roles.source_first == (size + 4,)  # en_XX
  free = dict(settings, tgt_lang=None)
  free = directory(tmp_path / "mbart", config, **{"tokenizer_config.json": free})
  assert free.roles.target_first == ()
  assert languages.frame(free, target_lang="cs_CZ").target_first == (size + 2,)
  with pytest.raises(UserError, match="52 languages, and target_lang is not given"):
    languages.frames(free, [dict(source="the cat")])
  # an mBART-cc25's, by the class it names, whose decoder starts with a language
  config.pop("decoder_start_token_id")
  cc25 = {"tokenizer_config.json": dict(src_lang="de_DE", tgt_lang="cs_CZ")}
  cc25 = directory(tmp_path / "mbart", config, **cc25)
  assert (cc25.roles.source_last, cc25.roles.start) == ((size + 3,), size + 2)
  cc25 = {"tokenizer_config.json": dict(src_lang="de_DE")}
  cc25 = directory(tmp_path / "mbart", config, **cc25)
  assert languages.lacks(cc25.roles, "target_lang")
  settings = {"tokenizer_config.json": dict(settings, src_lang="deu_Latn")}
  with pytest.raises(UserError, match=r"tokenizer_config.json: src_lang is 'deu_Latn'"):
    directory(tmp_path / "mbart", config, **settings)


def test_pegasus_has_103_tokens_between_eos_and_unk(tmp_path, trained):
  path, theirs = trained("t5", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
  config = dict(model_type="pegasus", vocab_size=400, decoder_start_token_id=0)
  one = directory(tmp_path / "pegasus", config, **{"spiece.model": path.read_bytes()})
  assert one.encode_batch(LINES) == [[i + 103 for i in theirs.encode(line)] for line in LINES]
  assert one.roles.unk == 105
  assert (one.roles.pad, one.roles.eos, one.roles.mask) == (0, 1, 3)


def test_llama_puts_its_first_token_in_front_unless_told_not_to(tmp_path, trained):
  path, theirs = trained("llama", model_type="bpe", byte_fallback=True, vocab_size=420, **PLAIN)
  config = dict(model_type="llama", vocab_size=theirs.get_piece_size())
  files = {"tokenizer.model": path.read_bytes()}
  one = directory(tmp_path / "llama", config, **files)
  assert one.encode_batch(LINES) == [theirs.encode(line) for line in LINES]
  assert (one.roles.first, one.roles.eos, one.roles.start) == ((1,), 2, 1)
  settings = {"tokenizer_config.json": dict(add_bos_token=False)}
  assert directory(tmp_path / "llama", config, **settings).roles.first == ()


def marian(tmp_path, trained, **changes):
  """Writes two models, and a vocab.json that lacks some pieces of each and has a language."""
  (source, ours), (target, theirs) = trained("source"), trained("target", TEXTS[:2] * 9)
  pieces = [{p.id_to_piece(i): None for i in range(3, p.get_piece_size())} for p in (ours, theirs)]
  kept = [x for x in {**pieces[0], **pieces[1]} if x not in ("▁cat", "▁the", ".")]
  names = ["</s>", "<unk>", ">>fra<<", *kept, "<pad>"]
  vocab = {name: i for i, name in enumerate(names)}
  config = dict(model_type="marian", vocab_size=len(vocab), decoder_start_token_id=len(vocab) - 1)
  files = {
    "source.spm": source.read_bytes(),
    "target.spm": target.read_bytes(),
    "vocab.json": vocab,
  }
  return directory(tmp_path / "marian", config, **files | changes), vocab, ours, theirs


def test_marian_numbers_the_pieces_of_two_models_by_one_vocabulary(tmp_path, trained):
  one, vocab, source, target = marian(tmp_path, trained)
  for encode, theirs in ((one.encode_batch, source), (one.encode_targets, target)):
    compared = 0
    for line in LINES:
      pieces = theirs.encode(line, out_type=str)
      # several unknown characters in a row are one unknown token there, and several here
      if all(len(x) == 1 for x in pieces if theirs.piece_to_id(x) == theirs.unk_id()):
        assert encode([line]) == [[vocab.get(x, 1) for x in pieces]]
        compared += 1
    assert compared > 5
  assert 1 in one.encode_batch(["the cat"])[0]  # pieces, and not in vocab.json
  assert one.vocab_size == len(vocab)
  assert one.words.max() < len(vocab) - 1
  for text in (">>fra<< a dog", ">>fra<<a dog"):
    assert one.encode_sources([text]) == [[2, *one.encode_batch(["a dog"])[0]]]
  assert one.encode_sources([">>deu<<a dog"]) == one.encode_batch([">>deu<<a dog"])
  assert one.languages == {"fra": 2}
  framed = languages.frames(one, [dict(source="a dog"), dict(source=">>fra<<a dog")], "fra")
  assert [roles.source_first for roles in framed] == [(2,), ()]
  (ids,) = one.encode_targets(["A dog ran"])
  assert one.decode([*ids, 0, 5]) == "A dog ran"
  foreign = next(
    name
    for name in vocab
    if name.startswith("▁") and len(name) > 2 and target.piece_to_id(name) == 0
  )
  assert one.decode([vocab[foreign]]) == foreign[1:]  # a piece of the source's alone is said too
  roles = one.roles
  assert (roles.pad, roles.eos, roles.start, roles.unk) == (len(vocab) - 1, 0, len(vocab) - 1, 1)
  one.save(tmp_path / "tokenizer.json")
  again = Tokenizer.load(tmp_path / "tokenizer.json")
  assert again.vocab_size == one.vocab_size
  assert again.encode_targets(LINES) == one.encode_targets(LINES)


# Broken directories


def test_files_that_are_not_there_are_named(tmp_path):
  for kind, told in [
    ("bert", "neither tokenizer.json nor vocab.txt"),
    ("gpt2", "nor vocab.json, merges.txt"),
    ("t5", "nor spiece.model or sentencepiece.bpe.model or tokenizer.model"),
    ("marian", "nor source.spm, target.spm, vocab.json"),
  ]:
    with pytest.raises(UserError, match=re.escape(str(tmp_path / kind)) + ".*" + told):
      directory(tmp_path / kind, dict(model_type=kind))
  with pytest.raises(UserError, match=r"tokenizer.pkl is pickled, which is code and is not run"):
    directory(tmp_path / "bert", dict(model_type="bert"), **{"tokenizer.pkl": b"x"})
  with pytest.raises(
    UserError, match=r"model_type in .*config.json is 'bret'; .*did you mean bert"
  ):
    directory(tmp_path / "bret", dict(model_type="bret"))


@pytest.mark.parametrize(
  "kind, files, told",
  [
    ("bert", {"tokenizer.json": "{"}, r"tokenizer.json is not JSON"),
    ("bert", {"tokenizer.json": "{}"}, r"tokenizer.json is not a tokenizer that can be read"),
    ("bert", {"vocab.txt": b"\xff\xfe"}, r"vocab.txt is not UTF-8"),
    (
      "bert",
      {"vocab.txt": "a", "tokenizer_config.json": "["},
      r"tokenizer_config.json is not JSON",
    ),
    ("bert", {"vocab.txt": "a", "tokenizer_config.json": "[]"}, r"tokenizer_config.json is not a"),
    ("bert", {"vocab.txt": "a"}, r"no token for 'cls' \(\[CLS\]\): .*\(cls_token\)"),
    (
      "bert",
      {"vocab.txt": "a", "tokenizer_config.json": dict(word_tokenizer_type="mecab")},
      r"tokenizer_config.json: word_tokenizer_type or do_basic_tokenize",
    ),
    ("gpt2", {"vocab.json": "{", "merges.txt": ""}, r"vocab.json is not JSON"),
    ("gpt2", {"vocab.json": {"a": 0}, "merges.txt": "a b\n"}, r"merges.txt does not belong to"),
    ("gpt2", {"vocab.json": {"a": 0}, "merges.txt": "a\n"}, r"merges.txt does not belong to"),
    ("t5", {"spiece.model": b"no model"}, r"spiece.model is not a SentencePiece model"),
    ("t5", {"spiece.model": b""}, r"spiece.model is not a SentencePiece model"),
    # a score of two bytes; a text that is a number; a number without end; a piece of 1001 letters
    ("t5", {"spiece.model": b"\n\x07\n\x01a\x12\x02xx"}, r"is not a SentencePiece model"),
    ("t5", {"spiece.model": b"\n\x02\x08\x01"}, r"is not a SentencePiece model"),
    ("t5", {"spiece.model": b"\xff" * 10**6}, r"is not a SentencePiece model"),
    ("t5", {"spiece.model": b"\n\xec\x07\n\xe9\x07" + b"a" * 1001}, r"piece 0 has 1001 characters"),
    ("pegasus", {"spiece.model": b"\n\x03\n\x01a"}, r"has no unknown piece"),
  ],
)
def test_broken_files_are_an_error(kind, files, told, tmp_path):
  with pytest.raises(UserError, match=told):
    directory(tmp_path / "broken", dict(model_type=kind, vocab_size=99), **files)


def test_a_vocabulary_larger_than_the_table_is_an_error(tmp_path):
  files = {"vocab.txt": "\n".join(PIECES)}
  size = len(PIECES)
  assert directory(tmp_path / "bert", BERT | dict(vocab_size=size), **files).vocab_size == size
  with pytest.raises(
    UserError, match=rf"the vocabulary has {size} tokens, and .* table {size - 1}"
  ):
    directory(tmp_path / "bert", BERT | dict(vocab_size=size - 1), **files)
  with pytest.raises(
    UserError, match="the token for 'mask' has id 5, and the model's table 5 rows"
  ):
    directory(tmp_path / "bert", BERT | dict(vocab_size=5), **files)


def test_added_tokens_must_have_the_ids_they_had(tmp_path):
  files = {"vocab.txt": "\n".join(PIECES)}
  size = len(PIECES)
  one = directory(tmp_path / "bert", BERT, **files, **{"added_tokens.json": {"<new>": size}})
  assert one.encode_batch(["the <new>"]) == [[6, size]]
  with pytest.raises(UserError, match="the added token '<new>' has id 99"):
    directory(tmp_path / "bert", BERT, **{"added_tokens.json": {"<new>": 99}})


# Writing


OWN = {
  name: train_tokenizer({"name": name, "special": ("<mask>",), **more}, TEXTS)
  for name, more in dict(word={}, bpe=dict(vocab_size=320), byte={}).items()
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("kind", ["encoder", "decoder", "encoder-decoder"])
def test_what_is_written_frames_texts_as_the_tasks_do(name, kind, tmp_path):
  one = OWN[name]
  tokenizers_out.write(one, tmp_path, kind, 64)
  written = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  written.encode_special_tokens = True
  first = [] if kind == "encoder-decoder" else [1]
  last = [] if kind == "decoder" else [2]
  for line, ids in zip(LINES[:5], one.encode_batch(LINES[:5])):
    assert written.encode(line).ids == [*first, *ids, *last]
  a, b = one.encode_batch(LINES[:2])
  pair = written.encode(*LINES[:2])
  assert pair.ids == [*first, *a, 2, *b, *last]
  assert set(pair.type_ids) == {0}
  settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
  assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
  assert settings["model_max_length"] == 64
  assert settings["model_input_names"] == ["input_ids", "attention_mask"]
  names = json.loads((tmp_path / "special_tokens_map.json").read_text())
  assert names.items() <= settings.items()
  assert (names["pad_token"], names["eos_token"], names["mask_token"]) == (
    "<pad>",
    "<eos>",
    "<mask>",
  )
  assert ("cls_token" in names) == (kind != "decoder")


def test_what_was_read_is_written_with_its_frame_and_read_again(tmp_path):
  one = directory(tmp_path / "bert", BERT, **{"vocab.txt": "\n".join(PIECES)})
  (tmp_path / "out").mkdir()
  tokenizers_out.write(one, tmp_path / "out", "encoder", 64)
  written = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
  pair = written.encode("the cat", "sat")
  assert pair.ids == [3, 6, 7, 4, 9, 4]
  assert pair.type_ids == [0, 0, 0, 0, 1, 1]
  again = tokenizers_in.read(tmp_path / "out", BERT)
  assert again.roles == one.roles
  assert again.encode_batch(LINES) == one.encode_batch(LINES)
  inner = one.copy_inner()
  inner.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 4), ("x", 1))
  tokenizers_out.write(Tokenizer(inner, one.roles), tmp_path / "out", "encoder", 64)
  written = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
  assert written.encode("the").ids == [1, 6, 4]


def test_two_sets_of_pieces_are_not_written(tmp_path, trained):
  one, *_ = marian(tmp_path, trained)
  with pytest.raises(UserError, match=r"copy the files source.spm, target.spm and vocab.json"):
    tokenizers_out.write(one, tmp_path, "encoder-decoder", 64)
