"""Tables are read as people have them: CSV, headers, columns by name or number, blank lines."""

import gzip
import json
import pickle

import pytest

from train.common.errors import UserError
from train.data import sources, tables
from train.data.bad_records import log_once

CLASSES = ("text", "label")


def open_table(path, content, split="train", columns=CLASSES, **options):
  """Writes a file, and opens it as a split of a table."""
  data = content if isinstance(content, bytes) else content.encode()
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
  spec = dict(name="files", splits={split: str(path)}, columns=columns, **options)
  return sources.open_split(spec, split)


def rows(source):
  return [tuple(example.values()) for example in source]


@pytest.fixture
def infos(monkeypatch):
  """Returns the list that logged facts are added to."""
  lines = []
  log_once.cache_clear()
  monkeypatch.setattr(tables.logging, "info", lambda text, *values: lines.append(text % values))
  return lines


# CSV


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_csv_has_quotes_and_line_breaks_inside_them(tmp_path, name):
  content = 'good,1\r\n"two, and ""three""\nlines",0\r\n\r\n" edges ",1\r\n'
  expected = [("good", "1"), ('two, and "three"\nlines', "0"), (" edges ", "1")]
  assert rows(open_table(tmp_path / name, content)) == expected


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_may_have_another_delimiter(tmp_path, delimiter):
  content = f'a{delimiter}x\n"b{delimiter}"{delimiter}y\n'
  assert rows(open_table(tmp_path / "x.csv", content)) == [("a", "x"), (f"b{delimiter}", "y")]


def test_a_blank_before_a_quote_is_refused(tmp_path):
  with pytest.raises(UserError, match=r'x\.csv, line 2: a blank stands before "'):
    rows(open_table(tmp_path / "x.csv", '"a","x"\n"b", "y"\n'))
  assert rows(open_table(tmp_path / "y.csv", '" a", x\n')) == [(" a", " x")]


def test_a_table_parted_by_bars_names_the_delimiters(tmp_path):
  with pytest.raises(UserError, match=r"commas, semicolons or tabs instead of \|"):
    rows(open_table(tmp_path / "x.csv", "a|x\nb|y\n"))


def test_a_bad_line_inside_quotes_is_one_bad_record(tmp_path):
  content = b'a,x\n"b\n\xff\nc",y\nd,z\n'
  source = open_table(tmp_path / "x.csv", content, on_bad_record="skip")
  assert rows(source) == [("a", "x"), ("d", "z")]


# Headers


@pytest.mark.parametrize(
  "content",
  [
    "sentence\tlabel\na\tx\n",
    "Text\tLabel\na\tx\n",
    "label\ttext\nx\ta\n",
    "id\treview\tn\tsentiment\n7\ta\t8\tx\n",
    "\ufeffsentence\tlabel\r\na\tx\r\n",
    "\n\nsentence\tlabel\na\tx\n",
  ],
)
def test_a_header_is_recognised_skipped_and_logged_once(tmp_path, infos, content):
  for split in ("train", "test"):
    assert rows(open_table(tmp_path / "x.tsv", content, split)) == [("a", "x")]
  assert sum("x.tsv: the first line names the columns" in line for line in infos) == 1


@pytest.mark.parametrize(
  "content", ["label\tx\nb\ty\n", "a text\tlabel\nb\ty\n", "text\t1\nb\ty\n"]
)
def test_a_first_line_that_is_an_example_stays_one(tmp_path, infos, content):
  expected = [tuple(line.split("\t")) for line in content.splitlines()]
  assert rows(open_table(tmp_path / "x.tsv", content)) == expected
  assert not any("names the columns" in line for line in infos)


def test_header_decides(tmp_path):
  content = "text\tlabel\nb\ty\n"
  assert len(open_table(tmp_path / "x.tsv", content, header=False)) == 2
  assert rows(open_table(tmp_path / "x.tsv", "tweet\thow\nb\ty\n", header=True)) == [("b", "y")]
  with pytest.raises(UserError, match=r"x.tsv, line 1: no column 'text'; .*'a', 'b', 'c'"):
    open_table(tmp_path / "x.tsv", "a\tb\tc\nd\te\tf\n", header=True)


def test_parallel_text_with_a_header(tmp_path):
  columns = ("source", "target")
  content = "source\ttarget\nhello\thallo\n"
  assert rows(open_table(tmp_path / "x.tsv", content, columns=columns)) == [("hello", "hallo")]


def test_each_file_of_a_glob_has_its_header_and_byte_order_mark(tmp_path):
  for name, order in (("a", (0, 1)), ("b", (1, 0))):
    lines = (("text", "label"), (f"{name}1", "x"))
    content = "".join(",".join(line[i] for i in order) + "\n" for line in lines)
    (tmp_path / f"{name}.csv").write_text(content, encoding="utf-8-sig")
  spec = dict(name="files", splits={"train": f"{tmp_path}/*.csv"}, columns=CLASSES)
  assert rows(sources.open_split(spec, "train")) == [("a1", "x"), ("b1", "x")]


# Columns


def test_columns_are_picked_by_name_or_number(tmp_path):
  content = "id,review,stars,lang\n1,good,5,en\n2,bad,1,en\n"
  for columns in (dict(text="REVIEW", label="stars"), dict(text="2", label="3")):
    source = open_table(tmp_path / "x.csv", content, columns=columns)
    assert source[len(source) - 2] == {"text": "good", "label": "5"}
  by_number = open_table(tmp_path / "x.tsv", "1\ta\n0\tb\n", columns=dict(text=2, label="1"))
  assert by_number[0] == {"text": "a", "label": "1"}
  with pytest.raises(UserError, match=r"x.tsv, line 1: 2 columns.*3"):
    open_table(tmp_path / "x.tsv", "1\ta\n", columns=dict(text=3, label=1))
  line = json.dumps(dict(review="good", stars=5)) + "\n"
  source = open_table(tmp_path / "x.jsonl", line, columns=dict(text="review", label="stars"))
  assert source[0] == {"text": "good", "label": "5"}


@pytest.mark.parametrize(
  "first, is_header",
  [
    ("id,review text,stars label", True),
    ("id,text,label", True),
    ("n,the text of a very long story,label", False),
    ("0,good,5", False),
  ],
)
def test_a_header_above_numbered_columns_is_recognised_too(tmp_path, infos, first, is_header):
  content = f"{first}\n1,good,5\n"
  source = open_table(tmp_path / "x.csv", content, columns=dict(text="2", label="3"))
  assert len(source) == 2 - is_header
  assert any(("is no example" in line) == is_header for line in infos)
  assert (
    len(open_table(tmp_path / "x.csv", content, columns=dict(text=2, label=3), header=False)) == 2
  )


def test_names_without_a_header_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"x\.csv: header=False, so columns a, b have no names"):
    open_table(tmp_path / "x.csv", "a,b\n1,2\n", columns=dict(text="a", label="b"), header=False)


def test_a_first_line_of_other_width_names_the_cure(tmp_path):
  with pytest.raises(UserError, match=r"line 1: 3 .* pick columns by name or number: columns=A\+B"):
    open_table(tmp_path / "x.csv", "1,good,5\n")


def test_a_mistyped_column_names_the_nearest(tmp_path):
  columns = dict(text="reveiw", label="stars")
  with pytest.raises(UserError, match=r"x.csv, line 1: no column 'reveiw'; did you mean review"):
    open_table(tmp_path / "x.csv", "review,stars\na,1\n", columns=columns)


def test_a_row_of_other_width_than_the_header_is_reported(tmp_path):
  with pytest.raises(UserError, match=r"x.csv, line 3: 2 comma-separated columns, not the 3"):
    open_table(tmp_path / "x.csv", "id,text,label\n1,a,b\n2,c\n")


# Blank lines and values of JSON


def test_blank_lines_are_skipped_and_those_in_the_middle_counted(tmp_path, warnings):
  for name, content in (("x.tsv", "a\tx\n\n \nb\ty\n\n"), ("x.csv", "a,x\n\n \nb,y\n\n")):
    assert rows(open_table(tmp_path / name, content, "test")) == [("a", "x"), ("b", "y")]
  assert [line.split(": ")[1] for line in warnings] == ["2 blank lines are no examples"] * 2
  line = '{"text": "a", "label": "x"}\n'
  assert len(open_table(tmp_path / "x.jsonl", f"{line}\n  \n{line}\n", "test")) == 2


def test_a_blank_line_of_a_table_with_one_column_is_a_row(tmp_path):
  assert len(open_table(tmp_path / "x.tsv", "a\n\nb\n", "test", columns=("text",))) == 3


def test_numbers_and_booleans_of_json_are_their_text(tmp_path):
  values = ["3", "-0.50", "1e3", "true", "false", '"4"']
  content = "".join(f'{{"text": "a", "label": {value}}}\n' for value in values)
  labels = [example["label"] for example in open_table(tmp_path / "x.jsonl", content)]
  assert labels == ["3", "-0.50", "1e3", "true", "false", "4"]


# The key of the cache


def test_plain_tables_keep_their_fingerprint(tmp_path):
  """A run of an earlier version goes on: the values were computed at commit a1ff726."""
  files = {
    "x.tsv": ("a\tx\nb\ty\n", "1bf91a36eebbfca531497df416fa76b362558dc26ae8d98a44a142d6e6d00cf6"),
    "x.jsonl": (
      '{"text": "a", "label": "x"}\n',
      "8534ea8818758086fff1699a0c1383cb60bdbff29a5cf90a44e35f637108e99a",
    ),
  }
  for name, (content, fingerprint) in files.items():
    assert open_table(tmp_path / name, content).fingerprint == fingerprint
  plain = open_table(tmp_path / "x.tsv", "text\tlabel\nb\ty\n", header=False).fingerprint
  assert open_table(tmp_path / "x.tsv", "text\tlabel\nb\ty\n").fingerprint != plain


# Names of labels


def test_labels_from_0_on_have_the_names_of_a_file(tmp_path):
  (tmp_path / "labels.txt").write_text("\ufeffbad\ngood\n\n", encoding="utf-8")
  names, content = str(tmp_path / "labels.txt"), "a\t1\nb\t0\nc\tgood\n"
  plain = open_table(tmp_path / "x.tsv", content)
  source = open_table(tmp_path / "x.tsv", content, label_names=names)
  assert rows(source) == [("a", "good"), ("b", "bad"), ("c", "good")]
  assert source._getitems([1]) == [{"text": "b", "label": "bad"}]
  assert source.names == ("bad", "good")
  assert pickle.loads(pickle.dumps(source))[0] == source[0]
  (tmp_path / "labels.txt").write_text("bad\nfine\n")
  renamed = open_table(tmp_path / "x.tsv", "a\t1\n", label_names=names)
  assert len({plain.fingerprint, source.fingerprint, renamed.fingerprint}) == 3


@pytest.mark.parametrize(
  "names, message",
  [
    ("bad\n", r"label '1', which is neither a number below 1 nor a class that .*labels.txt .*bad"),
    ("bad\n\ngood\n", r"labels.txt, line 2: a blank line"),
    ("bad\nbad\n", r"labels.txt, line 2: the name 'bad' is there twice"),
  ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, names, message):
  (tmp_path / "labels.txt").write_text(names)
  with pytest.raises(UserError, match=message):
    rows(open_table(tmp_path / "x.tsv", "a\t1\n", label_names=str(tmp_path / "labels.txt")))


# Parts


def test_a_part_without_a_row_is_refused(tmp_path):
  (tmp_path / "x.tsv").write_text("a\tx\nb\ty\nc\tz\n")
  spec = dict(name="files", splits={"validation": f"{tmp_path}/x.tsv[95%:]"})
  with pytest.raises(UserError, match=r"validation: the part \[95%:100%\] of 3 rows has none"):
    sources.open_split(spec, "validation")


def test_aligned_files_have_parts_too(tmp_path):
  for name in ("a", "b"):
    (tmp_path / name).write_text("".join(f"{name}{i}\n" for i in range(10)))
  paths = dict(source=f"{tmp_path}/a[80%:]", target=f"{tmp_path}/b[80%:]")
  spec = dict(name="files", splits={"test": paths})
  expected = [("a8", "b8"), ("a9", "b9")]
  assert rows(sources.open_split(spec, "test")) == expected
  spec["splits"]["test"]["target"] = f"{tmp_path}/b"
  with pytest.raises(UserError, match="need the same part of each"):
    sources.open_split(spec, "test")
