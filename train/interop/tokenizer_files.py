"""Reads the vocabulary files of a Hugging Face directory as `tokenizers.Tokenizer`s."""

import json
import pathlib
import re
from collections.abc import Mapping

import tokenizers
from absl import logging
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from train.common import json_files
from train.common.errors import UserError, as_user_error
from train.data.pieces import BYTES, REPLACEMENT
from train.interop import byte_level, spm, spm_encoders, translators, wordpieces
from train.interop.spm import BLANK

Inner = tokenizers.Tokenizer

# The types of the fields that are read of tokenizer_config.json and the files beside it.
SETTINGS = dict.fromkeys(
  ("bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token", "unk_token"), str
)
SETTINGS |= dict.fromkeys(("src_lang", "tgt_lang", "tokenizer_class", "word_tokenizer_type"), str)
SETTINGS |= dict.fromkeys(("extra_ids", "offset"), int)
SETTINGS |= dict.fromkeys(("add_bos_token", "add_prefix_space", "do_basic_tokenize"), bool)
SETTINGS |= dict.fromkeys(("do_lower_case", "strip_accents", "tokenize_chinese_chars"), bool)
SETTINGS |= dict.fromkeys(("keep_accents", "split_by_punct"), bool)
SETTINGS |= dict(added_tokens_decoder=dict[str, dict], language_codes=str, legacy_behaviour=bool)
SETTINGS |= dict(additional_special_tokens=list[str])
# The classes that take tokenizer.json as it is.
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
# They may put a blank in front of a text.
PREFIXED = ("gpt2", "roberta", "bart", "led", "longformer", "opt", "gpt_neox")
GEMMAS = ("gemma", "gemma2", "gemma3_text", "t5gemma")
METASPACE = dict(type="Metaspace", replacement=BLANK, split=False)  # of Llama
ADDED = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), bool)
MOST_EXTRA = 10_000  # tokens that a number in tokenizer_config.json may add


def settings(folder: pathlib.Path) -> dict:
  """Returns the merged fields of special_tokens_map.json and tokenizer_config.json, of which the
  latter wins; a token is given by its name."""
  together = {}
  for name in ("special_tokens_map", "tokenizer_config"):
    if (path := folder / f"{name}.json").exists():
      content = json_files.read(path)
      for key, value in content.items():
        if key.endswith("_token") and isinstance(value, dict):
          content[key] = value.get("content")
          if key == "mask_token":
            together["mask_lstrip"] = value.get("lstrip") is True
      json_files.check(content, path, SETTINGS)
      for key in ("extra_ids", "offset"):
        if not 0 <= (content.get(key) or 0) <= MOST_EXTRA:
          raise UserError(f"{path}: {key} is {content[key]}; it must be 0 to {MOST_EXTRA}")
      together |= {key: value for key, value in content.items() if value is not None}
  return together


def read(
  folder: pathlib.Path, kind: str, settings: Mapping
) -> tuple[Inner, Inner | None, int | None]:
  """Returns the tokenizer, another for targets or None, and the size of the vocabulary where it is
  not the tokenizer's. Raises UserError, which names the files it looks for, if there are none."""
  if kind == "marian" and (folder / "source.spm").exists():
    return translators.marian(folder)
  if settings.get("tokenizer_class") == "ByT5Tokenizer":
    kind = "byt5"  # a T5 with bytes, which no file lists
  elif (path := folder / "tokenizer.json").exists():
    text = json_files.read_text(path)
    content = json_files.parse(text, path)  # names broken JSON better than the library does
    with as_user_error(f"{path} is not a tokenizer that can be read"):
      if _adapt(content, kind, settings, path):
        text = json.dumps(content)
      inner = Inner.from_str(text)
      spm_encoders.follow_class(inner, kind, content, settings)
      return inner, None, None
  if kind == "m2m_100" and (folder / "vocab.json").exists():  # else it is an NLLB
    kind += " with vocab.json"
  make, files = _MAKERS[kind]
  paths = [
    next((folder / name for name in names if (folder / name).exists()), None) for names in files
  ]
  if None in paths:
    pickled = sorted(path.name for end in ("*.pkl", "*.pickle") for path in folder.glob(end))
    why = f"; {', '.join(pickled)} is pickled, which is code and is not run" if pickled else ""
    raise UserError(
      f"{folder} has no tokenizer that can be read: neither tokenizer.json nor"
      f" {', '.join(map(' or '.join, files))}{why}. Save it as tokenizer.json where it is in use:"
      " AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)"
    )
  with as_user_error(f"{folder}: {', '.join(path.name for path in paths)} make no tokenizer"):
    made = make(settings, *paths)
    inner, size = made if isinstance(made, tuple) else (made, None)
    _add_tokens(folder, inner, settings)
  return inner, None, size


def _adapt(content: dict, kind: str, settings: Mapping, path) -> bool:
  """Changes the content of a tokenizer.json to what tokenizer_config.json has, as transformers does
  unless its class is generic; returns whether it did."""
  changes = []

  def put(part, **fields):
    changes.extend(key for key, value in fields.items() if part.get(key) != value)
    part.update(fields)

  model = content.get("model") or {}
  if model.get("dropout"):
    message = "%s: model.dropout is %s, which is for training: each text is encoded in one way"
    logging.warning(message, path, model["dropout"])
    put(model, dropout=None)
  if settings.get("tokenizer_class") in GENERIC:
    return bool(changes)
  normalizer, first = content.get("normalizer") or {}, content.get("pre_tokenizer") or {}
  blank = settings.get("add_prefix_space")
  if normalizer.get("type") == "BertNormalizer":
    put(
      normalizer,
      **{ours: settings[key] for key, ours in wordpieces.NORMALIZER.items() if key in settings},
    )
  if first.get("type") == "ByteLevel" and kind in PREFIXED and blank is not None:
    put(first, add_prefix_space=blank)
  prepends = "Prepend" in [step.get("type") for step in normalizer.get("normalizers", ())]
  if kind == "llama" and (prepends or first.get("type") == "Metaspace"):
    scheme = "never" if blank is False else "first"
    put(content, normalizer=None, pre_tokenizer=METASPACE | dict(prepend_scheme=scheme))
    if scheme == "never" and "decoders" in (decoder := content.get("decoder") or {}):
      put(decoder, decoders=[x for x in decoder["decoders"] if x.get("type") != "Strip"])
  return bool(changes)


def _add_tokens(folder, inner: Inner, settings) -> None:
  """Adds the tokens of added_tokens.json and tokenizer_config.json; raises UserError if a token
  gets an id other than the file's."""
  tokens = {}
  if (path := folder / "added_tokens.json").exists():
    added = json_files.read(path, dict[str, int])
    tokens |= {i: AddedToken(name, normalized=False) for name, i in added.items()}
  for i, entry in settings.get("added_tokens_decoder", {}).items():
    flags = {key: value for key, value in entry.items() if key not in ("content", "__type")}
    where = f"{folder / 'tokenizer_config.json'}: added_tokens_decoder.{i}"
    json_files.check(entry, where, ADDED)
    if not re.fullmatch(r"[0-9]{1,9}", i) or not isinstance(entry.get("content"), str):
      raise UserError(f"{where} is no token with its id")
    tokens[int(i)] = AddedToken(entry["content"], **flags)
  for i, token in sorted(tokens.items()):
    (inner.add_special_tokens if token.special else inner.add_tokens)([token])
    if inner.token_to_id(token.content) != i:
      raise UserError(
        f"{folder}: the added token {token.content!r} has id {i}, but the vocabulary's next is"
        f" {inner.token_to_id(token.content)}: the files do not belong together"
      )


def _plain(settings, path) -> Inner:
  return spm.convert(spm.load(path))


def _t5(settings, path) -> Inner:
  """Builds T5's tokenizer: the pieces, then <extra_id_99> down to <extra_id_0>."""
  inner = spm.convert(spm.load(path))
  names = (f"<extra_id_{number}>" for number in reversed(range(settings.get("extra_ids", 100))))
  inner.add_special_tokens([name for name in names if inner.token_to_id(name) is None])
  return inner


def _bytes(settings) -> Inner:
  """Builds ByT5's tokenizer: <pad>, </s>, <unk>, the 256 bytes, then <extra_id_0> and so on."""
  first = [
    settings.get(f"{role}_token", name)
    for role, name in (("pad", "<pad>"), ("eos", "</s>"), ("unk", "<unk>"))
  ]
  names = [*first, *BYTES]
  inner = Inner(models.BPE({name: i for i, name in enumerate(names)}, [], unk_token=first[-1]))
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  # bytes that are no character are left out
  inner.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(REPLACEMENT, "")])
  inner.add_special_tokens(first)
  if "added_tokens_decoder" not in settings:
    extra = [f"<extra_id_{number}>" for number in range(settings.get("extra_ids", 125))]
    inner.add_special_tokens(settings.get("additional_special_tokens", extra))
  return inner


def _pegasus(settings, path) -> Inner:
  """Builds Pegasus' tokenizer, which has 103 tokens of pre-training between </s> and <unk>."""
  model, offset = spm.load(path), settings.get("offset", 103)
  names = ["<pad>", "</s>", "<mask_1>", "<mask_2>"] if offset else ["<pad>", "</s>"]
  names += [f"<unk_{number}>" for number in range(2, offset)]
  pieces = [(name, 0.0) for name in names]
  pieces += [(piece.text, piece.score) for piece in model.pieces[2:]]
  unk = next((i for i, piece in enumerate(model.pieces) if piece.kind == spm.UNKNOWN), None)
  if unk is None:
    raise UserError(f"{path} has no unknown piece, which a Pegasus has")
  inner = spm.convert(model, pieces, unk=unk + offset)
  inner.add_special_tokens(names)
  return inner


# model_type -> the function that builds a tokenizer, and the names that each of its files may have
_WORDS, _MERGES = (("vocab.txt",),), (("vocab.json",), ("merges.txt",))
_SPM = (("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model"),)
_MAKERS = {
  **dict.fromkeys(("bert", "distilbert", "electra", "mpnet"), (wordpieces.wordpiece, _WORDS)),
  "xlm-roberta": (spm_encoders.xlm_roberta, _SPM),
  "camembert": (spm_encoders.camembert, _SPM),
  "albert": (spm_encoders.albert, _SPM),
  "deberta-v2": (spm_encoders.deberta, _SPM),
  "modernbert": (None, (("tokenizer.json",),)),
  "esm": (wordpieces.esm, _WORDS),
  **dict.fromkeys(("gpt2", "roberta", "bart", "led", "longformer"), (byte_level.gpt2, _MERGES)),
  **dict.fromkeys(("opt", "gpt_neox"), (byte_level.gpt2, _MERGES)),
  **dict.fromkeys(("t5", "mt5", "umt5", "longt5"), (_t5, _SPM)),
  "byt5": (_bytes, ()),
  "mbart": (translators.mbart, _SPM),
  "m2m_100": (translators.nllb, _SPM),
  "m2m_100 with vocab.json": (translators.m2m, (*_SPM, ("vocab.json",))),
  "pegasus": (_pegasus, _SPM),
  **dict.fromkeys(("llama", "mistral", *GEMMAS), (_plain, _SPM)),
  **dict.fromkeys(("qwen2", "qwen3"), (byte_level.qwen, _MERGES)),
  "marian": (None, (("source.spm",), ("target.spm",), ("vocab.json",))),  # `read` builds it
}
