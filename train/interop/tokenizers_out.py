"""Writes a `Tokenizer` as the files that transformers' AutoTokenizer reads."""

import json
import pathlib

import tokenizers
from tokenizers.processors import TemplateProcessing

from train.common.errors import UserError
from train.common.files import write_atomically
from train.data.roles import SPECIALS, Roles
from train.data.tokenizer import Tokenizer


def write(tokenizer: Tokenizer, folder: pathlib.Path, kind: str, max_len: int) -> None:
  """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json into `folder`.

  kind: "encoder", whose text is framed by its first tokens and eos; "decoder", by its first tokens
  alone; "encoder-decoder", by the tokens of sources. A foreign tokenizer keeps its own frame.
  max_len: the tokens that the model can read.
  Raises UserError for a tokenizer with other pieces for targets, which tokenizer.json cannot hold.
  """
  if tokenizer.targets_differ:
    raise UserError(
      "the tokenizer has other pieces for targets than for sources (Marian's), and tokenizer.json"
      " holds one set: copy the files source.spm, target.spm and vocab.json of where it came from"
    )
  if _has_more(tokenizer):
    raise UserError(
      "the tokenizer's model has pieces without an id (M2M-100's), which tokenizer.json cannot"
      " express: copy the files sentencepiece.bpe.model and vocab.json of where it came from"
    )
  folder, inner, roles = pathlib.Path(folder), tokenizer.copy_inner(), tokenizer.roles
  if not tokenizer.foreign or inner.post_processor is None or roles.languages:
    inner.post_processor = _template(inner, roles, kind)
  if not tokenizer.foreign:
    inner = _absorbing_blanks(inner, tokenizer)
  names = _names(tokenizer, kind)
  settings = dict(
    tokenizer_class="PreTrainedTokenizerFast",
    model_max_length=max_len,
    model_input_names=["input_ids", *["token_type_ids"] * roles.types, "attention_mask"],
    clean_up_tokenization_spaces=False,
    **names,
    **languages(tokenizer),
  )
  write_atomically(folder / "tokenizer.json", inner.to_str(pretty=True))
  for name, content in (("tokenizer_config", settings), ("special_tokens_map", names)):
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    write_atomically(folder / f"{name}.json", text)


def _has_more(tokenizer: Tokenizer) -> bool:
  """Returns whether pieces, and not only added tokens, have ids beyond the vocabulary."""
  pieces = tokenizer.copy_inner().get_vocab(with_added_tokens=False)
  beyond = {i for i in pieces.values() if i >= tokenizer.vocab_size}
  return bool(beyond - {*tokenizer.specials.values()})


def languages(tokenizer: Tokenizer) -> dict:
  """Returns the languages and the frame of a translator, in the form that tokenizers_in reads."""
  roles, names = tokenizer.roles, {i: code for code, i in tokenizer.languages.items()}
  pairs = (("src_lang", roles.source_place), ("tgt_lang", roles.target_place))
  values = {key: getattr(roles, place) for key, place in pairs if place}
  ids = {key: x[0] if isinstance(x, tuple) and x else x for key, x in values.items()}
  found = {key: names[i] for key, i in ids.items() if i in names}
  behind = roles.source_place == "source_last" and roles.target_place == "target_first"
  return found | (dict(legacy_behaviour=True) if behind else {})


def _absorbing_blanks(inner, tokenizer: Tokenizer) -> tokenizers.Tokenizer:
  """Makes masks and sentinels include the blank in front of them, as ours do."""
  parts = json.loads(inner.to_str())
  for token in parts["added_tokens"]:
    token["lstrip"] = tokenizer.blank_first and token["content"] not in SPECIALS
  return tokenizers.Tokenizer.from_str(json.dumps(parts))


def _template(inner, roles: Roles, kind: str) -> TemplateProcessing:
  first = roles.source_first if kind == "encoder-decoder" else roles.first
  ends = kind == "encoder" or (kind == "encoder-decoder" and roles.closed)
  last = (roles.eos,) if ends else ()
  if kind == "encoder-decoder":
    last += roles.source_last
  token, second = inner.id_to_token, int(roles.types)
  single = [*map(token, first), "$A", *map(token, last)]
  pair = [f"{part}:0" for part in (*map(token, first), "$A", *map(token, roles.between))]
  pair += [f"{part}:{second}" for part in ("$B", *map(token, last))]
  used = {*first, *roles.between, *last}
  return TemplateProcessing(
    single=single, pair=pair, special_tokens=[(token(i), i) for i in sorted(used)]
  )


def _names(tokenizer: Tokenizer, kind: str) -> dict:
  """Returns the special tokens by transformers' names of their roles."""
  roles, by_id = tokenizer.roles, {i: name for name, i in tokenizer.specials.items()}
  start = roles.first[0] if roles.first else roles.start
  start = None if start == roles.pad != roles.eos else start  # T5's decoders start with padding
  ids = dict(bos=start, eos=roles.eos, pad=roles.pad, unk=roles.unk, mask=roles.mask)
  if kind != "decoder" and roles.first:
    ids |= dict(cls=roles.first[0], sep=roles.eos)
  names = {f"{role}_token": by_id[i] for role, i in ids.items() if i in by_id}
  more = [name for name in tokenizer.specials if name not in names.values()]
  return names | ({"additional_special_tokens": more} if more else {})
