"""Builds the tokenizers of encoders with SentencePiece models: XLM-RoBERTa's, CamemBERT's, ALBERT's
and DeBERTa's."""

import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers

from train.interop import spm

FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")


def xlm_roberta(settings, path) -> tokenizers.Tokenizer:
  """Builds XLM-RoBERTa's: fairseq's four special tokens, the pieces with ids one larger, <mask>."""
  model = spm.load(path)
  pieces = [(name, 0.0) for name in FAIRSEQ]
  pieces += [(piece.text, piece.score) for piece in model.pieces[3:]]
  inner = _split_at_blanks(spm.convert(model, pieces, unk=3), model)
  return _with_mask(inner, FAIRSEQ, "<mask>", settings, False)


def camembert(settings, path) -> tokenizers.Tokenizer:
  """Builds CamemBERT's: names of fairseq that are not used, the pieces with ids four larger (the
  first, its unknown piece, has another name), <mask>."""
  model = spm.load(path)
  names = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED")
  pieces = [(name, 0.0) for name in names[:4]] + [(names[4], -100.0)]
  pieces += [(piece.text, piece.score) for piece in model.pieces[1:]]
  inner = _split_at_blanks(spm.convert(model, pieces, unk=3), model)
  return _with_mask(inner, ("<pad>", "<unk>", "<s>", "</s>"), "<mask>", settings, True)


def _split_at_blanks(inner, model, steps=()) -> tokenizers.Tokenizer:
  """Makes the tokenizer split at any white space before pieces, after `steps` of normalization."""
  charsmap = model.normalizer.precompiled_charsmap
  steps = [*steps, *([normalizers.Precompiled(charsmap)] if charsmap else [])]
  inner.normalizer = normalizers.Sequence(steps) if steps else None
  blank = pre_tokenizers.Metaspace(spm.BLANK, prepend_scheme="always")
  inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), blank])
  inner.decoder = decoders.Metaspace(spm.BLANK, prepend_scheme="always")
  return inner


def _with_mask(inner, names, mask: str, settings, lstrip: bool) -> tokenizers.Tokenizer:
  """Marks the names that are tokens as special, and adds the mask, which includes the blank in
  front of it if the files say so, or else `lstrip`."""
  inner.add_special_tokens([name for name in names if inner.token_to_id(name) is not None])
  lstrip = settings.get("mask_lstrip", lstrip)
  inner.add_special_tokens([AddedToken(mask, lstrip=lstrip, normalized=False)])
  return inner


def albert(settings, path) -> tokenizers.Tokenizer:
  """Builds ALBERT's, which has straight quotes, no accents and lower case, unless
  tokenizer_config.json has it otherwise."""
  model = spm.load(path)
  steps = [normalizers.Replace(mark, '"') for mark in ("``", "''")]
  if not settings.get("keep_accents", False):
    steps += [normalizers.NFKD(), normalizers.StripAccents()]
  if settings.get("do_lower_case", True):
    steps.append(normalizers.Lowercase())
  inner = _split_at_blanks(spm.convert(model), model, steps)
  return _with_mask(inner, ("[CLS]", "[SEP]", "<pad>", "<unk>"), "[MASK]", settings, False)


def deberta(settings, path) -> tokenizers.Tokenizer:
  """Builds DeBERTa's: the pieces, of which [PAD], [CLS], [SEP] and [UNK] are some, then [MASK]."""
  inner = spm.convert(spm.load(path))
  steps = [normalizers.Lowercase()] if settings.get("do_lower_case", False) else []
  # as transformers 5 has it, which reads no table of normal forms from the file
  steps.append(normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "))
  steps += [normalizers.NFC(), normalizers.Strip(left=False, right=True)]
  inner.normalizer = normalizers.Sequence(steps)
  blank = pre_tokenizers.Metaspace(spm.BLANK, prepend_scheme="always")
  punctuation = pre_tokenizers.Punctuation(behavior="isolated")
  split = [punctuation] if settings.get("split_by_punct", False) else []
  inner.pre_tokenizer = pre_tokenizers.Sequence([*split, blank])
  inner.decoder = decoders.Metaspace(spm.BLANK, prepend_scheme="always")
  return _with_mask(inner, ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), "[MASK]", settings, False)
