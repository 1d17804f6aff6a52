"""Builds the tokenizers of bytes of GPT-2 and Qwen2 from their vocabulary and merges."""

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from train.common import json_files
from train.common.errors import UserError
from train.interop.wordpieces import read_lines

Inner = tokenizers.Tokenizer
# The words that Qwen2 splits texts into.
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
QWEN += r"|\s*[\r\n]+|\s+(?!\S)|\s+"


def gpt2(settings, path, merges) -> Inner:
  """Builds GPT-2's BPE of bytes."""
  vocab = json_files.read(path, dict[str, int])
  pairs = [line for line in read_lines(merges) if line and not line.startswith("#version")]
  try:
    model = models.BPE(vocab, [tuple(line.split(" ")) for line in pairs])
  except Exception as error:  # the library raises plain Exception
    raise UserError(f"{merges} does not belong to {path}: {error}; copy both anew") from error
  inner = Inner(model)
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(settings.get("add_prefix_space", False))
  inner.decoder = decoders.ByteLevel()
  names = ("<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>")
  inner.add_special_tokens([name for name in names if name in vocab])
  if "<mask>" in vocab:  # replaces a word and the blank in front of it
    inner.add_special_tokens([AddedToken("<mask>", lstrip=True)])
  return inner


def qwen(settings, path, merges) -> Inner:
  """Builds Qwen2's BPE of bytes, which splits texts in another way."""
  inner = gpt2(settings, path, merges)
  inner.normalizer = normalizers.NFC()
  split = pre_tokenizers.Split(Regex(QWEN), "isolated")
  blank = settings.get("add_prefix_space", False)
  inner.pre_tokenizer = pre_tokenizers.Sequence(
    [split, pre_tokenizers.ByteLevel(blank, use_regex=False)]
  )
  return inner
