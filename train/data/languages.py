"""Finds the tokens of languages by their codes, and frames translations from one to another.

A model that translates between several languages has a token for each. In most of them `Roles` has
the places of the source's and of the target's token. In the others a source begins with the token
of the target language: ">>fra<< A dog" (Marian), "<2de> A dog" (ours).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from train.common.errors import UserError, nearest
from train.data.roles import Roles
from train.data.special_tokens import split_language

FIELDS = ("source_lang", "target_lang")  # of examples, of tasks, and of the commands' flags
NAME = re.compile(r"__(.+)__|<2(.+)>|>>(.+)<<")  # tokens of M2M-100, ours and Marian's
LISTED = 8  # languages that an error names


def code(name: str) -> str:
  """Returns the code of the language that a token names: "de" of "__de__", "de_DE" of itself."""
  match = NAME.fullmatch(name)
  return next(filter(None, match.groups())) if match else name


def frame(tokenizer, source_lang: str = "", target_lang: str = "") -> Roles:
  """Returns a tokenizer's roles for texts of two languages; "" leaves one as it is.

  Raises UserError, with the nearest, for a language that the vocabulary does not have.
  """
  roles, languages = tokenizer.roles, tokenizer.languages
  given = dict(zip(FIELDS, (source_lang, target_lang)))
  if not roles.languages:
    if source_lang and languages:
      raise UserError(
        f"source_lang is {source_lang!r}, but sources of this model begin with the language of the"
        " target: name target_lang alone"
      )
    if not source_lang and not target_lang:
      return roles
    token = _id(languages, target_lang or source_lang, FIELDS[bool(target_lang)])
    return dataclasses.replace(roles, source_first=(token,))
  ids = [_id(languages, given[field], field) if given[field] else None for field in FIELDS]
  return frame_ids(roles, *ids)


def _id(languages: Mapping[str, int], language: str, field: str) -> int:
  """Returns the id of a language by its code or its token's name."""
  token = languages.get(language, languages.get(code(language)))
  if token is not None:
    return token
  if not languages:
    raise UserError(f"{field} is {language!r}, but the vocabulary has no tokens of languages")
  like = (name for name in languages if name[:2].lower() == language[:2].lower())
  near = nearest(language, languages) or next(like, None)
  few = ", ".join([*languages][:LISTED])
  raise UserError(
    f"{field} is {language!r}, which is none of the model's {len(languages)} languages ({few}"
    f"{', ...' if len(languages) > LISTED else ''})" + (f"; did you mean {near}?" if near else "")
  )


def frames(
  tokenizer, examples: Sequence[Mapping], target_lang: str = "", needed: bool = True
) -> list[Roles]:
  """Returns the roles that frame each example: by its own source_lang and target_lang, or else by
  the tokenizer's. A source that begins with no language (<2de>) gets `target_lang`, where the
  vocabulary has such tokens.

  Raises UserError for an unknown language, and for one that is `needed` and not given.
  """
  known, rows, placed = {}, [], bool(tokenizer.roles.languages)
  for example in examples:
    pair = example.get("source_lang") or "", example.get("target_lang") or target_lang
    if not placed:  # then a source does not name its own language, and may name its target's
      named = tokenizer.languages and _names_language(tokenizer, example["source"])
      pair = ("", "" if named else pair[1])
    if pair not in known:
      known[pair] = frame(tokenizer, *pair)
      if needed:
        check(known[pair], tokenizer.languages)
    rows.append(known[pair])
  return rows


def _names_language(tokenizer, source: str | Sequence[int]) -> bool:
  """Returns whether a source, a text or its ids, begins with the token of a language."""
  if isinstance(source, str):
    return bool(split_language(source, tokenizer.specials)[0])
  return len(source) > 0 and source[0] in tokenizer.languages.values()


def check(roles: Roles, languages: Iterable[str]) -> None:
  """Raises UserError where a language has a place in the frame and is not known."""
  missing = [field for field in FIELDS if lacks(roles, field)]
  if missing:
    few = [*languages]
    raise UserError(
      f"the model has {len(few)} languages, and {missing[0]} is not given: name it by"
      f" --{missing[0]}, {missing[0]}= in Python, task.{missing[0]} in a config, or in a column"
      f" {missing[0]} of the data ({', '.join(few[:LISTED])}{', ...' if few[LISTED:] else ''})"
    )


def lacks(roles: Roles, field: str) -> bool:
  """Returns whether the frame has a place for the language of a field, but no language there:
  nothing, or padding as a decoder's start."""
  place = roles.source_place if field == "source_lang" else roles.target_place
  if not place:
    return False
  return getattr(roles, place) in ((), roles.pad)


def undirected(roles: Roles) -> Roles:
  """Returns the roles without languages in their places."""
  places = filter(None, (roles.source_place, roles.target_place))
  return dataclasses.replace(roles, **{x: roles.pad if x == "start" else () for x in places})


def prompt(roles: Roles) -> list[int]:
  """Returns what a decoder reads before its output."""
  return [roles.start, *roles.target_first] if roles.force else [roles.start]


def prompts(frames: Sequence[Roles]) -> list[list[int]]:
  """Returns the prompt of each frame, none where models have no languages or they are not known."""
  if any(not roles.target_place or lacks(roles, "target_lang") for roles in frames):
    return []
  return [prompt(roles) for roles in frames]


def filled(roles: Roles, batch: Mapping) -> Roles:
  """Returns the roles with some language in the target's place, which a batch with the key `prompt`
  replaces by each row's own."""
  return frame_ids(roles, None, roles.languages[0]) if "prompt" in batch else roles


def frame_ids(roles: Roles, source: int | None, target: int | None) -> Roles:
  """Returns the roles with the tokens of two languages in their places; None changes none."""
  pairs = zip((roles.source_place, roles.target_place), (source, target))
  changes = {
    place: token if place == "start" else (token,) for place, token in pairs if token is not None
  }
  return dataclasses.replace(roles, **changes)
