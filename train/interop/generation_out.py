"""Writes the settings of generation as transformers and CTranslate2 take them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from train.data.roles import Roles
from train.interop.generation import STOPS


def constant(decoding: Any, longest_source: int) -> Any:
  """Returns the settings (a Decoding) with one limit for outputs of all sources, that of the
  longest: neither transformers nor CTranslate2 has a limit by the source's length."""
  longest = decoding.longest(longest_source)
  return dataclasses.replace(decoding, max_len_ratio=0.0, max_len_extra=longest)


def notes(decoding: Any) -> list[str]:
  """Returns a sentence for each setting that others take in another sense, or not at all."""
  lines = []
  beams = decoding.beam > 1 and not decoding.temperature
  if beams and decoding.length_penalty and decoding.penalty == "wu":
    lines.append(
      f"decoding.penalty 'wu' has no counterpart: scores are divided by length **"
      f" {decoding.length_penalty:g} instead of ((5 + length) / 6) ** {decoding.length_penalty:g},"
      " so the order of beams may differ."
    )
  if decoding.max_len_ratio:
    lines.append(
      f"decoding.max_len_ratio={decoding.max_len_ratio:g} has no counterpart: all outputs have the"
      " limit of the longest source's."
    )
  return lines


def ctranslate2_notes(decoding: Any) -> list[str]:
  """Returns a sentence for each setting that CTranslate2 alone has no counterpart of."""
  lacking = dict(
    begin_banned=decoding.begin_banned,
    forced_last=decoding.strict and decoding.forced_last,
    max_len_total=decoding.max_len_total,
  )
  return [
    f"decoding.{name}={getattr(decoding, name)!r} has no counterpart in CTranslate2."
    for name, given in lacking.items()
    if given
  ]


def _forced(roles: Roles) -> int:
  """Returns the number of tokens that begin each output, which others count."""
  return len(roles.target_first) if roles.force else 0


def for_transformers(decoding: Any, ids: Mapping[str, int | None], roles: Roles) -> dict:
  """Returns the content of generation_config.json; `ids` are special tokens' by its names."""
  never, forced = {roles.pad, roles.start} - {*roles.output_ends}, _forced(roles)
  content = dict(
    **{key: ids[key] for key in ("pad_token_id", "eos_token_id", "bos_token_id")},
    num_beams=decoding.beam,
    num_return_sequences=decoding.nbest,
    length_penalty=decoding.length_penalty,
    early_stopping={stop: name for name, stop in STOPS.items()}[decoding.stop],
    do_sample=bool(decoding.temperature),
    min_new_tokens=decoding.min_len and decoding.min_len + forced,
    no_repeat_ngram_size=decoding.no_repeat_ngram,
    repetition_penalty=decoding.repetition_penalty,
    decoder_start_token_id=ids.get("decoder_start_token_id"),
    forced_bos_token_id=next(iter(roles.target_first), None) if forced else None,
  )
  if decoding.max_len_total and decoding.max_len_extra >= decoding.max_len_total - 1:
    content["max_length"] = decoding.max_len_total
  else:
    content["max_new_tokens"] = decoding.max_len_extra + forced
  if len(roles.output_ends) > 1:
    content["eos_token_id"] = list(roles.output_ends)
  alone = {i for banned in decoding.banned if len(banned) == 1 for i in banned}
  several = [list(banned) for banned in decoding.banned if len(banned) > 1]
  lists = dict(
    suppress_tokens=sorted(never | alone),
    bad_words_ids=several,
    begin_suppress_tokens=list(decoding.begin_banned),
    forced_eos_token_id=list(decoding.forced_last),
  )
  content |= {key: value for key, value in lists.items() if value}
  if decoding.temperature:
    content |= {key: getattr(decoding, key) for key in ("temperature", "top_k", "top_p")}
  return {key: value for key, value in content.items() if value is not None}


def for_ctranslate2(decoding: Any, names: Sequence[str], roles: Roles, generator: bool) -> dict:
  """Returns the arguments of Translator.translate_batch, or of Generator.generate_batch for a
  `generator`; `names` are the tokens' by their ids."""
  never, forced = sorted({roles.pad, roles.start} - {*roles.output_ends}), _forced(roles)
  banned = [*((i,) for i in never), *decoding.banned]
  # ours counts eos among the tokens of an output
  longest, shortest = max(decoding.max_len_extra - 1, 1), decoding.min_len
  content = dict(beam_size=decoding.beam, repetition_penalty=decoding.repetition_penalty)
  content |= dict(no_repeat_ngram_size=decoding.no_repeat_ngram)
  content["suppress_sequences"] = [[names[i] for i in ids] for ids in banned]
  if generator:
    content |= dict(max_length=longest, min_length=shortest, include_prompt_in_result=False)
  else:  # an output may be empty, and no input is cut
    lengths = dict(max_decoding_length=longest + forced)
    lengths["min_decoding_length"] = shortest and shortest + forced
    content |= lengths | dict(max_input_length=0)
  if len(roles.output_ends) > 1:
    content["end_token"] = [names[i] for i in roles.output_ends]
  if decoding.temperature:
    content |= dict(
      beam_size=1,
      sampling_temperature=decoding.temperature,
      sampling_topk=decoding.top_k,
      sampling_topp=decoding.top_p,
    )
  elif decoding.beam > 1:
    # CTranslate2 ends with patience * beams finished outputs: with 2 its outputs were those of
    # "exact" for 200 of 200 inputs, with 1 for 195 (tests/fixtures/trained/pre_norm)
    patience = 1.0 if decoding.stop == "full" else 2.0
    content |= dict(length_penalty=decoding.length_penalty, patience=patience)
  if decoding.nbest > 1:
    content["num_hypotheses"] = decoding.nbest
  return content
