"""What a vocabulary's tokens are for, and the kinds of tokenizer, each a function of texts: words,
BPE, unigram, characters, bytes."""

import dataclasses
import json
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from train.common import json_files
from train.common.errors import UserError, choose
from train.data import unigram

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
MASK = "<mask>"
MOST_IDS = 1 << 24  # what is kept of each id would fill the memory; XLM-V has a million
PROBES = ("a \u00e9", "\U0010fffd", "")  # what any tokenizer must be able to read
SENTINEL = "<extra_{}>"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())  # one printable character for each byte
SEED_WORDS = 100_000  # the most frequent: bounds the memory of unigram training to about 1 GB
# str.split() also splits at the four separators U+001C..1F, which the regex class \s leaves out
BLANK = tokenizers.Regex(r"[\s\x1c-\x1f]+")


@dataclasses.dataclass(frozen=True)
class Roles:
  """Which ids do what no word does: they begin, end, part and fill what models read and say."""

  pad: int  # fills rows
  eos: int  # ends what an encoder reads and what a decoder says
  start: int  # what a decoder reads before its first output
  unk: int | None = None
  mask: int | None = None
  first: tuple[int, ...] = ()  # in front of what an encoder alone or a decoder alone reads
  between: tuple[int, ...] = ()  # between two texts
  source_first: tuple[int, ...] = ()  # in front of an encoder-decoder's source
  source_last: tuple[int, ...] = ()  # behind its eos (mBART-cc25's language)
  target_first: tuple[int, ...] = ()  # of its target: learned ...
  force: bool = True  # ... and forced when decoding
  types: bool = False  # the model tells a first text from a second (BERT's token types)

  def source(self, ids, longest: int) -> list[int]:
    """An encoder-decoder's source with its frame, of at most so many tokens."""
    last = (self.eos, *self.source_last)
    return [*[*self.source_first, *ids][: longest - len(last)], *last]

  def target(self, ids, longest: int) -> list[int]:
    """What its decoder is to say."""
    return [*[*self.target_first, *ids][: longest - 1], self.eos]


# of the tokenizers made here
OWN = Roles(pad=PAD, eos=EOS, start=BOS, unk=UNK, first=(BOS,), between=(EOS,))


def to_json(
  inner: tokenizers.Tokenizer,
  roles: Roles | None,
  target: tokenizers.Tokenizer | None = None,
  size: int | None = None,
  pretty: bool = False,
) -> str:
  """The content of a tokenizer's file: `tokenizers`' own, with roles inside of another dict."""
  if roles is None:
    return inner.to_str(pretty=pretty)
  made = {
    "roles": dataclasses.asdict(roles),
    "tokenizer": json.loads(inner.to_str()),
    "target_tokenizer": target and json.loads(target.to_str()),
    "vocab_size": size,
  }
  return json.dumps(made, ensure_ascii=False, indent=1 if pretty else None)


def from_json(text: str, where="a tokenizer") -> tuple:
  """The four that `to_json` was given; UserError or any Exception for what it has not made."""
  made = json_files.parsed(text, where)
  if "roles" not in made:
    return tokenizers.Tokenizer.from_str(text), None, None, None
  json_files.check(made, where, dict(roles=dict, vocab_size=int))
  roles = {key: tuple(x) if isinstance(x, list) else x for key, x in made["roles"].items()}
  json_files.check(roles, f"{where}: roles", typing.get_type_hints(Roles))
  inners = (made["tokenizer"], made["target_tokenizer"])
  inner, target = (one and tokenizers.Tokenizer.from_str(json.dumps(one)) for one in inners)
  return inner, Roles(**roles), target, made["vocab_size"]


def check(tokenizer) -> None:
  """UserError, or what the library raises, if the Tokenizer cannot be used."""
  roles = [x for x in dataclasses.astuple(tokenizer.roles) if type(x) is int]
  if max(size := tokenizer.vocab_size, *roles) > MOST_IDS or min(roles) < 0:
    raise UserError(f"{size} ids, and {tokenizer.roles}: ids are 0 to {MOST_IDS}")
  tokenizer.encode_targets(PROBES)
  tokenizer.decode(i for ids in tokenizer.encode_batch(PROBES) for i in ids)


def _assemble(model, pre_tokenizer, decoder, specials) -> tokenizers.Tokenizer:
  inner = tokenizers.Tokenizer(model)
  inner.pre_tokenizer, inner.decoder = pre_tokenizer, decoder
  inner.add_special_tokens(specials)
  return inner


def _numbered(specials: list[str], items: Iterable[str]) -> dict[str, int]:
  return {item: i for i, item in enumerate([*specials, *items])}


def _by_frequency(counts: Counter, specials=()) -> list[str]:
  return sorted(counts.keys() - set(specials), key=lambda item: (-counts[item], item))


def _word(texts: Iterator[str], specials) -> tokenizers.Tokenizer:
  counts = Counter(word for text in texts for word in text.split())
  vocab = _numbered(specials, _by_frequency(counts, specials))
  model = models.WordLevel(vocab, unk_token=SPECIALS[UNK])
  return _assemble(model, pre_tokenizers.Split(BLANK, "removed"), None, specials)


def _char(texts: Iterator[str], specials) -> tokenizers.Tokenizer:
  counts = Counter()
  for text in texts:
    counts.update(text)
  vocab = _numbered(specials, _by_frequency(counts, specials))
  return _assemble(models.BPE(vocab, [], unk_token=SPECIALS[UNK]), None, decoders.Fuse(), specials)


def _byte(texts: Iterator[str], specials) -> tokenizers.Tokenizer:
  del texts  # nothing to learn
  # the byte-level alphabet keeps printable Latin-1 and moves the other bytes to 256, 257, ...
  moved = iter(sorted(set(map(ord, ALPHABET)) - set(range(256))))
  characters = [chr(b) if chr(b) in ALPHABET else chr(next(moved)) for b in range(256)]
  bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  model = models.BPE(_numbered(specials, characters), [])
  return _assemble(model, bytewise, decoders.ByteLevel(), specials)


def _bytelevel(model, specials) -> tokenizers.Tokenizer:
  # the first word gets a blank like every other word; the decoder takes that one blank off again
  decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
  return _assemble(model, pre_tokenizers.ByteLevel(add_prefix_space=True), decoder, specials)


def _bpe(texts: Iterator[str], specials, vocab_size: int) -> tokenizers.Tokenizer:
  inner = _bytelevel(models.BPE(), specials)
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=specials,
    initial_alphabet=ALPHABET,
    show_progress=False,
  )
  inner.train_from_iterator(texts, trainer)
  return inner


def _unigram(texts: Iterator[str], specials, vocab_size: int) -> tokenizers.Tokenizer:
  # the library's own trainer gives another vocabulary in every process: its sums over words
  # run in the random order of a hash map
  split = pre_tokenizers.ByteLevel(add_prefix_space=True).pre_tokenize_str
  words, counts = Counter(word for text in texts for word in text.split()), Counter()
  for word in _by_frequency(words)[:SEED_WORDS]:
    for part, _ in split(" " + word):
      counts[part] += words[word]
  pieces = unigram.pieces(counts, vocab_size - len(specials), ALPHABET)
  vocab = [(special, 0.0) for special in specials] + pieces
  return _bytelevel(models.Unigram(vocab, unk_id=UNK, byte_fallback=False), specials)


TOKENIZERS: dict[str, Callable] = {
  "word": _word,
  "bpe": _bpe,
  "unigram": _unigram,
  "char": _char,
  "byte": _byte,
}
SIZED = ("bpe", "unigram")


def _specials(special, sentinels) -> list[str]:
  if isinstance(special, str) or not all(isinstance(name, str) and name for name in special):
    raise UserError(f"tokenizer.special is {special!r}; it must be names, such as ({MASK!r},)")
  if type(sentinels) is not int or sentinels < 0:
    raise UserError(f"tokenizer.sentinels is {sentinels!r}; it must be a number of tokens")
  names = [*SPECIALS, *special, *map(SENTINEL.format, range(sentinels))]
  if twice := [name for name, count in Counter(names).items() if count > 1]:
    raise UserError(f"tokenizer.special: {', '.join(twice)} is a special token already")
  return names


def train(spec: Mapping, texts: Iterable[str]) -> tokenizers.Tokenizer:
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
  return inner
