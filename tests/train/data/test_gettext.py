"""Pairs are the catalogs' messages, from any kind of place; pairs left out are counted."""

import gettext
import importlib
import logging

import pytest

from tests.train.data.po import GERMANIC, MESSAGES, entry, plural, read, wheel, write
from train.common.errors import UserError


def test_a_folder_a_wheel_and_a_package_say_the_same(tmp_path, monkeypatch):
  folder = tmp_path / "somepackage"
  write(folder / "locale/de/LC_MESSAGES/django.po", MESSAGES)
  write(folder / "locale/fr/LC_MESSAGES/django.po", {"Save the file": "Enregistrer le fichier"})
  monkeypatch.syspath_prepend(tmp_path)
  importlib.invalidate_caches()
  assert read(folder) == list(MESSAGES.items())
  assert read(wheel(tmp_path / "a-1.whl", folder)) == read(folder)
  assert read("package:somepackage") == read(f"{folder}/locale/*/LC_MESSAGES/*.po") == read(folder)


def test_po_and_mo_say_the_same(tmp_path):
  more = plural("One file is here", "%d files are here", ["Eine Datei", "%d Dateien"])
  found = read(write(tmp_path / "a/de.po", MESSAGES, more))
  assert sorted(found) == sorted(read(write(tmp_path / "b/de.mo", MESSAGES, more)))


def test_where_both_are_there_po_is_read(tmp_path):
  write(tmp_path / "de.po", entry("Save the file", "Datei laden", flags=["fuzzy"]), {"a b c": "d"})
  write(tmp_path / "de.mo", {"Save the file": "Datei laden"})
  assert read(tmp_path) == read(wheel(tmp_path / "x.whl", tmp_path)) == [("a b c", "d")]


@pytest.mark.parametrize(
  "reason, wrong",
  [
    ("fuzzy", entry("Open the file", "Die Datei schließen", flags=["fuzzy"])),
    ("obsolete", entry("Open the file", "Die Datei öffnen", obsolete=True)),
    ("untranslated", entry("Open the file", "")),
    ("untranslated", entry("Open the file", " \n")),
    ("identical", entry("Python Package Index", "Python\nPackage Index")),
    ("without words", entry("<b>%(name)s</b> {x} &nbsp; 12", "Name: %(name)s")),
    ("without words", entry("Open the file", "%s: 100 %")),
    ("too short", entry("Open <i>%(the)s</i> file %s {x}", "Datei öffnen")),
    ("too long", entry("word " * 51, "Wort " * 51)),
    ("with an accelerator", entry("S&ave all files", "Alle speichern (&A)")),
    ("duplicate", entry("Save  the\nfile", "Die Datei speichern ")),
    ("duplicate", entry("Save the file", "Die Datei speichern", msgctxt="menu")),
  ],
)
def test_pairs_left_out_are_counted(reason, wrong, tmp_path, caplog):
  write(tmp_path / "de.po", MESSAGES, wrong)
  with caplog.at_level(logging.INFO, logger="absl"):
    assert read(tmp_path) == list(MESSAGES.items())
  assert f"3 pairs of 1 catalogs; left out: 1 {reason}" in caplog.text


@pytest.mark.parametrize(
  "right", ["R &amp; D is here", "it is &#38; here", "a & b & c", "100 % is not &amp;"]
)
def test_an_ampersand_alone_is_no_accelerator(right, tmp_path):
  assert read(write(tmp_path / "de.po", {right: "gut"}), min_words=2) == [(right, "gut")]


@pytest.mark.parametrize(
  "rule, forms",
  [
    (GERMANIC, ["Eine Datei", "%d Dateien"]),
    ("nplurals=2; plural=(n > 1);", ["%d fichier", "%d fichiers"]),
    (
      "nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 && "
      "(n%100<12 || n%100>14) ? 1 : 2);",
      ["%d файл", "%d файла", "%d файлов"],
    ),
    (
      "nplurals=6; plural=n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : n%100>=3 && n%100<=10 ? 3 : "
      "n%100>=11 ? 4 : 5;",
      ["صفر", "ملف", "ملفان", "ملفات", "ملفا", "ملف x"],
    ),
  ],
)
@pytest.mark.parametrize("suffix", [".po", ".mo"])
def test_plurals_are_pythons_own(rule, forms, suffix, tmp_path):
  """Compares singular and plural with Python's own gettext for 1 and 5."""
  texts = "Delete one file now", "Delete %d files now"
  message = plural(*texts, forms)
  with open(write(tmp_path / "de.mo", message, rule=rule), "rb") as file:
    theirs = gettext.GNUTranslations(file)
  expected = [(text, theirs.ngettext(*texts, n)) for text, n in zip(texts, (1, 5))]
  assert read(write(tmp_path / f"x/de{suffix}", message, rule=rule)) == expected


def test_a_language_with_one_form_translates_the_plural(tmp_path):
  message = plural("Delete one file now", "Delete %d files now", ["删除 %d 个文件"])
  write(tmp_path / "zh_CN.po", message, rule="nplurals=1; plural=0;")
  assert read(tmp_path, language="zh_Hans") == [("Delete %d files now", "删除 %d 个文件")]


def test_a_name_stands_for_its_default(tmp_path):
  """Plone's msgids are keys; the English text is in a comment, where the translator reads it."""
  named = entry("label_save", "Speichern Sie", comment='Default: "Save \\"it\\" now,\nplease"')
  other = entry("Open the file", "Die Datei öffnen", comment="Default is the home folder")
  expected = [('Save "it" now, please', "Speichern Sie"), ("Open the file", "Die Datei öffnen")]
  assert read(write(tmp_path / "de.po", named, other)) == expected


def test_all_kinds_of_whitespace_become_blanks(tmp_path):
  path = tmp_path / "de.po"
  text = 'msgid "one\u2028two\x85 three\\n"\nmsgstr "eins\x0bzwei\u00a0\\t drei"\n'
  path.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
  assert read(path) == [("one two three", "eins zwei drei")]


def test_other_encodings_are_read(tmp_path):
  path = write(tmp_path / "de.po", {"Open the file": "Datei öffnen"})
  text = path.read_text(encoding="utf-8").replace("UTF-8", "ISO-8859-1")
  path.write_bytes(text.encode("latin-1"))
  assert read(path) == [("Open the file", "Datei öffnen")]


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("de.po", b'msgid "a"\nmsgstr "b"\n\nmsgid "c"\nfoo\n', r"de\.po, line 5: not a gettext"),
    ("de.po", b'msgid "a"\nmsgstr "b"\n\nmsgid "c d', r"de\.po, line 4: not a .*no closing quote"),
    ("de.po", b'msgid "a\xff"\nmsgstr "b"\n', r"de\.po.* not a gettext catalog .*0xff"),
    ("de.mo", b"nothing of the kind", r"de\.mo: not a gettext catalog .*magic"),
    ("de.mo", b"\xde\x12\x04\x95\x00\x00", r"de\.mo: not a gettext catalog"),
    ("de.whl", b"PK but no more", r"de\.whl: not a complete wheel .*; fetch it again"),
  ],
)
def test_a_broken_file_is_reported_with_its_place(name, content, message, tmp_path):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message):
    read(tmp_path)


def test_plurals_without_a_rule_are_reported(tmp_path):
  path = write(tmp_path / "de.po", MESSAGES, rule="nplurals=INTEGER; plural=EXPRESSION;")
  assert read(path) == list(MESSAGES.items())
  write(path, plural("one file is", "%d files are", ["a", "b"]), rule="plural=EXPRESSION;")
  with pytest.raises(UserError, match=r"de\.po: Plural-Forms .*'one file is' has plurals"):
    read(path)


def test_a_truncated_mo_is_reported(tmp_path):
  whole = write(tmp_path / "de.mo", MESSAGES).read_bytes()
  for size in range(len(whole)):
    (tmp_path / "de.mo").write_bytes(whole[:size])
    with pytest.raises(UserError, match=r"de\.mo: not a gettext catalog"):
      read(tmp_path)
