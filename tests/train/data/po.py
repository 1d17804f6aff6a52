"""Writes gettext catalogs and wheels for tests, and reads them with the source `gettext`."""

import zipfile

import polib

from train.data import sources

GERMANIC = "nplurals=2; plural=(n != 1);"
MESSAGES = {
  "Save the file": "Die Datei speichern",
  "No such %(name)s in {place}": "Kein %(name)s in {place}",
  "You have <b>one</b> new message": "Sie haben <b>eine</b> neue Nachricht",
}


def entry(source, target, **more):
  return polib.POEntry(msgid=source, msgstr=target, **more)


def plural(one, many, forms):
  return polib.POEntry(msgid=one, msgid_plural=many, msgstr_plural=dict(enumerate(forms)))


def write(path, *entries, rule=GERMANIC):
  """Writes a catalog, .po or .mo by its path, of entries or a dict."""
  catalog = polib.POFile()
  catalog.metadata = {"Content-Type": "text/plain; charset=UTF-8", "Plural-Forms": rule}
  for part in entries:
    catalog.extend([entry(*pair) for pair in part.items()] if isinstance(part, dict) else [part])
  path.parent.mkdir(parents=True, exist_ok=True)
  (catalog.save if path.suffix == ".po" else catalog.save_as_mofile)(str(path))
  return path


def wheel(path, folder):
  with zipfile.ZipFile(path, "w") as file:
    for catalog in sorted(folder.rglob("*.?o")):
      file.write(catalog, catalog.relative_to(folder))
  return path


def source(splits, split="train", language="de", **options):
  if not isinstance(splits, dict):
    splits = {"train": str(splits)}
  spec = dict(name="gettext", splits=splits, language=language, **options)
  return sources.open_split(spec, split)


def read(*args, **options):
  pairs = source(*args, **options)
  return [tuple(pairs[i].values()) for i in range(len(pairs))]
