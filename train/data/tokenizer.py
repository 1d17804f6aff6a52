"""Text to ids and back: words, BPE, unigram, characters, bytes; trained the same every time."""

import functools
import hashlib
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from train.data.vocabulary import ALPHABET, BOS, EOS, PAD, SIZED, SPECIALS, TOKENIZERS, UNK
from train.errors import UserError, choose

MASK = "<mask>"
SENTINEL = "<extra_{}>"
LANGUAGE = re.compile(r"(<2[\w-]+>) ")  # a text's beginning: the language to say it in
BLANKS = ("\u0120", "\u010a", "\u0109")  # blank, newline and tab in the byte-level alphabet


class Tokenizer:
  """A `tokenizers.Tokenizer` whose ids 0 to 3 are pad, bos, eos, unk; never pads or truncates.

  More special tokens may follow from 4 on; text never turns into one of them.
  """

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
    return [self._ordinary(encoding.ids) for encoding in encoded]

  def _ordinary(self, ids):
    # a word that is spelled like a special one is unknown: it must not end a sentence
    first, _ = self.words
    return [i if i >= first else UNK for i in ids] if min(ids, default=first) < first else ids

  def encode_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Ids of each text and the characters (from, to) that each stands for, blanks left out."""
    found = []
    for text, encoding in zip(texts, self._inner.encode_batch(texts, add_special_tokens=False)):
      places = []
      for start, stop in encoding.offsets:
        start = min(start + len(text[start:stop]) - len(text[start:stop].lstrip()), stop)
        places.append((start, stop))
      if self._blank_first and encoding.tokens[:1] == [BLANKS[0]] and text[:1] != " ":
        places[0] = (0, 0)  # the blank that was put in front, alone
      found.append((self._ordinary(encoding.ids), places))
    return found

  def encode_marked(self, text: str) -> list[int]:
    """Ids of a text in which special tokens' names, such as <mask> (or [MASK]), mean those tokens.

    Such a token stands for words with the blank in front of them, as the pieces of bpe and unigram
    do: "The <mask> of" is the ids of "The", <mask>, the ids that " of" has in running text.
    """
    names = [name for name in self.specials if name not in SPECIALS]
    if MASK in names:
      text = text.replace("[MASK]", MASK)
    if not names:
      return self.encode_batch([text])[0]
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
    ids = []
    for number, part in enumerate(parts):
      if number % 2:
        ids.append(self.specials[part])
        continue
      if self._blank_first and number + 1 < len(parts):
        part = part.removesuffix(" ")
      if part:
        inner = self._inner_part if number else self._inner
        ids += self._ordinary(inner.encode(part, add_special_tokens=False).ids)
    return ids

  @property
  def _blank_first(self) -> bool:
    """Whether a word's pieces begin with the blank in front of it (`_bytelevel`)."""
    return isinstance(self._inner.decoder, decoders.Sequence)

  @functools.cached_property
  def _inner_part(self) -> tokenizers.Tokenizer:
    """For a text's later parts, whose first word has a blank in front only if it is there."""
    inner = Tokenizer(tokenizers.Tokenizer.from_str(self._inner.to_str()))._inner
    if self._blank_first:
      inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return inner

  @functools.cached_property
  def specials(self) -> dict[str, int]:
    """Name -> id of every special token, in the order of their ids."""
    added = self._inner.get_added_tokens_decoder()
    return {added[i].content: i for i in sorted(added) if added[i].special}

  def id(self, name: str) -> int:
    """The id of a special token; UserError that says how to add it."""
    if name not in self.specials:
      there = f" (it has {', '.join(self.languages)})" if LANGUAGE.match(f"{name} ") else ""
      raise UserError(
        f"the vocabulary has no {name}{there}: train it with one, tokenizer.special=({name!r},)"
      )
    return self.specials[name]

  def encode_sources(self, texts: Sequence[str]) -> list[list[int]]:
    """`encode_batch`, but a language token at a text's start (<2de>) means that special token;
    UserError for one that is not in the vocabulary."""
    names = [found[1] if (found := LANGUAGE.match(text)) else "" for text in texts]
    firsts = [[self.id(name)] if name else [] for name in names]
    plain = [text.removeprefix(f"{name} ") if name else text for name, text in zip(names, texts)]
    return [[*first, *row] for first, row in zip(firsts, self.encode_batch(plain))]

  @property
  def languages(self) -> tuple[str, ...]:
    """The language tokens there are, such as <2de>."""
    return tuple(name for name in self.specials if LANGUAGE.match(f"{name} "))

  @property
  def sentinels(self) -> tuple[int, ...]:
    """Ids of <extra_0>, <extra_1>, ..."""
    names = map(SENTINEL.format, range(len(self.specials)))
    return tuple(self.specials[name] for name in names if name in self.specials)

  @functools.cached_property
  def words(self) -> tuple[int, int]:
    """The ids of ordinary tokens, as a range's ends."""
    return max(self.specials.values()) + 1, self.vocab_size

  @functools.cached_property
  def byte_lengths(self) -> np.ndarray:
    """How many bytes of text each id stands for: int32 [V]; 0 for special tokens.

    Their sum is the UTF-8 length of a text in bytes and characters, less those of unknown
    characters; of bpe and unigram it is 1 more, for the blank they put in front (none where there
    is one); of words, each known one and a blank.
    """
    found = np.zeros(self.vocab_size, np.int32)
    bytewise = isinstance(self._inner.decoder, (decoders.ByteLevel, decoders.Sequence))
    blank = isinstance(self._inner.model, models.WordLevel)
    for token, i in self._inner.get_vocab().items():
      found[i] = len(token) if bytewise else len(token.encode()) + blank
    found[list(self.specials.values())] = 0
    return found

  @functools.cached_property
  def word_starts(self) -> np.ndarray:
    """Whether each id begins a word, which is a blank and what follows it: bool [V]. All do, of a
    tokenizer of words."""
    found = np.zeros(self.vocab_size, bool)
    words = isinstance(self._inner.model, models.WordLevel)
    characters = isinstance(self._inner.decoder, decoders.Fuse)
    for token, i in self._inner.get_vocab().items():
      found[i] = words or (token.isspace() if characters else token[:1] in BLANKS)
    return found

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
    specials = cls(inner).specials
    if sorted(specials.values()) != list(range(len(specials))):
      raise UserError(f"{path}: the special tokens must be the first ids, but they are {specials}")
    return cls(inner)


def _rebuild(text: str) -> Tokenizer:
  return Tokenizer(tokenizers.Tokenizer.from_str(text))


def _specials(special, sentinels) -> list[str]:
  if isinstance(special, str) or not all(isinstance(name, str) and name for name in special):
    raise UserError(f"tokenizer.special is {special!r}; it must be names, such as ({MASK!r},)")
  if type(sentinels) is not int or sentinels < 0:
    raise UserError(f"tokenizer.sentinels is {sentinels!r}; it must be a number of tokens")
  names = [*SPECIALS, *special, *map(SENTINEL.format, range(sentinels))]
  if twice := [name for name, count in Counter(names).items() if count > 1]:
    raise UserError(f"tokenizer.special: {', '.join(twice)} is a special token already")
  return names


def train(spec: Mapping, texts: Iterable[str]) -> Tokenizer:
  """The tokenizer of `spec` fitted to the texts: name, and vocab_size of bpe and unigram; `special`
  names more special tokens ("<mask>"), `sentinels` is the number of <extra_0>, <extra_1>, ...

  Same spec and texts, same JSON, in any process. `vocab_size` is an upper bound: few texts give
  fewer pieces. Raises UserError for an unknown name or key, a size below 260 and empty texts.
  """
  options = dict(spec)
  name = options.pop("name", None)
  make = choose(TOKENIZERS, name, "tokenizer.name")
  specials = _specials(options.pop("special", ()), options.pop("sentinels", 0))
  wanted = {"vocab_size"} if name in SIZED else set()
  if options.keys() != wanted:
    raise UserError(
      f"tokenizer {name!r} takes the keys {sorted({'name'} | wanted)}, but got {sorted(spec)}"
    )
  smallest = len(specials) + len(ALPHABET)
  if wanted and (type(options["vocab_size"]) is not int or options["vocab_size"] < smallest):
    raise UserError(
      f"tokenizer vocab_size={options['vocab_size']!r} is too small: {name} needs a whole number"
      f" of at least {smallest} ({len(specials)} special ids and 256 bytes)"
    )
  seen = Counter()

  def counted() -> Iterator[str]:
    for text in texts:
      seen["characters"] += len(text)
      yield text

  inner = make(counted(), specials, **options)
  if name != "byte" and not seen["characters"]:
    raise UserError(f"the text to train the {name} tokenizer on is empty: check the training split")
  return Tokenizer(inner)
