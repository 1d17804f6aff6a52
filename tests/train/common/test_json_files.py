"""JSON of others: what is too long, too deep or of another type is refused, and says where."""

import os

import pytest

from train.common import json_files
from train.common.errors import UserError


@pytest.mark.parametrize(
  "content, told",
  [
    (b'{"a": 1', "a.json is not JSON"),
    (b"\xff", "a.json is not UTF-8"),
    (b"[1]", r"a.json is not a JSON object, but \[1\]"),
    (b"null", "not a JSON object, but None"),
    (b"[" * 100_000, "a.json is not JSON"),
    (b'{"a":' * 150 + b"1" + b"}" * 150, "more than 100 lists and objects"),
    (b'{"a": ' + b"9" * 5000 + b"}", "a.json is not JSON"),
    (b'{"a": "\\ud800"}', "half a surrogate pair"),
    (b'{"a": "' + b"x" * 1000 + b'"}', "more than 500 bytes"),
  ],
)
def test_what_is_no_such_json_is_told(tmp_path, content, told):
  (tmp_path / "a.json").write_bytes(content)
  with pytest.raises(UserError, match=told):
    json_files.read(tmp_path / "a.json", most=500 if b"xxx" in content else 10**6)


def test_what_is_there_is_read(tmp_path):
  content = '{"a": [1, {"b": "\\ud83d\\ude00é"}], "c": ' + "[" * 90 + "]" * 90 + "}"
  (tmp_path / "a.json").write_text(content, encoding="utf-8")
  assert json_files.read(tmp_path / "a.json")["a"] == [1, {"b": "😀é"}]


def test_a_pipe_or_a_missing_file_is_told_at_once(tmp_path):
  os.mkfifo(tmp_path / "a.json")
  for name in ("a.json", "b.json", "\0"):
    with pytest.raises(UserError):
      json_files.read(tmp_path / name)


@pytest.mark.parametrize(
  "value, kind",
  [
    (1, int),
    (1, float),
    (10**12, float),
    (None, int | None),
    ([1, 2], list[int]),
    ((1, 2), tuple[int, ...]),
    ({"a": None}, dict[str, str | None]),
    (-5, int),
  ],
)
def test_a_value_fits(value, kind):
  assert json_files.fits(value, kind)


@pytest.mark.parametrize(
  "value, kind",
  [
    (True, int),
    (True, float),
    (1.0, int),
    (2**31, int),
    (float("nan"), float),
    (float("inf"), float),
    (10**400, float),
    ("1", int),
    (None, int),
    ([1, "a"], list[int]),
    ({"a": 1}, list[int]),
    ({"a": 1}, dict[str, str]),
    ("", list),
  ],
)
def test_a_value_does_not_fit(value, kind):
  assert not json_files.fits(value, kind)


def test_a_field_is_named():
  json_files.check(dict(a=1, b=None, c="x"), "f.json", dict(a=int, b=int))
  with pytest.raises(UserError, match=r"f.json: a is \['x'\]; it must be int"):
    json_files.check(dict(a=["x"]), "f.json", dict(a=int))
