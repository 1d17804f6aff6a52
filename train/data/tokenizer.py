"""Text to ids and back: words, BPE, unigram, characters, bytes; trained the same every time."""

import hashlib
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from train.data import unigram
from train.errors import UserError, choose

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())  # one printable character for each byte
SEED_WORDS = 100_000  # the most frequent: bounds the memory of unigram training to about 1 GB
# str.split() also splits at the four separators U+001C..1F, which the regex class \s leaves out
BLANK = tokenizers.Regex(r"[\s\x1c-\x1f]+")


class Tokenizer:
  """A `tokenizers.Tokenizer` whose ids 0 to 3 are pad, bos, eos, unk; never pads or truncates."""

  pad, bos, eos, unk = PAD, BOS, EOS, UNK

  def __init__(self, inner: tokenizers.Tokenizer):
    inner.no_padding()
    inner.no_truncation()
    inner.encode_special_tokens = True  # "<eos>" in somebody's text is text; not kept in the JSON
    self._inner = inner

  def __reduce__(self):
    return _rebuild, (self._inner.to_str(),)

  @property
  def vocab_size(self) -> int:
    """Number of ids, the four special ones included."""
    return self._inner.get_vocab_size()

  @property
  def fingerprint(self) -> str:
    """Hex digest of everything that decides the ids."""
    return hashlib.sha256(self._inner.to_str().encode()).hexdigest()

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text, without bos and eos."""
    encoded = self._inner.encode_batch_fast(texts, add_special_tokens=False)
    rows = [encoding.ids for encoding in encoded]
    # a word that is spelled like a special one is unknown: it must not end a sentence
    return [[max(i, UNK) for i in ids] if min(ids, default=UNK) < UNK else ids for ids in rows]

  def decode(self, ids: Iterable[int]) -> str:
    """Text up to the first eos; pad and bos are dropped, an unknown token shows as `<unk>`."""
    kept = []
    for i in ids:
      if i == EOS:
        break
      if i not in (PAD, BOS):
        kept.append(int(i))
    return self._inner.decode(kept, skip_special_tokens=False)

  def save(self, path: str | os.PathLike) -> None:
    """Writes the JSON file whole or not at all."""
    path = pathlib.Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(self._inner.to_str(pretty=True), encoding="utf-8")
    os.replace(temporary, path)

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Tokenizer":
    """The saved tokenizer; raises UserError for a missing, broken or foreign file."""
    try:
      inner = tokenizers.Tokenizer.from_str(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
      raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from error
    except Exception as error:  # the library raises plain Exception
      raise UserError(f"{path} is not a tokenizer.json: {error}; train or copy it anew") from error
    if (found := [inner.id_to_token(i) for i in range(4)]) != list(SPECIALS):
      raise UserError(f"{path}: ids 0 to 3 must be {', '.join(SPECIALS)}, but they are {found}")
    return cls(inner)


def _rebuild(text: str) -> Tokenizer:
  return Tokenizer(tokenizers.Tokenizer.from_str(text))


def _assemble(model, pre_tokenizer, decoder) -> tokenizers.Tokenizer:
  inner = tokenizers.Tokenizer(model)
  inner.pre_tokenizer, inner.decoder = pre_tokenizer, decoder
  inner.add_special_tokens(list(SPECIALS))
  return inner


def _numbered(items: Iterable[str]) -> dict[str, int]:
  return {item: i for i, item in enumerate([*SPECIALS, *items])}


def _by_frequency(counts: Counter) -> list[str]:
  return sorted(counts.keys() - set(SPECIALS), key=lambda item: (-counts[item], item))


def _word(texts: Iterator[str]) -> tokenizers.Tokenizer:
  counts = Counter(word for text in texts for word in text.split())
  model = models.WordLevel(_numbered(_by_frequency(counts)), unk_token=SPECIALS[UNK])
  return _assemble(model, pre_tokenizers.Split(BLANK, "removed"), None)


def _char(texts: Iterator[str]) -> tokenizers.Tokenizer:
  counts = Counter()
  for text in texts:
    counts.update(text)
  model = models.BPE(_numbered(_by_frequency(counts)), [], unk_token=SPECIALS[UNK])
  return _assemble(model, None, decoders.Fuse())


def _byte(texts: Iterator[str]) -> tokenizers.Tokenizer:
  del texts  # nothing to learn
  # the byte-level alphabet keeps printable Latin-1 and moves the other bytes to 256, 257, ...
  moved = iter(sorted(set(map(ord, ALPHABET)) - set(range(256))))
  characters = [chr(b) if chr(b) in ALPHABET else chr(next(moved)) for b in range(256)]
  bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  return _assemble(models.BPE(_numbered(characters), []), bytewise, decoders.ByteLevel())


def _bytelevel(model) -> tokenizers.Tokenizer:
  # the first word gets a blank like every other word; the decoder takes that one blank off again
  decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
  return _assemble(model, pre_tokenizers.ByteLevel(add_prefix_space=True), decoder)


def _bpe(texts: Iterator[str], vocab_size: int) -> tokenizers.Tokenizer:
  inner = _bytelevel(models.BPE())
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=list(SPECIALS),
    initial_alphabet=ALPHABET,
    show_progress=False,
  )
  inner.train_from_iterator(texts, trainer)
  return inner


def _unigram(texts: Iterator[str], vocab_size: int) -> tokenizers.Tokenizer:
  # the library's own trainer gives another vocabulary in every process: its sums over words
  # run in the random order of a hash map
  split = pre_tokenizers.ByteLevel(add_prefix_space=True).pre_tokenize_str
  words, counts = Counter(word for text in texts for word in text.split()), Counter()
  for word in _by_frequency(words)[:SEED_WORDS]:
    for part, _ in split(" " + word):
      counts[part] += words[word]
  pieces = unigram.pieces(counts, vocab_size - len(SPECIALS), ALPHABET)
  vocab = [(special, 0.0) for special in SPECIALS] + pieces
  return _bytelevel(models.Unigram(vocab, unk_id=UNK, byte_fallback=False))


TOKENIZERS: dict[str, Callable] = {
  "word": _word,
  "bpe": _bpe,
  "unigram": _unigram,
  "char": _char,
  "byte": _byte,
}
SIZED = ("bpe", "unigram")


def train(spec: Mapping, texts: Iterable[str]) -> Tokenizer:
  """The tokenizer of `spec` (name, and vocab_size of bpe and unigram) fitted to the texts.

  Same spec and texts, same JSON, in any process. `vocab_size` is an upper bound: few texts give
  fewer pieces. Raises UserError for an unknown name or key, a size below 260 and empty texts.
  """
  options = dict(spec)
  name = options.pop("name", None)
  make = choose(TOKENIZERS, name, "tokenizer.name")
  wanted = {"vocab_size"} if name in SIZED else set()
  if options.keys() != wanted:
    raise UserError(
      f"tokenizer {name!r} takes the keys {sorted({'name'} | wanted)}, but got {sorted(spec)}"
    )
  smallest = len(SPECIALS) + len(ALPHABET)
  if wanted and (type(options["vocab_size"]) is not int or options["vocab_size"] < smallest):
    raise UserError(
      f"tokenizer vocab_size={options['vocab_size']!r} is too small: {name} needs a whole number"
      f" of at least {smallest} (4 special ids and 256 bytes)"
    )
  seen = Counter()

  def counted() -> Iterator[str]:
    for text in texts:
      seen["characters"] += len(text)
      yield text

  inner = make(counted(), **options)
  if name != "byte" and not seen["characters"]:
    raise UserError(f"the text to train the {name} tokenizer on is empty: check the training split")
  return Tokenizer(inner)
