"""Reads the tokenizer of a Hugging Face directory as a `Tokenizer`.

The roles of ids come from the model's config.json, from the tokens' names in tokenizer_config.json
and special_tokens_map.json, and from how models of its type frame texts.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping

import tokenizers
from absl import logging

from train.common.errors import UserError, as_user_error, choose
from train.common.json_files import LARGEST
from train.data import languages
from train.data.roles import Roles, check
from train.data.tokenizer import Tokenizer
from train.interop import generation
from train.interop import tokenizer_files as files


@dataclasses.dataclass(frozen=True)
class Framing:
  """The special tokens that models of a type put around texts, by their roles."""

  names: Mapping[str, str]  # role -> the token's usual name
  first: tuple[str, ...] = ()
  between: tuple[str, ...] = ("eos",)
  source_first: tuple[str, ...] = ()
  target_first: tuple[str, ...] = ()
  start: str = "first"  # the role of what a decoder reads first, if config.json has none
  closed: bool = True  # see train/data/roles.py
  # Token types of a config.json without a number; None: none, though the model may have some.
  types: int | None = None
  languages: str = r"^$"  # pattern of the tokens of languages
  usual: tuple[str, ...] = ()  # the source's, one of these, if tokenizer_config.json has none


_BERT = Framing(
  dict(cls="[CLS]", eos="[SEP]", pad="[PAD]", unk="[UNK]", mask="[MASK]"), ("cls",), types=2
)
_S = dict(bos="<s>", cls="<s>", eos="</s>", pad="<pad>", unk="<unk>", mask="<mask>")
_BOS = dict(first=("bos",), between=("bos",), closed=False)
_BARE = dict(between=(), closed=False)
_LLAMA = Framing(dict(bos="<s>", eos="</s>", unk="<unk>"), **_BOS)
_GEMMA = Framing(dict(bos="<bos>", eos="<eos>", pad="<pad>", unk="<unk>"), **_BOS)
_T5GEMMA = dataclasses.replace(_GEMMA, first=(), source_first=("bos",), start="bos")
_GPT2 = Framing(dict(bos="<|endoftext|>", eos="<|endoftext|>"), start="bos", **_BARE)
_ROBERTA = Framing(_S, ("cls",), ("eos", "eos"))
_T5 = Framing(dict(eos="</s>", pad="<pad>", unk="<unk>"), start="pad")
FRAMINGS = {
  "bert": _BERT,
  "distilbert": dataclasses.replace(_BERT, types=None),
  "electra": _BERT,
  "albert": Framing(dict(_BERT.names, pad="<pad>", unk="<unk>"), ("cls",), types=2),
  "modernbert": dataclasses.replace(_BERT, types=None),
  "deberta-v2": dataclasses.replace(_BERT, types=0),
  **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "longformer"), _ROBERTA),
  "mpnet": dataclasses.replace(_ROBERTA, names=dict(_S, unk="[UNK]")),
  "esm": Framing(dict(cls="<cls>", eos="<eos>", pad="<pad>", unk="<unk>", mask="<mask>"), ("cls",)),
  "gpt2": _GPT2,
  "llama": _LLAMA,
  "mistral": _LLAMA,
  **dict.fromkeys(("qwen2", "qwen3"), Framing(dict(eos="<|endoftext|>"), start="eos", **_BARE)),
  **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _GEMMA),
  "opt": Framing(dict(bos="</s>", eos="</s>", pad="<pad>"), **_BOS),
  "gpt_neox": _GPT2,
  "t5gemma": _T5GEMMA,
  **dict.fromkeys(("t5", "mt5", "umt5", "longt5"), _T5),
  "bart": Framing(_S, ("bos",), ("eos", "eos"), ("bos",), ("bos",), start="eos"),
  "mbart": Framing(_S, between=(), start="eos", languages=r"[a-z]{2}_[A-Z]{2}", usual=("en_XX",)),
  "m2m_100": Framing(
    _S,
    start="eos",
    languages=r"__\w+__|[a-z]{3}_[A-Z][a-z]{3}",
    usual=("__en__", "eng_Latn"),
  ),
  "led": Framing(_S, ("bos",), ("eos", "eos"), ("bos",), ("bos",), start="eos"),
  "marian": _T5,
  "pegasus": Framing(dict(_T5.names, mask="<mask_2>"), between=(), start="pad"),
}
# These call the end of a text sep_token.
_SEP = ("bert", "distilbert", "electra", "albert", "modernbert", "deberta-v2", "roberta")
_SEP += ("longformer", "xlm-roberta", "camembert", "mpnet")


def read(
  folder: pathlib.Path, config: Mapping, options: generation.Options | None = None
) -> Tokenizer:
  """Returns the tokenizer in a directory whose parsed config.json is `config`, and whose options of
  generation, which have ids of tokens, are `options`.

  Raises UserError for a directory without one, for broken files, for unsupported kinds of files,
  and for ids beyond the model's embedding table.
  """
  kind = config.get("model_type")
  framing = choose(FRAMINGS, kind, f"model_type in {folder / 'config.json'}")
  if config.get("is_encoder_decoder") and kind in _SEP:  # two encoders, of which one is a decoder
    frame = dict(source_first=framing.first, target_first=framing.first)
    framing = dataclasses.replace(framing, **frame, types=None)
  settings = files.settings(folder)
  options = options or generation.read(folder, config)
  with as_user_error(f"{folder}: the vocabulary cannot be used"):
    tokenizer = _tokenizer(folder, framing, config, settings, options)
    _check(folder, tokenizer, config)
    check(tokenizer)
  return tokenizer


def _tokenizer(folder, framing, config, settings, options) -> Tokenizer:
  kind = config["model_type"]
  inner, target, size = files.read(folder, kind, settings)
  ids = {}
  for role in ("bos", "cls", "pad", "unk", "mask", "eos"):
    names = (settings.get(_key(role, kind)), framing.names.get(role))
    by_name = [inner.token_to_id(name) for name in names if isinstance(name, str)]
    number = options.given.get(f"{role}_token_id", config.get(f"{role}_token_id"))
    numbers = (*by_name, *(number if isinstance(number, list) else [number]))  # -1: none
    ids[role] = next((i for i in numbers if type(i) is int and 0 <= i <= LARGEST), None)
  own = (folder / "tokenizer.json").exists() and target is None
  if "bos" in framing.first and not config.get("is_encoder_decoder"):
    adds = settings.get("add_bos_token")
    if adds is None:  # transformers' generic class adds none
      name = settings.get("tokenizer_class", "Llama")
      adds = "Llama" in name or "Gemma" in name
    if own or not adds:
      framing = dataclasses.replace(framing, first=(), between=())
  roles = _roles(folder, config, options, framing, ids)
  if own:  # its own frame counts, whatever add_bos_token is
    roles = _as_processed(inner, roles, config)
  if names := _languages(inner, framing.languages):
    roles = _with_languages(folder, names, framing.usual, options, settings, roles)
  for part in filter(None, (inner, target)):
    _mark_special(part, roles)
  return _without_unused(folder, Tokenizer(inner, roles, target, size), config)


def _key(role: str, kind: str) -> str:
  """Returns the key of a role's token in tokenizer_config.json."""
  return "sep_token" if role == "eos" and kind in _SEP else f"{role}_token"


def _roles(folder, config, options, framing, ids) -> Roles:
  def required(role):
    if ids.get(role) is None:
      raise UserError(
        f"{folder}: the vocabulary has no token for {role!r} ({framing.names.get(role)}):"
        f" name it in tokenizer_config.json ({_key(role, config['model_type'])})"
      )
    return ids[role]

  start = options.given.get("decoder_start_token_id")
  if start is None:
    name = (framing.first or ("bos",))[0] if framing.start == "first" else framing.start
    start = required(name)
  eos, ends = required("eos"), options.ends
  if ends and eos not in ends:
    message = "%s: outputs end with the ids %s (eos_token_id), and not with the tokenizer's eos, %d"
    logging.warning(message, options.file, list(ends), eos)
  forced = options.given.get("forced_bos_token_id")
  frames = ("first", "between", "source_first", "target_first")
  return Roles(
    pad=eos if ids.get("pad") is None else ids["pad"],
    eos=eos,
    start=start,
    unk=ids.get("unk"),
    mask=ids.get("mask"),
    **{name: tuple(map(required, getattr(framing, name))) for name in frames}
    | ({} if forced is None else dict(target_first=(forced,))),
    force=forced is not None,
    closed=framing.closed,
    types=framing.types is not None and config.get("type_vocab_size", framing.types) > 1,
    ends=() if ends in ((), (eos,)) else ends,
  )


def _languages(inner, pattern: str) -> dict[str, int]:
  """Returns the ids of the tokens of languages by their names, in the order of the ids."""
  added = {token.content: i for i, token in inner.get_added_tokens_decoder().items()}
  for names in (added, inner.get_vocab()):
    if there := {name: i for name, i in names.items() if re.fullmatch(pattern, name)}:
      return dict(sorted(there.items(), key=lambda item: item[1]))
  return {}


def _with_languages(folder, names, usual, options, settings, roles) -> Roles:
  """Returns the roles with the languages, their places, and the tokens of the usual direction.

  NLLB, M2M-100 and mBART-50 put a language in front of source and target. mBART-cc25 puts the
  source's behind its eos, and its decoder starts with the target's. NLLB's legacy_behaviour puts
  the source's behind its eos too.
  """
  file, ids = folder / "tokenizer_config.json", tuple(names.values())
  cc25 = "de_DE" in names and "af_ZA" not in names
  generic = settings.get("tokenizer_class") in files.GENERIC  # keeps tokenizer.json's own frame
  behind = generic and any(i in ids for i in roles.source_last)
  last = cc25 or behind or settings.get("legacy_behaviour", False)
  framed = [i for i in (*roles.source_first, *roles.source_last) if i in ids and generic]
  roles = dataclasses.replace(
    roles,
    source_first=(),
    source_last=(),
    languages=ids,
    source_place="source_last" if last else "source_first",
    target_place="start" if cc25 else "target_first",
    force=True,
  )
  codes = {languages.code(name): i for name, i in names.items()}
  source, target = (
    None if key not in settings else choose(codes | names, settings[key], f"{file}: {key}")
    for key in ("src_lang", "tgt_lang")
  )
  if source is None and framed:
    source = framed[0]
  elif source is None:
    name = next((name for name in usual if name in names), None)
    source = names.get(name)
    logging.info("%s has no src_lang: sources are %s unless --source_lang names them", file, name)
  if source is not None:
    roles = dataclasses.replace(roles, **{roles.source_place: (source,)})
  key = "decoder_start_token_id" if cc25 else "forced_bos_token_id"
  counts = options.given.get(key)
  if None not in (counts, target) and counts != target:
    message = "%s: outputs begin with id %d (%s), not with tgt_lang, which is %d"
    logging.warning(message, options.file, counts, key, target)
  target = target if counts is None else counts
  if cc25:  # padding stands for a language that is not known
    return dataclasses.replace(roles, start=roles.pad if target is None else target)
  return dataclasses.replace(roles, target_first=() if target is None else (target,))


def _ids(roles: Roles) -> list[tuple[str, int]]:
  """Returns the name and the id of each role; a role of several tokens has several."""
  listed = {name: x if isinstance(x, tuple) else (x,) for name, x in vars(roles).items()}
  return [(name, i) for name, ids in listed.items() for i in ids if type(i) is int]


def _mark_special(inner: tokenizers.Tokenizer, roles: Roles) -> None:
  """Makes the tokens with a role special where the file does not."""
  added = inner.get_added_tokens_decoder()
  for i in sorted({i for _, i in _ids(roles)}):
    name = inner.id_to_token(i) if 0 <= i <= LARGEST else None
    if name is not None and not (i in added and added[i].special):
      inner.add_special_tokens([added.get(i, name)])


def _as_processed(inner, roles: Roles, config) -> Roles:
  """Returns the roles with the frame of tokenizer.json's own post-processor: not all models of a
  family have the family's usual tokenizer."""
  if inner.post_processor is None:
    return roles
  a, b = (inner.encode(text, add_special_tokens=False).ids for text in "ab")
  single, pair = inner.encode("a"), inner.encode("a", "b")
  at = next((i for i in range(len(single.ids)) if single.ids[i : i + len(a)] == a), None)
  if not a or not b or at is None:
    return roles
  first, last = tuple(single.ids[:at]), tuple(single.ids[at + len(a) :])
  rest = pair.ids[len(first) + len(a) :]
  ends = len(rest) - len(b) - len(last)
  reads_pairs = ends >= 0 and rest[ends : ends + len(b)] == b
  between = tuple(rest[:ends]) if reads_pairs else roles.between
  roles = dataclasses.replace(roles, between=between, closed=bool(last))
  if config.get("is_encoder_decoder"):
    learned = first if roles.target_first and not roles.force else roles.target_first
    frame = dict(source_first=first, source_last=last[1:], target_first=learned)
    return dataclasses.replace(roles, **frame)
  return dataclasses.replace(roles, first=first, types=roles.types and 1 in pair.type_ids)


def _without_unused(folder, tokenizer: Tokenizer, config) -> Tokenizer:
  """Removes the added tokens that the model's table has no rows for, unless a frame needs them. A
  BART fine-tuned without its mask is such a model."""
  rows, roles = config.get("vocab_size"), tokenizer.roles
  beyond = {i: name for name, i in tokenizer.specials.items() if rows is not None and i >= rows}
  frames = {i for name, i in _ids(roles) if name != "mask"}
  if not beyond or frames & beyond.keys() or tokenizer.vocab_size - rows > len(beyond):
    return tokenizer
  names = ", ".join(beyond.values())
  logging.warning("%s: left out, as the model's table has no row for it: %s", folder, names)
  if roles.mask in beyond:
    roles = dataclasses.replace(roles, mask=None)
  return Tokenizer(tokenizer.copy_inner(), roles, None, rows)


def _check(folder, tokenizer, config) -> None:
  if (rows := config.get("vocab_size")) is None:
    return
  if (size := tokenizer.vocab_size) < 0.9 * rows:  # tables are padded by less
    logging.warning("%s: a vocabulary of %d, and the model's table has %d rows", folder, size, rows)
  ids = _ids(tokenizer.roles)
  unfit = [f"token for {name!r} has id {i}" for name, i in ids if not 0 <= i < rows]
  if size > rows:
    unfit.append(f"vocabulary has {size} tokens")
  if unfit:
    raise UserError(
      f"{folder}: the {unfit[0]}, and the model's table {rows} rows (vocab_size in config.json):"
      " the two files do not belong together"
    )
