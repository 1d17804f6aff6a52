"""Writes the settings of generation as transformers and CTranslate2 take them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from train.data.roles import Roles
from train.interop.generation import STOPS


def constant(decoding: Any, longest_source: int) -> Any:
  """Returns the settings (a seq2seq.Decoding) with one limit for outputs of all sources, that of
  the longest: neither transformers nor CTranslate2 has a limit by the source's length."""
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


def for_transformers(decoding: Any, ids: Mapping[str, int | None], roles: Roles) -> dict:
  """Returns the content of generation_config.json; `ids` are special tokens' by its names."""
  never = {roles.pad, roles.start} - {roles.eos}
  content = dict(
    **{key: ids[key] for key in ("pad_token_id", "eos_token_id", "bos_token_id")},
    num_beams=decoding.beam,
    length_penalty=decoding.length_penalty,
    early_stopping={stop: name for name, stop in STOPS.items()}[decoding.stop],
    do_sample=bool(decoding.temperature),
    max_new_tokens=decoding.max_len_extra,
    suppress_tokens=sorted(never) or None,
    decoder_start_token_id=ids.get("decoder_start_token_id"),
    forced_bos_token_id=next(iter(roles.target_first), None),
  )
  if decoding.temperature:
    content |= {key: getattr(decoding, key) for key in ("temperature", "top_k", "top_p")}
  return {key: value for key, value in content.items() if value is not None}


def for_ctranslate2(decoding: Any, names: Sequence[str], roles: Roles, generator: bool) -> dict:
  """Returns the arguments of Translator.translate_batch, or of Generator.generate_batch for a
  `generator`; `names` are the tokens' by their ids."""
  never = sorted({roles.pad, roles.start} - {roles.eos})
  # ours counts eos among the tokens of an output
  longest = {
    "max_length" if generator else "max_decoding_length": max(decoding.max_len_extra - 1, 1)
  }
  content = dict(beam_size=decoding.beam, **longest)
  content["suppress_sequences"] = [[names[i]] for i in never]
  # an output may be empty, and no input is cut
  whole = dict(min_decoding_length=0, max_input_length=0)
  content |= dict(include_prompt_in_result=False) if generator else whole
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
