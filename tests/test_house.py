"""The house's own rules, read from the source: who imports whom, axis letters, length of files."""

import ast
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = ("model", "train", "configs", "experiments")
OURS = {*ROOMS, "tests"}
LONGEST = 300  # lines
# Folder -> what it may import beside the standard library. The longest folder that fits counts.
MAY_IMPORT = {
  "model": {"jax", "flax", "optax", "numpy", "model"},
  "configs": {"ml_collections", "configs"},
}
# Folder -> what it must not import. `configs` in `train` would turn the arrow round.
MUST_NOT_IMPORT = {
  "": {"tensorflow", "torch", "keras"},
  "train": {"configs", "experiments", "tests"},
  # worker processes import it, and jax would take their memory and seconds
  "train/data": {"jax", "flax", "optax", "orbax", "model"},
  "experiments": {"tests"},
}
# File -> a module that it may import all the same.
EXCEPTIONS = {"configs/common.py": "train.interop.directory"}
# Scripts that an environment of their own runs, with torch.
ELSEWHERE = ("tests/fixtures", "tests/parity/trainer.py")
# What would run code that is in a file. Config files are Python on purpose: the user's own.
RUNNING_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
RUNNING_CALLS = {"eval", "exec", "torch.load", "yaml.load", "os.system", "os.popen"}
RUNNING_ARGUMENTS = {"allow_pickle", "trust_remote_code", "shell"}
AXES = "BTSDHGRKFVN"  # the table at the top of model/layers.py


def files(*folders):
  return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def within(path, folder):
  return folder == "" or path == folder or path.startswith(folder + "/")


def imports(source):
  """(line, dotted name) of every import, at the top or inside a function; a dot for one's own."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, name.name) for name in node.names)
    elif isinstance(node, ast.ImportFrom):
      start = "." * node.level + (node.module or "")
      yield from ((node.lineno, f"{start}.{name.name}".lstrip(".")) for name in node.names)


def forbidden_imports(path, source):
  """What the file `path` (as from the root) imports against MAY_IMPORT and MUST_NOT_IMPORT."""
  for line, name in imports(source):
    top = name.partition(".")[0]
    if EXCEPTIONS.get(path) == name:
      continue
    for folder, allowed in MAY_IMPORT.items():
      if within(path, folder) and top not in allowed | sys.stdlib_module_names:
        yield f"{path}:{line} imports {name}"
    for folder, banned in MUST_NOT_IMPORT.items():
      if within(path, folder) and top in banned:
        yield f"{path}:{line} imports {name}"


def reached(path, room):
  """The files of `room` that the file `path` imports, over any number of steps."""
  seen, waiting = set(), [path]
  while waiting:
    here = waiting.pop()
    if here in seen:
      continue
    seen.add(here)
    for _, name in imports(here.read_text(encoding="utf-8")):
      parts = name.split(".")
      for end in range(1, len(parts) + 1):
        base = ROOT.joinpath(*parts[:end])
        found = [base.with_suffix(".py"), base / "__init__.py"]
        waiting += [file for file in found if parts[0] == room and file.exists()]
  return seen - {path}


def axis_mismatches(source):
  """Einsums whose subscripts aren't the suffixes of their operands and of what they're assigned to.

  Names without a suffix are free (words are for outside algebra); a suffix that is there counts.
  """
  tree = ast.parse(source)
  targets = {
    id(node.value): node.targets[0] if isinstance(node, ast.Assign) else node.target
    for node in ast.walk(tree)
    if isinstance(node, (ast.Assign, ast.AnnAssign))
  }
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call) or getattr(node.func, "attr", "") != "einsum":
      continue
    text = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
    if not isinstance(text, str):
      yield f"line {node.lineno}: the subscripts are not written out"
      continue
    inputs, arrow, output = text.replace(" ", "").replace("...", "").partition("->")
    if not arrow:
      yield f"line {node.lineno}: {text} has no ->"
    operands = [*zip(inputs.split(","), node.args[1:]), (output, targets.get(id(node)))]
    for letters, operand in operands:
      name = called(operand)
      suffix = re.search(r"_([A-Z]+)$", name)
      if suffix and suffix[1] != letters:
        yield f"line {node.lineno}: {name} is written {letters}"
    if unknown := set(inputs + output) - set(AXES + AXES.lower() + ","):
      yield f"line {node.lineno}: {text} has letters outside {AXES}: {''.join(sorted(unknown))}"


def called(operand):
  if isinstance(operand, ast.Name):
    return operand.id
  return operand.attr if isinstance(operand, ast.Attribute) else ""


def runs_what_it_reads(source):
  """Lines that could run what a file or a person from elsewhere says: pickles, eval, a shell."""
  for line, name in imports(source):
    if name.partition(".")[0] in RUNNING_MODULES:
      yield f"line {line} imports {name}"
  for node in ast.walk(ast.parse(source)):
    if not isinstance(node, ast.Call):
      continue
    name = ast.unparse(node.func)
    told = {word.arg for word in node.keywords if ast.unparse(word.value) != "False"}
    if name in RUNNING_CALLS or told & RUNNING_ARGUMENTS:
      yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_that_is_read_can_run_code(room):
  for file in files(room):
    path = file.relative_to(ROOT).as_posix()
    if not any(within(path, folder) for folder in ELSEWHERE):
      assert not list(runs_what_it_reads(file.read_text(encoding="utf-8"))), file


@pytest.mark.parametrize(
  "source",
  [
    "import pickle",
    "from marshal import loads",
    "def f():\n  import cloudpickle as p",
    "x = eval(text)",
    "exec(text)",
    "np.load(path, allow_pickle=True)",
    "numpy.load(path, None, allow_pickle=yes)",
    "torch.load(path)",
    "AutoModel.from_pretrained(name, trust_remote_code=True)",
    "yaml.load(text)",
    "os.system(text)",
    "subprocess.run(text, shell=True)",
  ],
)
def test_what_could_run_code_is_seen(source):
  assert list(runs_what_it_reads(source))


def test_what_cannot_run_code_is_not():
  source = "import json\nast.literal_eval(x)\nnp.load(x, allow_pickle=False)\nsubprocess.run([x])"
  assert not list(runs_what_it_reads(source + "\nself.eval(x)\nexecutor.exec_later(x)"))


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_imports_follow_the_arrows(room):
  for file in files(room):
    path = file.relative_to(ROOT).as_posix()
    if any(within(path, folder) for folder in ELSEWHERE):
      continue
    assert not list(forbidden_imports(path, file.read_text(encoding="utf-8")))


def test_the_model_has_no_word_for_how_devices_share_it():
  words = re.compile(r"shard|mesh|partition|fsdp|pmap|psum", re.IGNORECASE)
  for file in files("model"):
    found = words.search(file.read_text(encoding="utf-8"))
    assert not found, f"{file}: {found}"


def test_data_reaches_no_jax_by_a_detour():
  for file in files("train/data"):
    for other in reached(file, "train"):
      path = "train/data/" + other.relative_to(ROOT).as_posix()  # judged as if it were data
      assert not list(forbidden_imports(path, other.read_text(encoding="utf-8"))), file


@pytest.mark.parametrize(
  "path, source",
  [
    ("model/layers.py", "import ml_collections"),
    ("model/layers.py", "from train import loop"),
    ("model/layers.py", "def f():\n  import train.loop"),
    ("train/data/packing.py", "import jax.numpy as jnp"),
    ("train/data/packing.py", "from flax import nnx"),
    ("train/loop.py", "from configs import scan"),
    ("train/loop.py", "import torch"),
    ("configs/scan.py", "from train import loop"),
    ("configs/scan.py", "import jax"),
    ("experiments/a.py", "import tensorflow as tf"),
    ("tests/test_a.py", "from torch import nn"),
  ],
)
def test_a_wrong_import_is_seen(path, source):
  assert list(forbidden_imports(path, source))


@pytest.mark.parametrize(
  "path, source",
  [
    ("model/layers.py", "import functools\nimport jax\nfrom model import positions"),
    ("train/data/packing.py", "import numpy\nimport grain\nfrom train.common import errors"),
    ("train/loop.py", "import jax\nfrom model.transformer import Transformer"),
    ("configs/scan.py", "from ml_collections import ConfigDict\nfrom configs import common"),
    ("experiments/a.py", "from configs import scan\nfrom train import loop"),
  ],
)
def test_a_right_import_is_not(path, source):
  assert not list(forbidden_imports(path, source))


def test_a_detour_is_followed(tmp_path, monkeypatch):
  monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
  (tmp_path / "train").mkdir()
  for name, text in {"a": "from train import b", "b": "import train.c", "c": "import jax"}.items():
    (tmp_path / "train" / f"{name}.py").write_text(text)
  assert {file.name for file in reached(tmp_path / "train" / "a.py", "train")} == {"b.py", "c.py"}


def test_einsum_subscripts_are_the_suffixes_of_names():
  for file in files("model", "train"):
    assert not list(axis_mismatches(file.read_text(encoding="utf-8"))), file


@pytest.mark.parametrize(
  "source",
  [
    'y_BTK = jnp.einsum("BTHK,HKD->BTD", x_BTHK, w_HKD)',
    'y_BTD = jnp.einsum("BTHK,HKD->BTD", x_BTKH, w_HKD)',
    'y_BTD: Array = jnp.einsum("BTHK,HKD->BTD", x_BTHK, w_KHD)',
    'f(jnp.einsum("BTHK,HKD->BTD", x_BTHK, self.w_HDK))',
    'y_BT = jnp.einsum("BTX,XD->BT", x, w)',
    'y = jnp.einsum("BTD,BTD", x_BTD, x_BTD)',
    'y_BT = jnp.einsum(pattern, x_BTD, x_BTD)',
  ],
)  # fmt: skip
def test_a_wrong_axis_is_seen(source):
  assert list(axis_mismatches(source))


@pytest.mark.parametrize(
  "source",
  [
    'y_BTD = jnp.einsum("BTHK,HKD->BTD", x_BTHK, w_HKD)',
    'return jnp.einsum("BTHK, BSHK -> BHTS", q_BTHK, self.key)',
    'y_BT = np.einsum("BTD,BTD->BT", x_BTD, x_BTD)',
  ],
)
def test_a_right_axis_is_not(source):
  assert not list(axis_mismatches(source.replace("return ", "")))


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_is_longer_than_it_can_be_read(room):
  lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files(room)}
  assert not {str(file): lines for file, lines in lengths.items() if lines > LONGEST}


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_no_file_names_a_place_of_one_machine(room):
  own = re.compile(r"/(home|root|work|Users)/\w")
  assert not [str(file) for file in files(room) if own.search(file.read_text(encoding="utf-8"))]


def test_every_room_is_read():
  """Else the tests above pass on a wrong ROOT."""
  assert all((ROOT / room / "__init__.py") in files(room) for room in ROOMS)
