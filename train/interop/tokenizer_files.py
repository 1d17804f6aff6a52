"""Reads the vocabulary files of a Hugging Face directory as `tokenizers.Tokenizer`s."""

import pathlib
import re
from collections.abc import Mapping

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from train.common import json_files
from train.common.errors import UserError, as_user_error
from train.data.pieces import ABSENT, BYTES, REPLACEMENT
from train.interop import byte_level, spm, spm_encoders

# fmt: off
CODES = (  # the languages of mBART-50; the first 25 are mBART's
  "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN",
  "it_IT", "ja_XX", "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO",
  "ru_RU", "si_LK", "tr_TR", "vi_VN", "zh_CN", "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL",
  "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN", "mr_IN", "pl_PL", "ps_AF",
  "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK", "xh_ZA",
  "gl_ES", "sl_SI",
)
# fmt: on

Inner = tokenizers.Tokenizer

# The types of the fields that are read of tokenizer_config.json and the files beside it.
SETTINGS = dict.fromkeys(
  ("bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token", "unk_token"), str
)
SETTINGS |= dict.fromkeys(("src_lang", "tgt_lang", "tokenizer_class", "word_tokenizer_type"), str)
SETTINGS |= dict.fromkeys(
  ("decoder_start_token_id", "extra_ids", "forced_bos_token_id", "offset"), int
)
SETTINGS |= dict.fromkeys(("add_bos_token", "add_prefix_space", "do_basic_tokenize"), bool)
SETTINGS |= dict.fromkeys(("do_lower_case", "strip_accents", "tokenize_chinese_chars"), bool)
SETTINGS |= dict.fromkeys(("keep_accents", "split_by_punct"), bool)
SETTINGS |= dict(force_bos_token_to_be_generated=bool, added_tokens_decoder=dict[str, dict])
SETTINGS |= dict(additional_special_tokens=list[str])
GEMMAS = ("gemma", "gemma2", "gemma3_text", "t5gemma")
ADDED = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), bool)
MOST_EXTRA = 10_000  # tokens that a number in tokenizer_config.json may add


def settings(folder: pathlib.Path) -> dict:
  """Returns the merged fields of generation_config.json, special_tokens_map.json and
  tokenizer_config.json, of which the last wins; a token is given by its name."""
  together = {}
  for name in ("generation_config", "special_tokens_map", "tokenizer_config"):
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
    return _marian(folder)
  if settings.get("tokenizer_class") == "ByT5Tokenizer":
    kind = "byt5"  # a T5 with bytes, which no file lists
  elif (path := folder / "tokenizer.json").exists():
    text = json_files.read_text(path)
    json_files.parse(text, path)  # names broken JSON better than the library does
    with as_user_error(f"{path} is not a tokenizer that can be read"):
      inner = Inner.from_str(text)
      _follow_config(inner.normalizer, settings)
      return inner, None, None
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
    inner = make(settings, *paths)
    _add_tokens(folder, inner, settings)
  return inner, None, None


def _follow_config(normalizer, settings: Mapping) -> None:
  """Changes BERT's normalizer as tokenizer_config.json has it, which transformers prefers."""
  if isinstance(normalizer, normalizers.BertNormalizer):
    normalizer.lowercase = settings.get("do_lower_case", normalizer.lowercase)
    normalizer.strip_accents = settings.get("strip_accents", normalizer.strip_accents)
    chinese = settings.get("tokenize_chinese_chars", normalizer.handle_chinese_chars)
    normalizer.handle_chinese_chars = chinese


def _vocabulary(path) -> dict[str, int]:
  """Returns token -> line; the later of two equal tokens counts, as in transformers."""
  return {token: i for i, token in enumerate(byte_level.lines(path))}


def _wordpiece(settings, path) -> Inner:
  """Builds BERT's tokenizer."""
  japanese = settings.get("word_tokenizer_type", "basic") != "basic"
  if japanese or settings.get("do_basic_tokenize") is False:
    raise UserError(
      f"{path.with_name('tokenizer_config.json')}: word_tokenizer_type or do_basic_tokenize asks"
      " for a split before WordPiece that is only supported in a tokenizer.json"
    )
  vocab, unk = _vocabulary(path), settings.get("unk_token", "[UNK]")
  inner = Inner(models.WordPiece(vocab, unk_token=unk, max_input_chars_per_word=100))
  inner.normalizer = normalizers.BertNormalizer()
  _follow_config(inner.normalizer, settings)
  inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  inner.decoder = decoders.WordPiece()
  names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<pad>")  # MPNet's last
  inner.add_special_tokens([name for name in names if name in vocab])
  if "<mask>" in vocab:
    inner.add_special_tokens([AddedToken("<mask>", lstrip=True)])
  return inner


def _esm(settings, path) -> Inner:
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


def _mbart(settings, path) -> Inner:
  """Builds mBART's tokenizer with fairseq's ids: four special tokens, the pieces with ids one
  larger, the languages, <mask>."""
  model = spm.load(path)
  first = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
  pieces = first + [(piece.text, piece.score) for piece in model.pieces[3:]]
  inner = spm.convert(model, pieces, unk=3)
  inner.add_special_tokens([name for name, _ in first])
  of_50 = "mbart50" in str(settings.get("tokenizer_class", "")).lower()
  inner.add_special_tokens(list(CODES if of_50 else CODES[:25]))
  inner.add_special_tokens([AddedToken("<mask>", lstrip=True)])
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


def _marian(folder) -> tuple[Inner, Inner, int]:
  """Builds the tokenizers of sources and targets from two SentencePiece models. vocab.json has the
  ids of their pieces; a piece without an id is unknown."""
  paths = [folder / name for name in ("source.spm", "target.spm", "vocab.json")]
  if missing := [path.name for path in paths if not path.exists()]:
    raise UserError(f"{folder} has no {', '.join(missing)}: copy it from where the others are from")
  vocab = json_files.read(paths[2], dict[str, int])
  if sorted(vocab.values()) != list(range(len(vocab))) or "<unk>" not in vocab:
    raise UserError(f"{paths[2]}: the ids must be 0 to {len(vocab) - 1}, and <unk> must have one")
  names = sorted(vocab, key=vocab.get)
  with as_user_error(f"{folder}: source.spm, target.spm and vocab.json make no tokenizer"):
    return *(_numbered(spm.load(path), names) for path in paths[:2]), len(vocab)


def _numbered(model: spm.Model, names: list[str]) -> Inner:
  scores = {piece.text: piece.score for piece in model.pieces if piece.kind == spm.NORMAL}
  special = [name for name in names if re.fullmatch(r"<unk>|<pad>|</s>|<s>|>>.+<<", name)]
  # other names are no pieces of this model: they can be decoded, but nothing is encoded as them
  there = scores.keys() | set(special)
  pieces = [(x if x in there else ABSENT + x, scores.get(x, 0.0)) for x in names]
  numbered = set(names)
  pieces += [(x, score) for x, score in scores.items() if x not in numbered]
  inner = spm.convert(model, pieces, unk=names.index("<unk>"))
  inner.decoder = decoders.Sequence([decoders.Replace(ABSENT, ""), inner.decoder])
  inner.add_special_tokens(special)
  return inner


# model_type -> the function that builds a tokenizer, and the names that each of its files may have
_WORDS, _MERGES = (("vocab.txt",),), (("vocab.json",), ("merges.txt",))
_SPM = (("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model"),)
_MAKERS = {
  **dict.fromkeys(("bert", "distilbert", "electra", "mpnet"), (_wordpiece, _WORDS)),
  "xlm-roberta": (spm_encoders.xlm_roberta, _SPM),
  "camembert": (spm_encoders.camembert, _SPM),
  "albert": (spm_encoders.albert, _SPM),
  "deberta-v2": (spm_encoders.deberta, _SPM),
  "modernbert": (None, (("tokenizer.json",),)),
  "esm": (_esm, _WORDS),
  **dict.fromkeys(("gpt2", "roberta", "bart", "led", "longformer"), (byte_level.gpt2, _MERGES)),
  **dict.fromkeys(("opt", "gpt_neox"), (byte_level.gpt2, _MERGES)),
  **dict.fromkeys(("t5", "mt5", "umt5", "longt5"), (_t5, _SPM)),
  "byt5": (_bytes, ()),
  "mbart": (_mbart, _SPM),
  "pegasus": (_pegasus, _SPM),
  **dict.fromkeys(("llama", "mistral", *GEMMAS), (_plain, _SPM)),
  **dict.fromkeys(("qwen2", "qwen3"), (byte_level.qwen, _MERGES)),
  "marian": (None, (("source.spm",), ("target.spm",), ("vocab.json",))),  # `read` builds it
}
