"""Sentences in columns: words and tags are read as written; errors name the place."""

import gzip

import pytest

from train.common.errors import UserError
from train.data import reading, sources
from train.data.bad_records import log_once
from train.data.source import digest


@pytest.fixture(autouse=True)
def _nothing_reported():
  log_once.cache_clear()


def read(path, **options):
  spec = {"name": "conll", "splits": {"train": str(path)}, **options}
  return list(sources.open_split(spec, "train"))


def sentences(tmp_path, content, name="a.conll", **options):
  (tmp_path / name).write_text(content)
  found = read(tmp_path / name, **options)
  return [list(zip(one["words"], one["tags"])) for one in found]


@pytest.mark.parametrize("separator", ["", "\t", " ", "\t\t"])
@pytest.mark.parametrize("between", ["\t", " ", "\tx\t"])
def test_sentences_end_at_lines_without_text(tmp_path, separator, between):
  rows = [["EU", "B-ORG"], ["#rejects", "O"], [], [], ["Peter", "B-PER"]]
  lines = [between.join(row) if row else separator for row in rows]
  expected = [[("EU", "B-ORG"), ("#rejects", "O")], [("Peter", "B-PER")]]
  for end in ("", "\n", "\n\n"):
    assert sentences(tmp_path, "\n".join(lines) + end) == expected


def test_columns_are_chosen_and_document_starts_skipped(tmp_path):
  content = "-DOCSTART- -X- O O\n\nU.N. NNP I-NP B-ORG\n\n"
  assert sentences(tmp_path, content) == [[("U.N.", "B-ORG")]]
  assert sentences(tmp_path, content, tag=1) == [[("U.N.", "NNP")]]
  assert sentences(tmp_path, content, word=2, tag=1) == [[("I-NP", "NNP")]]


CONLLU = """\
# text = Don't go
1-2\tDon't\t_\t_\t_
1\tDo\tdo\tAUX\tVBP
2\tn't\tnot\tPART\tRB
2.1\tyou\tyou\tPRON\tPRP
3\tgo\tgo\tVERB\tVB

# text = Go on
1\tGo on\tgo\tVERB\tVB
"""


@pytest.mark.parametrize("name", ["a.conllu", "a.conllu.gz"])
def test_conllu_gives_its_words_and_nothing_else(tmp_path, name):
  data = CONLLU.encode()
  (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
  found = [list(zip(one["words"], one["tags"])) for one in read(tmp_path / name)]
  expected = [[("Do", "AUX"), ("n't", "PART"), ("go", "VERB")], [("Go on", "VERB")]]
  assert found == expected


@pytest.mark.parametrize(
  "content, options, message",
  [
    ("EU B-ORG\nrejects\n", {}, "a.conll, line 2: columns 0 and -1 must be a word and its tag"),
    ("EU B-ORG\n\nx\t\n", {}, "line 3: .*'x.t'"),
    ("\tO\n", {}, "line 1"),
    ("a b\n", {"tag": 2}, "line 1: columns 0 and 2"),
    (CONLLU.replace("3\tgo", "three\tgo"), {"name": "a.conllu"}, "a.conllu, line 6: .*three"),
    (CONLLU.replace("\tVERB\tVB\n\n", "\n\n"), {"name": "a.conllu"}, "a.conllu, line 6"),
  ],
)
def test_a_word_without_a_tag_is_reported_with_its_line(tmp_path, content, options, message):
  with pytest.raises(UserError, match=message):
    sentences(tmp_path, content, **options)


# Comments

GERMEVAL = """\
#\thttp://de.example.org/wiki/Anna\t[2009-10-17]
1\tAnna\tB-PER\tO
2\tMuster\tI-PER\tO

#\thttp://de.example.org/wiki/Berg\t[2010-01-02]
1\tDer\tO\tO
2\t#\tO\tO
"""
WORDS = [[("Anna", "B-PER"), ("Muster", "I-PER")], [("Der", "O"), ("#", "O")]]


@pytest.mark.parametrize("separator", ["\t", " "])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_lines_with_a_mark_before_a_sentence_are_comments(tmp_path, separator, bom, warnings):
  content = bom + GERMEVAL.replace("\t", separator)
  options = dict(word=1, tag=2, name="a.tsv")
  assert sentences(tmp_path, content, **options) == WORDS
  assert len([line for line in warnings if "2 lines before sentences begin with #" in line]) == 1
  three = content.replace(f"{separator}O\n", "\n")  # the comment has as many columns as the words
  found = sentences(tmp_path, three.replace("Der\n", f"Der{separator}O\n"), **options | {"tag": -1})
  assert [word for word, _ in found[0]] == ["Anna", "Muster"]


@pytest.mark.parametrize(
  "comment",
  [
    "# text = Anna lives",
    "# sent_id = 3\n# newdoc id = x",
    "# http://de.example.org/wiki [2009-10-17]",
    "#\thttp://de.example.org/wiki\t[2009-10-17]",
    "#begin document (bc/cctv/00); part 000",
    "## a longer remark",
  ],
)
def test_comments_in_two_columns_are_no_words(tmp_path, comment):
  expected = [[("Anna", "B-PER"), ("sings", "O")], [("#", "O"), ("1", "O"), ("#x", "O")]]
  for separator in ("\t", " "):
    words = "Anna B-PER\nsings O\n\n# O\n1 O\n#x O\n".replace(" ", separator)
    assert sentences(tmp_path, f"{comment}\n{words}") == expected
    assert sentences(tmp_path, words + f"\n{comment}\n\n{comment}\n") == expected


def test_a_mark_that_is_a_word_stays_one(tmp_path):
  content = "#\tO\n#\tO\n\n#\tO\nwin\tB-X\n\n#wow\tO\nso\tO\n"
  expected = [[("#", "O")] * 2, [("#", "O"), ("win", "B-X")], [("#wow", "O"), ("so", "O")]]
  assert sentences(tmp_path, content) == expected
  assert sentences(tmp_path, content.replace("\t", " ")) == expected
  with pytest.raises(UserError, match="line 1: columns 0 and -1"):
    sentences(tmp_path, "#wow\nso O\n")


def test_ranges_and_empty_nodes_are_skipped_wherever_ids_are(tmp_path):
  rows = [line.split("\t") for line in CONLLU.splitlines()]
  content = "\n".join("\t".join(row) for row in rows) + "\n"
  found = sentences(tmp_path, content, word=1, tag=3, name="a.tsv")
  assert found == [[("Do", "AUX"), ("n't", "PART"), ("go", "VERB")], [("Go on", "VERB")]]
  # what looks like such an id is a word where words come first, or where no id is a number
  assert sentences(tmp_path, "1-2\tB-X\n1\tO\n") == [[("1-2", "B-X"), ("1", "O")]]
  content = "1-1\tone\tO\n1-2\ttwo\tO\n"
  assert sentences(tmp_path, content, word=1) == [[("one", "O"), ("two", "O")]]


def test_blanks_and_tabs_alone_part_columns(tmp_path):
  content = "10\u00a0000 CD B-NP  O\nfrancs\u2009! NNS  I-NP O\n"
  assert sentences(tmp_path, content) == [[("10\u00a0000", "O"), ("francs\u2009!", "O")]]


def test_a_mark_of_byte_order_is_part_of_no_word(tmp_path):
  content = "\ufeffAnna B-PER\n\n\ufeffBerlin B-LOC\n"
  assert sentences(tmp_path, content) == [[("Anna", "B-PER")], [("Berlin", "B-LOC")]]


def test_percentages_part_a_file_of_sentences(tmp_path):
  content = "".join(f"# id = {i}\nw{i}\tA\n\n" for i in range(10))
  whole = sentences(tmp_path, content)
  assert len(whole) == 10
  parts = [read(f"{tmp_path}/a.conll{part}") for part in ("[:80%]", "[80%:90%]", "[90%:]")]
  assert list(map(len, parts)) == [8, 1, 1]
  assert [one["words"] for part in parts for one in part] == [[f"w{i}"] for i in range(10)]


def test_the_fingerprint_changes_only_where_the_reading_did(tmp_path):
  def fingerprint(content, part="", word=0, name="a.conll"):
    (tmp_path / name).write_text(content)
    splits = {"train": f"{tmp_path}/{name}{part}"}
    opened = sources.open_split({"name": "conll", "splits": splits, "word": word}, "train")
    kind = reading.file_type(tmp_path / name)
    file = f"{kind} {reading.file_digest(tmp_path / name)}"
    return opened.fingerprint == digest("sentences", word, -1, file)

  for content in ("a A\n", "# A\nb B\n", "#a A\n", "a\u00a0b\tA\n", "-DOCSTART- O\n\na A\n"):
    assert fingerprint(content)
  assert fingerprint(CONLLU, name="a.conllu")
  for content in ("# a b\na A\n", "a\u00a0b A\n"):
    assert not fingerprint(content)
  assert not fingerprint("1\ta\tA\n1-2\tab\tA\n", word=1)
  prints = {
    sources.open_split(
      {"name": "conll", "splits": {"train": f"{tmp_path}/a.conll{part}"}, "word": 1}, "train"
    ).fingerprint
    for part in ("", "[:100%]", "[:50%]", "[50%:]")
  }
  assert len(prints) == 3  # 100% is the whole
