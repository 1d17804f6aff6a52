"""Reads items and batches, and makes sources, prepared corpora, foreign tokenizers and a TFDS
dataset for tests."""

from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from train.data import items
from train.data.batches import Batches, Layout
from train.data.roles import Roles
from train.data.source import as_shards
from train.data.tokenizer import Tokenizer
from train.data.tokenizer_training import train_tokenizer
from train.preparing import corpus


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def assert_same_batches(a, b):
  assert len(a) == len(b)
  for left, right in zip(a, b):
    assert left.keys() == right.keys()
    for key in left:
      np.testing.assert_array_equal(left[key], right[key], key)


def read_all(source, first=0):
  """Reads all items, at the positions from `first` on."""
  indices = list(range(len(source.lengths())))
  return source.read(indices, [first + index for index in indices])


class Docs(list):
  """Documents as a source with a fingerprint."""

  def __init__(self, texts, name="docs"):
    super().__init__({"text": text} for text in texts)
    self.fingerprint = name


class Texts:
  """Numbered sentences: target i is i and i % 7 words more."""

  def __init__(self, n):
    self.n, self.fingerprint = n, f"texts-{n}"

  def __len__(self):
    return self.n

  def __getitem__(self, i):
    words = f"{i}" + " x" * (i % 7)
    return {"source": words + " y" * (i % 3), "target": words}


WORDS = train_tokenizer({"name": "word"}, [Texts(400)[i]["source"] for i in range(400)])
SIZES = {"batch_size": 4, "source_len": 24, "target_len": 16}
STREAM_OPTIONS = ("seed", "workers", "lookahead")


def pairs(source, **sizes):
  """Returns the items of a source's pairs, in rows of SIZES unless `sizes` differ."""
  sizes = SIZES | sizes
  return items.Pairs(source, WORDS, sizes["source_len"], sizes["target_len"])


def batches_of(source, **options):
  """Returns the batches of a source; `options` are of the stream or of its layout."""
  ours = {key: options.pop(key) for key in STREAM_OPTIONS if key in options}
  layout = Layout(**SIZES | options)
  sizes = {"source_len": layout.source_len, "target_len": layout.target_len}
  return Batches(pairs(source, **sizes), layout, **{"seed": 0, **ours})


def stream(n=60, **options):
  """Returns the batches of `n` numbered sentences."""
  return batches_of(Texts(n), **options)


def prepare(folder, source, tokenizer, split="train", fields=("text",), drop=False, order=list):
  """Prepares a split in this process; `order` reorders the numbers of the files. Returns the spec
  of the prepared corpus."""
  folder.mkdir(exist_ok=True)
  tokenizer.save(folder / "tokenizer.json")
  job = corpus.make_job(str(folder), split, source, fields, tokenizer, drop)

  def run_all(task, numbers):
    for number in order(numbers):
      task(number)

  corpus.prepare_split(job, as_shards(source) is None, run_all)
  return {"name": "prepared", "folder": str(folder)}


def make_bert():
  """Makes a WordPiece tokenizer with the special tokens after some words."""
  words = ["the", "a", "cat", "dog", "sat", "##s", "ran", "on", "mat", "?"]
  names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  vocab = {word: i for i, word in enumerate([*words, *names])}
  inner = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
  inner.normalizer = normalizers.BertNormalizer()
  inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  inner.decoder = decoders.WordPiece()
  inner.add_special_tokens(names)
  roles = Roles(pad=10, unk=11, eos=13, start=12, mask=14, first=(12,), between=(13,), types=True)
  return Tokenizer(inner, roles)


def make_bart():
  """Makes a byte tokenizer framed as BART's: ids 256 to 260 are <s>, <pad>, </s>, <unk>, <mask>."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocab = {character: i for i, character in enumerate(alphabet)}
  names = ["<s>", "<pad>", "</s>", "<unk>"]
  vocab |= {name: 256 + i for i, name in enumerate([*names, "<mask>"])}
  inner = tokenizers.Tokenizer(models.BPE(vocab, []))
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  inner.decoder = decoders.ByteLevel()
  inner.add_special_tokens([*names, AddedToken("<mask>", lstrip=True)])
  return Tokenizer(
    inner,
    Roles(
      pad=257,
      eos=258,
      start=258,
      unk=259,
      mask=260,
      first=(256,),
      between=(258, 258),
      source_first=(256,),
      target_first=(256,),
    ),
  )


def make_gpt2():
  """Makes a byte tokenizer with one special token, which ends, begins and pads."""
  inner = tokenizers.Tokenizer(models.BPE(BART.copy_inner().get_vocab(False), []))
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  inner.decoder = decoders.ByteLevel()
  inner.add_special_tokens(["</s>"])
  return Tokenizer(inner, Roles(pad=258, eos=258, start=258))


BERT = make_bert()
BART = make_bart()
GPT2 = make_gpt2()


class ToyPairs(tfds.core.GeneratorBasedBuilder):
  """Two languages, one of them nested, and numbers, one of them a nested class."""

  VERSION = tfds.core.Version("1.0.0")
  code_path = None  # TFDS would look for checksums in the package, by importlib_resources
  sizes: ClassVar = {"train": 7, "test": 3}

  def _info(self):
    text = tfds.features.Text()
    more = tfds.features.Translation(languages=["en", "fr"])
    features = {
      "de": text,
      "more": more,
      "count": tfds.features.Scalar(np.int64),
      "score": tfds.features.Scalar(np.float32),
      "kind": {"label": tfds.features.ClassLabel(names=["no", "yes"])},
      "many": tfds.features.Sequence(tfds.features.Text()),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(size) for split, size in self.sizes.items()}

  def _generate_examples(self, count):
    for i in range(count):
      yield (
        i,
        {
          "de": f"Größe {i}",
          "more": {"en": f"size {i}", "fr": "oui"},
          "count": 10**12 - i,
          "score": i / 5,
          "kind": {"label": i % 3 - 1},  # -1: unknown
          "many": ["a", "b"],
        },
      )


def write_toy_pairs(folder, builder=ToyPairs, files=1):
  """Prepares the dataset in a folder, each split in `files` files, and returns the spec of its
  pairs."""
  config = tfds.download.DownloadConfig(num_shards=files)
  toy = builder(data_dir=folder, file_format="array_record")
  toy.download_and_prepare(download_config=config)
  spec = {"name": "tfds", "dataset": "toy_pairs", "data_dir": str(folder)}
  return spec | {"source": "de", "target": "more/en"}


def read_shards(shards):
  """Reads all shards in their order."""
  blocks = (block for shard in range(shards.num_shards) for block in shards.blocks(shard))
  return [example for block in blocks for example in block.examples]
