"""Builds tokenizers of lists of words and pieces: BERT's, MPNet's and ESM's."""

import re

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Inner

from train.common import json_files
from train.common.errors import UserError

# Settings of BERT's normalizer in tokenizer_config.json, and in tokenizer.json.
NORMALIZER = dict(
  do_lower_case="lowercase",
  strip_accents="strip_accents",
  tokenize_chinese_chars="handle_chinese_chars",
)


def normalizer_settings(settings) -> dict[str, bool]:
  """Returns the settings of BERT's normalizer that tokenizer_config.json has."""
  return {ours: settings[key] for key, ours in NORMALIZER.items() if key in settings}


def read_lines(path) -> list[str]:
  """Returns the lines of a text file."""
  text = json_files.read_text(path).replace("\r\n", "\n").replace("\r", "\n")
  return text.removesuffix("\n").split("\n")


def _vocabulary(path) -> dict[str, int]:
  """Returns token -> line; the later of two equal tokens counts, as in transformers."""
  return {token: i for i, token in enumerate(read_lines(path))}


def wordpiece(settings, path) -> Inner:
  """Builds BERT's tokenizer."""
  japanese = settings.get("word_tokenizer_type", "basic") != "basic"
  if japanese or settings.get("do_basic_tokenize") is False:
    raise UserError(
      f"{path.with_name('tokenizer_config.json')}: word_tokenizer_type or do_basic_tokenize asks"
      " for a split before WordPiece that is only supported in a tokenizer.json"
    )
  vocab, unk = _vocabulary(path), settings.get("unk_token", "[UNK]")
  inner = Inner(models.WordPiece(vocab, unk_token=unk, max_input_chars_per_word=100))
  inner.normalizer = normalizers.BertNormalizer(**normalizer_settings(settings))
  inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  inner.decoder = decoders.WordPiece()
  names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<pad>")  # MPNet's last
  inner.add_special_tokens([name for name in names if name in vocab])
  if "<mask>" in vocab:
    inner.add_special_tokens([AddedToken("<mask>", lstrip=True)])
  return inner


def esm(settings, path) -> Inner:
  """Builds the tokenizer of a protein's letters; text between known letters is one unknown
  token."""
  vocab = _vocabulary(path)
  inner = Inner(models.WordLevel(vocab, unk_token=settings.get("unk_token", "<unk>")))
  names = [name for name in vocab if re.fullmatch(r"<\w+>", name)]
  letters = sorted(vocab.keys() - set(names), key=len, reverse=True)
  known = Regex("|".join(map(re.escape, letters)))
  split = pre_tokenizers.Split(known, "isolated")
  inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split])
  inner.add_special_tokens(names)
  return inner
