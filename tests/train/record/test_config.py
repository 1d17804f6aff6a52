"""Tests of train/record/config.py and configs/common.py: values, types, and errors."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import common
from train.common.errors import Help, UserError
from train.common.files import write_atomically
from train.record.config import flat, frozen, only, override, read, split
from train.record.workdir import config_json, load_config

FILE = """"A config for tests."
from ml_collections import ConfigDict, config_dict
from configs import common

def get_config(arg=""):
  arg = common.parse(arg, size=("base", "big"), small=False, seed=common.Argument(0, "of all"))
  cfg = ConfigDict({"steps": 10, "seed": arg.seed, "small": arg.small, "name": "x", "rate": 1.0})
  cfg.model = {"dim": 64 if arg.size == "base" else 128, "num_heads": 4, "sizes": [1, 2]}
  cfg.model.width = cfg.model.get_ref("dim") * 2
  cfg.init_from = None
  cfg.limit = config_dict.placeholder(int)
  cfg.langs = ("en", "de")
  return cfg
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "tiny.py"
  path.write_text(FILE)
  return path


def load(text, overrides=()):
  return override(read(text), overrides)


def refusal(function, *args):
  with pytest.raises(UserError) as error:
    function(*args)
  return str(error.value)


def test_both_spellings_mean_the_same_and_other_arguments_are_left(file):
  joined = [f"--config={file}:size=big", "--config.small", "--workdir", "d", "--config.steps=3"]
  spaced = [
    "--config",
    f"{file}:size=big",
    "--config.small",
    "--workdir",
    "d",
    "--config.steps",
    "3",
  ]
  assert split(joined) == split(spaced)
  texts, overrides, rest = split(spaced)
  assert rest == ["--workdir", "d"]
  config = load(only(texts), overrides)
  assert (config.steps, config.small, config.model.dim) == (3, True, 128)


@pytest.mark.parametrize(
  "override, expected",
  [
    ("steps=7", 7),
    ("small=true", True),
    ("small=0", False),
    ("small", True),
    ("name=7", "7"),
    ("name=a=b", "a=b"),
    ("rate=2", 2.0),
    ("rate=1e-3", 1e-3),
    ("model.sizes=(3,4,5)", (3, 4, 5)),
    ("model.sizes=3,4", (3, 4)),
    ("model.sizes=[7]", (7,)),
    ("model.sizes=7", (7,)),
    ("langs=cs,en", ("cs", "en")),
    ("langs=('cs', 'en')", ("cs", "en")),
    ("langs=1,2", ("1", "2")),
    ("init_from=runs/a", "runs/a"),
    ("init_from=3", 3),
    ("init_from=none", None),
    ("init_from=(1, 'a')", (1, "a")),
    ("limit=3", 3),
    ("limit=None", None),
  ],
)
def test_an_override_has_the_type_of_its_field(file, override, expected):
  config = load(str(file), [override])
  value = flat(config)[override.partition("=")[0]]
  assert repr(value) == repr(expected)


def test_the_last_override_wins_and_references_follow(file):
  config = load(str(file), ["model.dim=5", "model.dim=6"])
  assert (config.model.dim, config.model.width) == (6, 12)


@pytest.mark.parametrize(
  "override, words",
  [
    ("steps=many", ["--config.steps", "int", "'many'"]),
    ("steps=1.5", ["--config.steps", "int", "'1.5'"]),
    ("steps=none", ["--config.steps", "int", "'none'"]),
    ("rate=fast", ["--config.rate", "float", "'fast'"]),
    ("small=maybe", ["--config.small", "bool", "'maybe'"]),
    ("model.sizes=1,b", ["--config.model.sizes", "int", "'1,b'"]),
    ("limit=x", ["--config.limit", "int", "'x'"]),
    ("steps", ["--config.steps", "no value"]),
    ("model=3", ["--config.model", "section", "model.num_heads"]),
    ("model.num_head=4", ["--config.model.num_head:", "did you mean model.num_heads?"]),
    ("num_heads=4", ["--config.num_heads:", "did you mean model.num_heads?"]),
    ("dim=4", ["--config.dim:", "did you mean model.dim?"]),
    ("modle.dim=4", ["--config.modle.dim:", "did you mean model.dim?"]),
    ("optimizer.num_head=4", ["did you mean model.num_heads?"]),
    ("stpes=4", ["--config.stpes:", "did you mean steps?"]),
    ("steps.x=4", ["--config.steps.x:", "no such key"]),
  ],
)
def test_a_wrong_override_is_named(file, override, words):
  message = refusal(load, str(file), [override])
  assert not [word for word in words if word not in message], message


@pytest.mark.parametrize(
  "arg, words",
  [
    ("sise=big", ["sise", "did you mean size?", "small"]),
    ("hepl", ["hepl", "did you mean help?"]),
    ("size=bigg", ["size=bigg", "base, big", "did you mean big?"]),
    ("big", ["size=big"]),
    ("size", ["size=base"]),
    ("seed=x", ["seed=x", "int"]),
    ("small=x", ["small=x", "bool"]),
    ("seed=1,seed=2", ["seed", "twice"]),
  ],
)
def test_a_wrong_argument_is_named(file, arg, words):
  message = refusal(load, f"{file}:{arg}")
  assert not [word for word in [str(file), *words] if word not in message], message


def test_an_unknown_file_names_the_nearest(file):
  assert f"did you mean {file}?" in refusal(load, str(file.with_name("tyni.py")))
  assert f"did you mean {file}?" in refusal(load, str(file.with_suffix("")))
  assert "has: tiny.py" in refusal(load, str(file.with_name("qqqq.py")))


@pytest.mark.parametrize(
  "text, words",
  [
    ("def get_config(:\n", ["line 1: "]),
    ("import math\nx = math.no\n", ["line 2", "AttributeError"]),
    ("def get_config(arg=''):\n  y = 1\n  return z\n", ["line 3", "NameError", "z"]),
    ("x = 1\n", ["get_config"]),
    ("def get_config():\n  return {}\n", ["dict", "ConfigDict"]),
  ],
)
def test_the_line_of_an_error_in_a_config_file_is_named(tmp_path, monkeypatch, text, words):
  path = tmp_path / "broken.py"
  path.write_text(text)
  monkeypatch.chdir(tmp_path)
  for way in (str(path), "broken.py"):
    message = refusal(load, way)
    assert not [word for word in [way, *words] if word not in message], message


def test_config_missing_or_twice(file):
  assert "missing" in refusal(only, split(["--workdir", "x"])[0])
  assert "missing" in refusal(only, split(["--config"])[0])
  assert "twice" in refusal(only, split([f"--config={file}", f"--config={file}"])[0])


def test_help_has_the_docstring_and_the_arguments_with_choices_and_defaults(file):
  for arg in ("help", "small,help", "help,small"):
    with pytest.raises(Help) as text:
      load(f"{file}:{arg}")
    lines = [" ".join(line.split()) for line in str(text.value).splitlines()]
    assert "A config for tests." in lines
    assert {"size=base|big", "small a run of seconds", "seed=0 of all"} <= set(lines)


def test_help_of_a_file_without_arguments(tmp_path):
  path = tmp_path / "plain.py"
  path.write_text('"""Plain."""\ndef get_config(): return {}\n')
  with pytest.raises(Help, match=r"Plain\.[\s\S]*takes no arguments"):
    load(f"{path}:help")


def test_help_of_a_file_that_reads_its_argument_by_itself(tmp_path):
  (tmp_path / "own.py").write_text(
    '"""Explains itself."""\nfrom ml_collections import ConfigDict\n'
    "def get_config(arg=''): return ConfigDict()\n"
  )
  with pytest.raises(Help, match="Explains itself"):
    read(f"{tmp_path}/own.py:help")


def test_the_config_is_locked_and_the_given_one_left_alone(file):
  config = load(str(file))
  with pytest.raises(AttributeError):
    config.model.typo = 1
  override(config, ["steps=99"])
  assert config.steps == 10


leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
leaf |= st.text('aé"\\\n ', max_size=5)
value = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner))
name = st.text("abcdef", min_size=1, max_size=4)
section = st.dictionaries(name, value, max_size=4)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(name, value | section, max_size=4))
def test_a_config_equals_itself_read_back_from_json(tmp_path_factory, plain):
  config = frozen(ConfigDict(plain))
  folder = tmp_path_factory.getbasetemp()
  write_atomically(folder / "config.json", config_json(config))
  again = load_config(folder)
  assert again == config
  assert {key: repr(value) for key, value in flat(again).items()} == {
    key: repr(value) for key, value in flat(config).items()
  }


def test_arguments_have_the_types_of_their_defaults():
  arguments = common.parse(
    "rate=3,size=2, root=/a/b ,small", rate=0.5, size=(1, 2), root=None, small=False
  )
  assert repr(arguments) == "namespace(rate=3.0, size=2, root='/a/b', small=True)"
  assert common.parse("small=no", small=True).small is False
  assert common.parse("", size=("base", "big"), n=3).__dict__ == {"size": "base", "n": 3}


def test_a_file_that_changed_twice_in_a_second_is_read_again(tmp_path):
  """Python's own cache of bytecode goes by length and seconds."""
  text = (
    "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict(dict(a=NUMBER))\n"
  )
  for number in (1, 2, 3):
    (tmp_path / "c.py").write_text(text.replace("NUMBER", str(number)))
    os.utime(tmp_path / "c.py", (1e9, 1e9))
    assert load(str(tmp_path / "c.py")).a == number
