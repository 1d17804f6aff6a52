"""Trains tokenizers of five kinds; equal texts give an equal tokenizer in every process."""

import heapq
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
from train.data.word_counts import count_words, repeat_words

SENTINEL = "<extra_{}>"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())  # one printable character for each byte
# Unigram training sees the most frequent words only, which bounds its memory to about 1 GB: some
# 300 bytes for each byte of different words, of which a word of European languages has 10.
SEED_WORDS, SEED_BYTES = 100_000, 3_000_000
LONGEST_WORD = 1024  # bytes of a word in unigram training; a longer one is cut
# Bytes of different words. The trainer of BPE takes some 120 bytes for each; 200 MB of a European
# language have 4 to 11 MB of words. All words and their ids fill 90 MB of a tokenizer.json.
BPE_BYTES, WORD_BYTES = 12_000_000, 50_000_000
WORD = re.compile(r"\S+")  # finds the words of str.split() one by one
# finds what ByteLevel splits a text into, without blanks but the one in front of a word
PART_OF_TEXT = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\w\s]|_)+")
# str.split() also splits at the four separators U+001C..1F, which the regex class \s leaves out
BLANK = tokenizers.Regex(r"[\s\x1c-\x1f]+")


def train_tokenizer(spec: Mapping, texts: Iterable[str]) -> Tokenizer:
  """Trains the tokenizer of `spec` on the texts.

  `spec` has `name`, a key of KINDS, and for bpe and unigram `vocab_size`, an upper bound. Its
  `special` names more special tokens ("<mask>"), and `sentinels` is the number of <extra_0>,
  <extra_1>, ... Raises UserError for an unknown name or key, a size below 260 and empty texts.

  The texts are read two or three times. The words of more than some 200 MB of text, or of languages
  without blanks, may exceed the memory that is set aside for them, and some are left out then
  (word_counts.count_words).
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
  if name != "byte" and not any(texts):
    raise UserError(f"the text to train the {name} tokenizer on is empty: check the training split")
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


def _list_words(text: str) -> Iterable[str]:
  """Returns the words of a text, one by one if they are many."""
  short = len(text) <= long_texts.PART
  return text.split() if short else (match[0] for match in WORD.finditer(text))


def _train_word(texts: Iterable[str], specials) -> tokenizers.Tokenizer:
  counts, _ = count_words(texts, _list_words, WORD_BYTES)
  vocab = _number(specials, _sort_by_frequency(counts, specials))
  del counts
  model = models.WordLevel(vocab, unk_token=SPECIALS[UNK])
  return _assemble(model, pre_tokenizers.Split(BLANK, "removed"), None, specials)


def _train_char(texts: Iterable[str], specials) -> tokenizers.Tokenizer:
  counts = Counter(itertools.chain.from_iterable(texts))
  vocab = _number(specials, _sort_by_frequency(counts, specials))
  return _assemble(models.BPE(vocab, [], unk_token=SPECIALS[UNK]), None, decoders.Fuse(), specials)


def _make_byte(texts: Iterable[str], specials) -> tokenizers.Tokenizer:
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


def _train_bpe(texts: Iterable[str], specials, vocab_size: int) -> tokenizers.Tokenizer:
  inner = _assemble_bytelevel(models.BPE(), specials)
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size, special_tokens=specials, initial_alphabet=ALPHABET, show_progress=False
  )
  encoding = inner.pre_tokenizer
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  inner.train_from_iterator(_bound(texts), trainer)
  inner.pre_tokenizer = encoding
  return inner


def _bound(texts: Iterable[str]) -> Iterator[str]:
  """Returns the parts of the texts, or texts of most of their words where all are too many."""
  counts, complete = count_words(_cut(texts), PART_OF_TEXT.findall, BPE_BYTES)
  return _cut(texts) if complete else repeat_words(counts)


def _cut(texts: Iterable[str]) -> Iterator[str]:
  blank_first = (text if text.startswith(" ") else f" {text}" for text in texts if text)
  return itertools.chain.from_iterable(map(long_texts.cut_for_training, blank_first))


def _train_unigram(texts: Iterable[str], specials, vocab_size: int) -> tokenizers.Tokenizer:
  counts, size = Counter(), 0
  words = _most_frequent(texts)
  for part, frequency in ((part, count) for word, count in words for part in _split(word)):
    size += 0 if part in counts else len(part)
    if size > SEED_BYTES:
      break
    counts[part] += frequency
  pieces = unigram.train_pieces(counts, vocab_size - len(specials), ALPHABET)
  vocab = [(special, 0.0) for special in specials] + pieces
  return _assemble_bytelevel(models.Unigram(vocab, unk_id=UNK, byte_fallback=False), specials)


def _most_frequent(texts: Iterable[str]) -> list[tuple[str, int]]:
  """Returns the SEED_WORDS most frequent words with their counts."""
  counts, _ = count_words(texts, _list_words, WORD_BYTES)
  return heapq.nsmallest(SEED_WORDS, counts.items(), key=lambda pair: (-pair[1], pair[0]))


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
