"""The tokenizer of a Hugging Face directory as a `Tokenizer`, and one of ours as such files.

What the ids are for (`Roles`) is said by the model's config.json, the tokens' names in
tokenizer_config.json and special_tokens_map.json, and the family: how it frames its texts.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping

import tokenizers
from tokenizers.processors import TemplateProcessing

from train.data.tokenizer import Tokenizer
from train.data.vocabulary import SPECIALS, Roles
from train.errors import UserError, choose
from train.interop import vocabulary_files as files
from train.workdir import write_atomically


@dataclasses.dataclass(frozen=True)
class Family:
  """How models of a type frame their texts, and what their special tokens are called by default.

  Frames are names of roles: first and between of models that read one side; the sides of an
  encoder-decoder.
  """

  names: Mapping[str, str]
  first: tuple[str, ...] = ()
  between: tuple[str, ...] = ("eos",)
  source_first: tuple[str, ...] = ()
  target_first: tuple[str, ...] = ()
  start: str = "first"  # what a decoder reads first, if the config does not say
  types: bool = False


_BERT = Family(
  dict(cls="[CLS]", eos="[SEP]", pad="[PAD]", unk="[UNK]", mask="[MASK]"), ("cls",), types=True
)
_S = dict(bos="<s>", cls="<s>", eos="</s>", pad="<pad>", unk="<unk>", mask="<mask>")
_T5 = Family(dict(eos="</s>", pad="<pad>", unk="<unk>"), start="pad")
FAMILIES = {
  "bert": _BERT,
  "distilbert": dataclasses.replace(_BERT, types=False),
  "electra": _BERT,
  "roberta": Family(_S, ("cls",), ("eos", "eos")),
  "esm": Family(dict(cls="<cls>", eos="<eos>", pad="<pad>", unk="<unk>", mask="<mask>"), ("cls",)),
  "gpt2": Family(dict(bos="<|endoftext|>", eos="<|endoftext|>"), start="bos"),
  "llama": Family(dict(bos="<s>", eos="</s>", unk="<unk>"), ("bos",)),
  "t5": _T5,
  "mt5": _T5,
  "bart": Family(_S, ("bos",), ("eos", "eos"), ("bos",), ("bos",), start="eos"),
  "mbart": Family(_S, start="eos"),
  "marian": _T5,
  "pegasus": Family(dict(_T5.names, mask="<mask_2>"), between=(), start="pad"),
}
_SEP = ("bert", "distilbert", "electra", "roberta")  # end texts by what they call sep_token


LANGUAGE = re.compile(r"[a-z]{2}_[A-Z]{2}")  # mBART's


def read(folder: pathlib.Path, config: Mapping) -> Tokenizer:
  """The tokenizer in a directory whose parsed config.json is `config`.

  UserError for a directory without one, for broken files, for files of kinds that are not read, and
  for ids that the model's table does not have.
  """
  folder = pathlib.Path(folder)
  kind = config.get("model_type")
  family = choose(FAMILIES, kind, f"model_type in {folder / 'config.json'}")
  settings = files.settings(folder)
  inner, target, size = files.read(folder, kind, settings)
  ids = {}
  for role in ("bos", "cls", "pad", "unk", "mask", "eos"):
    names = (settings.get(_key(role, kind)), family.names.get(role))
    found = [inner.token_to_id(name) for name in names if isinstance(name, str)]
    ids[role] = next((i for i in (*found, config.get(f"{role}_token_id")) if type(i) is int), None)
  if kind == "llama":
    bare = settings.get("add_bos_token") is False
    if inner.post_processor is not None:  # which knows better
      bare = inner.encode("a").ids[:1] != [ids["bos"]]
    family = dataclasses.replace(family, first=() if bare else family.first)
  roles = _roles(folder, config, settings, family, ids)
  if kind == "mbart":
    roles = _with_languages(folder, inner, config, settings, roles)
  _mark_special(inner, roles)
  if target is not None:
    _mark_special(target, roles)
  made = Tokenizer(inner, roles, target, size)
  _check(folder, made, config)
  return made


def _key(role: str, kind: str) -> str:
  """What tokenizer_config.json calls a role's token."""
  return "sep_token" if role == "eos" and kind in _SEP else f"{role}_token"


def _roles(folder, config, settings, family, ids) -> Roles:
  def required(role):
    if ids.get(role) is None:
      raise UserError(
        f"{folder}: the vocabulary has no token for {role!r} ({family.names.get(role)}):"
        f" name it in tokenizer_config.json ({_key(role, config['model_type'])})"
      )
    return ids[role]

  def frame(names):
    return tuple(required(name) for name in names)

  key = "decoder_start_token_id"
  start = config.get(key, settings.get(key))
  if start is None:
    name = (family.first or ("bos",))[0] if family.start == "first" else family.start
    start = required(name)
  eos = required("eos")
  return Roles(
    pad=eos if ids.get("pad") is None else ids["pad"],
    eos=eos,
    start=start,
    unk=ids.get("unk"),
    mask=ids.get("mask"),
    first=frame(family.first),
    between=frame(family.between),
    source_first=frame(family.source_first),
    target_first=frame(family.target_first),
    types=family.types and config.get("type_vocab_size", 2) > 1,
  )


def _with_languages(folder, inner, config, settings, roles) -> Roles:
  """mBART's languages: mBART-50 puts a language's code in front of source and target, mBART-cc25
  behind the source's eos, and its decoder begins with the target's."""
  codes = {key: inner.token_to_id(settings.get(key) or "") for key in ("src_lang", "tgt_lang")}
  fifty = inner.token_to_id("af_ZA") is not None
  if fifty:
    forced = config.get("forced_bos_token_id", settings.get("forced_bos_token_id"))
    codes["tgt_lang"] = codes["tgt_lang"] if forced is None else forced
  start = config.get("decoder_start_token_id")
  if not fifty and codes["tgt_lang"] is None and LANGUAGE.fullmatch(inner.id_to_token(start or 0)):
    codes["tgt_lang"] = start
  for key, found in codes.items():
    if found is None:
      raise UserError(
        f"{folder / 'tokenizer_config.json'} has no {key}: say in which language the"
        f" {'sources' if key == 'src_lang' else 'targets'} are, such as {key}='de_DE'"
      )
  source, target = codes["src_lang"], codes["tgt_lang"]
  if fifty:
    return dataclasses.replace(roles, source_first=(source,), target_first=(target,))
  return dataclasses.replace(roles, source_last=(source,), start=target)


def _mark_special(inner: tokenizers.Tokenizer, roles: Roles) -> None:
  """Makes the tokens with a role special, if the file did not."""
  added = inner.get_added_tokens_decoder()
  used = {roles.pad, roles.eos, roles.start, roles.unk, roles.mask, *roles.first}
  used |= {*roles.between, *roles.source_first, *roles.source_last, *roles.target_first}
  for i in sorted(used - {None}):
    name = inner.id_to_token(i)
    if name is not None and not (i in added and added[i].special):
      inner.add_special_tokens([added.get(i, name)])


def _check(folder, tokenizer, config) -> None:
  rows = config.get("vocab_size")
  if rows is None:
    return
  for field, value in dataclasses.asdict(tokenizer.roles).items():
    if field == "types":
      continue
    for i in value if isinstance(value, tuple) else (value,):
      if i is not None and not 0 <= i < rows:
        raise UserError(
          f"{folder}: the token for {field!r} has id {i}, and the model's table {rows} rows"
          " (vocab_size in config.json): the two files do not belong together"
        )
  if tokenizer.vocab_size > rows:
    raise UserError(
      f"{folder}: the vocabulary has {tokenizer.vocab_size} tokens, and the model's table"
      f" {rows} rows (vocab_size in config.json): the two files do not belong together"
    )


# Writing


KINDS = ("encoder", "decoder", "encoder-decoder")


def write(tokenizer: Tokenizer, folder: pathlib.Path, kind: str, max_len: int) -> None:
  """tokenizer.json, tokenizer_config.json and special_tokens_map.json, as AutoTokenizer reads them.

  kind: encoder, decoder or encoder-decoder, which says what frames a text: an encoder's is between
  its first tokens and eos, a decoder's behind its first, a source between its own. A foreign
  tokenizer keeps the frame that it has. max_len: tokens that the model can read. UserError for
  a tokenizer with other pieces for targets, which such a file cannot hold.
  """
  choose(dict.fromkeys(KINDS), kind, "kind of model")
  if tokenizer.targets_differ:
    raise UserError(
      "the tokenizer has other pieces for targets than for sources (Marian's), and tokenizer.json"
      " holds one set: copy the files source.spm, target.spm and vocab.json of where it came from"
    )
  folder, inner, roles = pathlib.Path(folder), tokenizer.copy_inner(), tokenizer.roles
  if not tokenizer.foreign or inner.post_processor is None:
    inner.post_processor = _template(inner, roles, kind)
  if not tokenizer.foreign:
    inner = _swallowing(inner, tokenizer)
  names = _names(tokenizer, kind)
  settings = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": max_len,
    "model_input_names": ["input_ids", *["token_type_ids"] * roles.types, "attention_mask"],
    "clean_up_tokenization_spaces": False,
    **names,
  }
  settings |= _languages(inner, roles)
  write_atomically(folder / "tokenizer.json", inner.to_str(pretty=True))
  for name, content in (("tokenizer_config", settings), ("special_tokens_map", names)):
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    write_atomically(folder / f"{name}.json", text)


def _languages(inner, roles: Roles) -> dict:
  """mBART's, as `_with_languages` reads them."""
  source, target = roles.source_last or roles.source_first, roles.target_first or (roles.start,)
  names = [inner.id_to_token(i) for i in (*source, *target)]
  if len(names) != 2 or not all(map(LANGUAGE.fullmatch, names)):
    return {}
  return dict(zip(("src_lang", "tgt_lang"), names))


def _swallowing(inner, tokenizer: Tokenizer) -> tokenizers.Tokenizer:
  """With masks and sentinels that stand for the blank in front of them too, as ours do."""
  parts = json.loads(inner.to_str())
  for token in parts["added_tokens"]:
    token["lstrip"] = tokenizer.blank_first and token["content"] not in SPECIALS
  return tokenizers.Tokenizer.from_str(json.dumps(parts))


def _template(inner, roles: Roles, kind: str) -> TemplateProcessing:
  first = roles.source_first if kind == "encoder-decoder" else roles.first
  last = () if kind == "decoder" else (roles.eos,)
  token, second = inner.id_to_token, int(roles.types)
  single = [*map(token, first), "$A", *map(token, last)]
  pair = [f"{part}:0" for part in (*map(token, first), "$A", *map(token, roles.between))]
  pair += [f"{part}:{second}" for part in ("$B", *map(token, last))]
  used = {*first, *roles.between, *last}
  return TemplateProcessing(
    single=single, pair=pair, special_tokens=[(token(i), i) for i in sorted(used)]
  )


def _names(tokenizer: Tokenizer, kind: str) -> dict:
  """The special tokens' names as transformers calls them."""
  roles, by_id = tokenizer.roles, {i: name for name, i in tokenizer.specials.items()}
  start = roles.first[0] if roles.first else roles.start
  start = None if start == roles.pad != roles.eos else start  # T5's decoders begin with padding
  ids = dict(bos=start, eos=roles.eos, pad=roles.pad, unk=roles.unk, mask=roles.mask)
  if kind == "encoder" and roles.first:
    ids |= dict(cls=roles.first[0], sep=roles.eos)
  found = {f"{role}_token": by_id[i] for role, i in ids.items() if i in by_id}
  more = [name for name in tokenizer.specials if name not in found.values()]
  return found | ({"additional_special_tokens": more} if more else {})
