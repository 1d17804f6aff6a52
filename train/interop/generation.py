"""Reads the options by which transformers' generate writes texts, from generation_config.json, or
from config.json where there is none."""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from absl import logging

from train.common import json_files
from train.common.errors import UserError
from train.data.roles import Roles

FILE = "generation_config.json"
LONGEST = 1 << 20  # tokens of all beams; a file with more would fill the memory
OURS, THEIRS = (128, 50), (20, 20)  # tokens of an output, of an encoder-decoder and of a decoder
LONGEST_OURS = 1024  # tokens of an output where the file bounds prompt and output together
STOPS = {False: "current", True: "full", "never": "exact"}  # early_stopping -> decoding.stop
# The ids of tokens, which config.json has too. Those that generation_config.json lacks are read
# there, but for the forced ones.
IDS = dict(
  bos_token_id=int,
  decoder_start_token_id=int,
  eos_token_id=int | list[int],
  pad_token_id=int,
)
FORCED = dict(forced_bos_token_id=int, forced_eos_token_id=int | list[int])
# The options that are followed, with their types.
OPTIONS = dict(
  bad_words_ids=list[list[int]],
  begin_suppress_tokens=list[int],
  do_sample=bool,
  early_stopping=bool | str,
  length_penalty=float,
  max_length=int,
  max_new_tokens=int,
  min_length=int,
  min_new_tokens=int,
  no_repeat_ngram_size=int,
  num_beams=int,
  num_return_sequences=int,
  repetition_penalty=float,
  suppress_tokens=list[int],
  temperature=float,
  top_k=int,
  top_p=float,
)
FOLLOWED = IDS | FORCED | OPTIONS
# Options that have no counterpart here -> the values besides null with which they do nothing.
UNSUPPORTED = dict(
  constraints=(),
  diversity_penalty=(0,),
  dola_layers=(),
  encoder_no_repeat_ngram_size=(0,),
  encoder_repetition_penalty=(1,),
  epsilon_cutoff=(0,),
  eta_cutoff=(0,),
  exponential_decay_length_penalty=(),
  force_words_ids=(),
  forced_decoder_ids=(),
  guidance_scale=(1,),
  max_time=(),
  min_p=(0,),
  num_beam_groups=(1,),
  penalty_alpha=(0,),
  renormalize_logits=(False,),
  sequence_bias=(),
  stop_strings=([],),
  token_healing=(False,),
  top_h=(),
  typical_p=(1,),
  watermarking_config=(),
)
# What changes no output: how it is computed, and what generate returns beside it.
# fmt: off
IGNORED = (
  "_commit_hash", "_from_model_config", "assistant_confidence_threshold", "assistant_early_exit",
  "assistant_ensemble_weight", "assistant_lookbehind", "cache_config", "cache_implementation",
  "compile_config", "continuous_batching_config", "disable_compile", "is_assistant", "low_memory",
  "max_cache_len", "max_matching_ngram_size", "num_assistant_tokens",
  "num_assistant_tokens_schedule", "output_attentions", "output_hidden_states", "output_logits",
  "output_scores", "prefill_chunk_size", "prompt_lookup_num_tokens", "remove_invalid_values",
  "return_dict_in_generate", "speculation_type", "target_lookbehind", "transformers_version",
  "use_cache", "use_mtp",
)
# fmt: on


class Options(NamedTuple):
  """The options that a directory gives, without those that are null."""

  given: Mapping
  file: pathlib.Path  # where they stand

  @property
  def ends(self) -> tuple[int, ...]:
    """Returns the ids of `eos_token_id`, each of which ends an output."""
    return _ids(self.given.get("eos_token_id"))


def read(folder: pathlib.Path, config: Mapping) -> Options:
  """Returns the options of a directory whose config.json is `config`.

  The log names each option that both files have with different values. Raises UserError for a value
  of another type.
  """
  path, of_config = (
    folder / FILE,
    {k: config[k] for k in {**FOLLOWED, **UNSUPPORTED} if k in config},
  )
  json_files.check(of_config, folder / "config.json", FOLLOWED)
  of_config = {key: value for key, value in of_config.items() if value is not None}
  if config.get("force_bos_token_to_be_generated") and "bos_token_id" in of_config:
    of_config.setdefault("forced_bos_token_id", of_config["bos_token_id"])
  if not path.exists():
    return Options(of_config, folder / "config.json")
  given = json_files.read(path)
  json_files.check(given, path, FOLLOWED)
  given = {key: value for key, value in given.items() if value is not None}
  for key in sorted(given.keys() & of_config.keys() & FOLLOWED.keys()):
    first, second = given[key], of_config[key]
    if (_ids(first) != _ids(second)) if key.endswith("_token_id") else first != second:
      message = "%s: %s is %s in generation_config.json, which counts, and %s in config.json"
      logging.warning(message, folder, key, first, second)
  return Options({key: of_config[key] for key in IDS if key in of_config} | given, path)


def _ids(value) -> tuple[int, ...]:
  listed = value if isinstance(value, list) else [value]
  return tuple(i for i in listed if i is not None and i >= 0)


def decoding(options: Options, roles: Roles, model: Mapping, strict: bool = False) -> dict:
  """Returns the section `decoding` of a task for a model (the fields of TransformerConfig).

  strict: an output without a length in the files is as short as transformers' generate makes it.
  The log names all options that are not followed. Raises UserError for impossible values.
  """
  given, file = options
  both, positions = bool(model["encoder_layers"]), model["decoder_max_len"] or model["max_len"]
  learned = model["positions"].startswith("learned")
  forced = len(roles.target_first) if both and roles.force else 0
  sampled, beam = bool(given.get("do_sample")), given.get("num_beams", 1)
  nbest = given.get("num_return_sequences", 1)
  for key in ("temperature", "top_p") if sampled else ():
    if given.get(key, 1.0) <= 0:
      raise UserError(f"{file}: {key} is {given[key]}, and it must be above 0 (do_sample is true)")
  left_out = {
    key: given[key]
    for key, neutral in UNSUPPORTED.items()
    if key in given and given[key] not in neutral
  }
  if file.name == FILE:
    known = {*FOLLOWED, *UNSUPPORTED, *IGNORED}
    left_out |= {key: given[key] for key in sorted(given.keys() - known)}
  if sampled and beam > 1:
    left_out["num_beams"], beam = beam, 1
  if nbest > beam and not sampled:
    left_out["num_return_sequences"], nbest = nbest, 1
  least = given.get("min_new_tokens")
  if least is None and both:
    least = (given.get("min_length") or 1) - 1  # less the token that the decoder starts with
  elif least is None and given.get("min_length"):
    left_out["min_length"] = given["min_length"]  # counts the prompt
  if left_out:
    message = "%s: no counterpart of these options of generation, which are left out: %s"
    logging.warning(message, file, ", ".join(f"{key}={x}" for key, x in left_out.items()))

  total = 0
  longest, most = given.get("max_new_tokens"), given.get("max_length")
  if longest is None and most is not None:
    longest = most - 1
    if not both:
      total = min(most, positions) if learned else most
      longest = total - 1 if strict else min(total - 1, LONGEST_OURS)
  elif longest is None:
    longest = (THEIRS if strict else OURS)[not both]
  if learned and not total:  # a decoder-only model has its prompt in them too
    longest = min(longest, positions - 1 if both else positions // 2)
  if min(beam, longest, nbest) < 1 or max(beam, nbest) * longest > LONGEST:
    raise UserError(
      f"{file}: num_beams is {beam}, the longest output {longest} tokens"
      f" (max_new_tokens, max_length); both together must be 1 to {LONGEST} tokens"
    )
  if (early := given.get("early_stopping", False)) not in STOPS:
    raise UserError(f"{file}: early_stopping is {early!r}; it must be true, false or 'never'")
  banned = [
    tuple(x) for x in given.get("bad_words_ids", ()) if x and tuple(x) not in _single(roles)
  ]
  banned += [(i,) for i in given.get("suppress_tokens", ())]
  return dict(
    beam=beam,
    nbest=nbest,
    length_penalty=float(given.get("length_penalty", 1.0)),
    penalty="length",
    stop=STOPS[early],
    temperature=given.get("temperature", 1.0) if sampled else 0.0,
    top_k=given.get("top_k", 50) if sampled else 0,
    top_p=given.get("top_p", 1.0) if sampled else 1.0,
    max_len_ratio=0.0,
    max_len_extra=max(longest - forced, 1),
    max_len_total=total,
    min_len=max((least or 0) - forced, 0),
    no_repeat_ngram=given.get("no_repeat_ngram_size", 0),
    repetition_penalty=float(given.get("repetition_penalty", 1.0)),
    banned=tuple(dict.fromkeys(banned)),
    begin_banned=tuple(given.get("begin_suppress_tokens", ())),
    forced_last=_ids(given.get("forced_eos_token_id")),
  )


def _single(roles: Roles) -> set[tuple[int]]:
  """Returns the tokens that end outputs, which bad_words_ids cannot ban."""
  return {(i,) for i in roles.output_ends}


def report_rule(folder: pathlib.Path, section: Mapping) -> None:
  """Logs how our search differs from transformers' with the same options."""
  message = (
    "%s: decoded by our rules: an output of the greatest length, %d tokens, is made to end by eos,"
    " and padding is never chosen. --generation transformers follows transformers' generate"
  )
  logging.info(message, folder, section["max_len_extra"])
