"""Builds the tokenizers of encoders with SentencePiece models: XLM-RoBERTa's, CamemBERT's, ALBERT's
and DeBERTa's."""

import base64
from collections.abc import Mapping

import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers

from train.interop import spm

# How the names of the kinds' classes begin.
CLASSES = {
  "xlm-roberta": "XLMRoberta",
  "camembert": "Camembert",
  "albert": "Albert",
  "deberta-v2": "DebertaV2",
}
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")


def xlm_roberta(settings, path) -> tokenizers.Tokenizer:
  """Builds XLM-RoBERTa's: fairseq's four special tokens, the pieces with ids one larger, <mask>."""
  model = spm.load(path)
  pieces = [(name, 0.0) for name in FAIRSEQ]
  pieces += [(piece.text, piece.score) for piece in model.pieces[3:]]
  inner = spm.convert(model, pieces, unk=3)
  _set_steps(inner, "xlm-roberta", model.normalizer.precompiled_charsmap, settings)
  return _with_mask(inner, FAIRSEQ, "<mask>", settings, False)


def camembert(settings, path) -> tokenizers.Tokenizer:
  """Builds CamemBERT's: names of fairseq that are not used, the pieces with ids four larger (the
  first, its unknown piece, has another name), <mask>."""
  model = spm.load(path)
  names = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED")
  pieces = [(name, 0.0) for name in names[:4]] + [(names[4], -100.0)]
  pieces += [(piece.text, piece.score) for piece in model.pieces[1:]]
  inner = spm.convert(model, pieces, unk=3)
  _set_steps(inner, "camembert", model.normalizer.precompiled_charsmap, settings)
  return _with_mask(inner, ("<pad>", "<unk>", "<s>", "</s>"), "<mask>", settings, True)


def albert(settings, path) -> tokenizers.Tokenizer:
  """Builds ALBERT's, whose pieces have the model's ids."""
  model = spm.load(path)
  inner = spm.convert(model)
  _set_steps(inner, "albert", model.normalizer.precompiled_charsmap, settings)
  return _with_mask(inner, ("[CLS]", "[SEP]", "<pad>", "<unk>"), "[MASK]", settings, False)


def deberta(settings, path) -> tokenizers.Tokenizer:
  """Builds DeBERTa's: the pieces, of which [PAD], [CLS], [SEP] and [UNK] are some, then [MASK]."""
  inner = spm.convert(spm.load(path))
  _set_steps(inner, "deberta-v2", b"", settings)
  return _with_mask(inner, ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), "[MASK]", settings, False)


def follow_class(inner, kind: str, content: Mapping, settings: Mapping) -> None:
  """Changes how the tokenizer of a tokenizer.json (`content`) prepares texts to what the kind's
  class in transformers 5 does, which reads no more than pieces and charsmap from the file.

  Does nothing for another class or other pieces.
  """
  name, vocab = CLASSES.get(kind, ""), (content.get("model") or {}).get("vocab")
  if not name or not isinstance(vocab, list):
    return
  if not str(settings.get("tokenizer_class", name)).startswith(name):
    return
  normalizer = content.get("normalizer") or {}
  steps = [normalizer, *normalizer.get("normalizers", ())]
  maps = [step["precompiled_charsmap"] for step in steps if step.get("precompiled_charsmap")]
  _set_steps(inner, kind, base64.b64decode(maps[0]) if maps else b"", settings)


def _set_steps(inner, kind: str, charsmap: bytes, settings: Mapping) -> None:
  """Sets the normalization of texts, and their split at blanks, as the kind's class has them."""
  steps = [normalizers.Precompiled(charsmap)] if charsmap else []
  split, scheme = [pre_tokenizers.WhitespaceSplit()], "never"
  lower = settings.get("do_lower_case", kind == "albert")
  if kind == "albert":
    first = [normalizers.Replace(mark, '"') for mark in ("``", "''")]
    if not settings.get("keep_accents", False):
      first += [normalizers.NFKD(), normalizers.StripAccents()]
    steps = [*first, *[normalizers.Lowercase()] * lower, *steps]
  if kind == "deberta-v2":  # the class has no charsmap
    steps = [normalizers.Lowercase()] * lower
    steps += [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC()]
    steps.append(normalizers.Strip(left=False, right=True))
    punctuation = pre_tokenizers.Punctuation(behavior="isolated")
    split, scheme = [punctuation] * settings.get("split_by_punct", False), "first"
  scheme = "always" if settings.get("add_prefix_space", True) else scheme
  blank = pre_tokenizers.Metaspace(spm.BLANK, prepend_scheme=scheme)
  inner.normalizer = normalizers.Sequence(steps) if steps else None
  inner.pre_tokenizer = pre_tokenizers.Sequence([*split, blank])
  inner.decoder = decoders.Metaspace(spm.BLANK, prepend_scheme=scheme)


def _with_mask(inner, names, mask: str, settings, lstrip: bool) -> tokenizers.Tokenizer:
  """Marks the names that are tokens as special, and adds the mask, which includes the blank in
  front of it if the files say so, or else `lstrip`."""
  inner.add_special_tokens([name for name in names if inner.token_to_id(name) is not None])
  lstrip = settings.get("mask_lstrip", lstrip)
  inner.add_special_tokens([AddedToken(mask, lstrip=lstrip, normalized=False)])
  return inner
