"""Trains tokenizers of five kinds; equal texts give an equal tokenizer in every process."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from train.common.errors import UserError, choose
from train.data import long_texts, unigram
from train.data.roles import MASK, SPECIALS, UNK
from train.data.tokenizer import Tokenizer

SENTINEL = "<extra_{}>"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())  # one printable character for each byte
# Unigram training sees the most frequent words only, which bounds its memory to about 1 GB: some
# 300 bytes for each byte of different words, of which a word of European languages has 10.
SEED_WORDS, SEED_BYTES = 100_000, 3_000_000
LONGEST_WORD = 1024  # bytes of a word in unigram training; a longer one is cut
WORD = re.compile(r"\S+")  # finds the words of str.split() one by one
# str.split() also splits at the four separators U+001C..1F, which the regex class \s leaves out
BLANK = tokenizers.Regex(r"[\s\x1c-\x1f]+")


def train_tokenizer(spec: Mapping, texts: Iterable[str]) -> Tokenizer:
  """Trains the tokenizer of `spec` on the texts.

  `spec` has `name`, a key of KINDS, and for bpe and unigram `vocab_size`, an upper bound. Its
  `special` names more special tokens ("<mask>"), and `sentinels` is the number of <extra_0>,
  <extra_1>, ... Raises UserError for an unknown name or key, a size below 260 and empty texts.
  """
  options = dict(spec)
  name = options.pop("name", None)
  make = choose(KINDS, name, "tokenizer.name")
  specials = _list_specials(options.pop("special", ()), options.pop("sentinels", 0))
  required = {"vocab_size"} if name in SIZED else set()
  if options.keys() != required:
    raise UserError(
      f"tokenizer {name!r} takes the keys {sorted({'name'} | required)}, but got {sorted(spec)}"
    )
  smallest = len(specials) + len(ALPHABET)
  if required and (type(options["vocab_size"]) is not int or options["vocab_size"] < smallest):
    raise UserError(
      f"tokenizer vocab_size={options['vocab_size']!r} is too small: {name} needs a whole number"
      f" of at least {smallest} ({len(specials)} special ids and 256 bytes)"
    )
  if name != "byte":
    texts = itertools.dropwhile(lambda text: not text, texts)
    if (first := next(texts, None)) is None:
      raise UserError(
        f"the text to train the {name} tokenizer on is empty: check the training split"
      )
    texts = itertools.chain([first], texts)
  return Tokenizer(make(texts, specials, **options))


def _list_specials(special, sentinels) -> list[str]:
  if isinstance(special, str) or not all(isinstance(name, str) and name for name in special):
    raise UserError(f"tokenizer.special is {special!r}; it must be names, such as ({MASK!r},)")
  if type(sentinels) is not int or sentinels < 0:
    raise UserError(f"tokenizer.sentinels is {sentinels!r}; it must be a number of tokens")
  names = [*SPECIALS, *special, *map(SENTINEL.format, range(sentinels))]
  if twice := [name for name, count in Counter(names).items() if count > 1]:
    raise UserError(f"tokenizer.special: {', '.join(twice)} is a special token already")
  return names


def _assemble(model, pre_tokenizer, decoder, specials) -> tokenizers.Tokenizer:
  inner = tokenizers.Tokenizer(model)
  inner.pre_tokenizer, inner.decoder = pre_tokenizer, decoder
  inner.add_special_tokens(specials)
  return inner


def _number(specials: list[str], pieces: Iterable[str]) -> dict[str, int]:
  return {piece: i for i, piece in enumerate([*specials, *pieces])}


def _sort_by_frequency(counts: Counter, specials=()) -> list[str]:
  return sorted(counts.keys() - set(specials), key=lambda piece: (-counts[piece], piece))


def _train_word(texts: Iterator[str], specials) -> tokenizers.Tokenizer:
  counts = Counter(match[0] for text in texts for match in WORD.finditer(text))
  vocab = _number(specials, _sort_by_frequency(counts, specials))
  model = models.WordLevel(vocab, unk_token=SPECIALS[UNK])
  return _assemble(model, pre_tokenizers.Split(BLANK, "removed"), None, specials)


def _train_char(texts: Iterator[str], specials) -> tokenizers.Tokenizer:
  counts = Counter(itertools.chain.from_iterable(texts))
  vocab = _number(specials, _sort_by_frequency(counts, specials))
  return _assemble(models.BPE(vocab, [], unk_token=SPECIALS[UNK]), None, decoders.Fuse(), specials)


def _make_byte(texts: Iterator[str], specials) -> tokenizers.Tokenizer:
  del texts  # a byte tokenizer is not trained
  # the byte-level alphabet keeps printable Latin-1 and moves the other bytes to 256, 257, ...
  moved = iter(sorted(set(map(ord, ALPHABET)) - set(range(256))))
  characters = [chr(b) if chr(b) in ALPHABET else chr(next(moved)) for b in range(256)]
  bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  model = models.BPE(_number(specials, characters), [])
  return _assemble(model, bytewise, decoders.ByteLevel(), specials)


def _assemble_bytelevel(model, specials) -> tokenizers.Tokenizer:
  # the first word gets a blank like every other word; the decoder strips that one blank
  decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
  return _assemble(model, pre_tokenizers.ByteLevel(add_prefix_space=True), decoder, specials)


def _train_bpe(texts: Iterator[str], specials, vocab_size: int) -> tokenizers.Tokenizer:
  inner = _assemble_bytelevel(models.BPE(), specials)
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size, special_tokens=specials, initial_alphabet=ALPHABET, show_progress=False
  )
  encoding = inner.pre_tokenizer
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  blank_first = (text if text.startswith(" ") else f" {text}" for text in texts if text)
  inner.train_from_iterator(_cut(blank_first), trainer)
  inner.pre_tokenizer = encoding
  return inner


def _cut(texts: Iterable[str]) -> Iterator[str]:
  return itertools.chain.from_iterable(map(long_texts.cut_for_training, texts))


def _train_unigram(texts: Iterator[str], specials, vocab_size: int) -> tokenizers.Tokenizer:
  words = Counter(match[0] for text in texts for match in WORD.finditer(text))
  counts, size = Counter(), 0
  most_frequent = _sort_by_frequency(words)[:SEED_WORDS]
  for part, count in ((part, words[word]) for word in most_frequent for part in _split(word)):
    size += 0 if part in counts else len(part)
    if size > SEED_BYTES:
      break
    counts[part] += count
  pieces = unigram.train_pieces(counts, vocab_size - len(specials), ALPHABET)
  vocab = [(special, 0.0) for special in specials] + pieces
  return _assemble_bytelevel(models.Unigram(vocab, unk_id=UNK, byte_fallback=False), specials)


def _split(word: str) -> Iterator[str]:
  """Yields the parts of a word with a blank in front that pieces do not cross."""
  split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
  for text in long_texts.cut_for_training(f" {word}"):
    for part, _ in split(text):
      for start in range(0, len(part), LONGEST_WORD):
        yield part[start : start + LONGEST_WORD]


KINDS: dict[str, Callable] = {
  "word": _train_word,
  "bpe": _train_bpe,
  "unigram": _train_unigram,
  "char": _train_char,
  "byte": _make_byte,
}
SIZED = ("bpe", "unigram")  # the kinds with a vocab_size
