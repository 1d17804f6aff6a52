"""The house's own rules, read from the source: who imports whom, axis letters, length of files."""

import ast
import pathlib
import re
import sys

import pytest

from tests import slow_list

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = ("model", "train", "configs", "experiments")
OURS = {*ROOMS, "tests"}
LONGEST = 300  # lines
# Who may import whom: a folder or file -> the folders and files of ours that it may import beside
# itself. The longest entry that fits a path counts, "-" takes out what a shorter word lets in.
ARROWS = {
  "model": "",
  "configs": "model/config",
  "train/common": "",
  "train/scoring": "train/common",
  "train/record": "train/common",
  "train/cluster": "train/common train/record",
  "train/data": "train/common",
  "train/interop": "train/common train/data model",
  "train/tasks": "train/common train/data train/scoring train/losses model",
  "train/compression": "train/common train/tasks train/losses model",
  "train/planning": "train -train/interop -train/loop model",
  "train/preparing": "train/common train/data",
  # the files of train/ itself: the main path, with the commands at its end
  "train": "model -train/interop -train/planning -train/preparing",
  "train/pretrained": "train model -train/planning -train/loop -train/inference",
  "train/inheriting": "train model -train/planning -train/loop -train/inference",
  "train/export": "train model -train/planning",
  "train/export_source": "train model -train/planning",
  "train/export_adapter": "train model -train/planning",
  "train/export_check": "train model -train/planning",
  "train/export_facts": "train model -train/planning",
  "train/plan": "train model -train/interop",
  "train/prepare": "train model -train/interop -train/planning",
  "experiments": "train model configs",
  "tests": "train model configs experiments",
}
# A person starts them; of the project only tests import them.
COMMANDS = (
  *("train/main", "train/evaluate", "train/predict", "train/export", "train/plan"),
  *("train/checkpoints", "train/prepare", "train/prune", "train/soup"),
  *("experiments/run", "experiments/search", "experiments/compare"),
)
# Folder -> the packages of others that it may import.
PACKAGES = {
  "model": {"jax", "flax", "optax", "numpy"},
  "configs": {"ml_collections", "fsspec"},
}
# Folder -> the packages of others that it must not import.
BANNED = {
  "": {"tensorflow", "torch", "keras"},
  "train/preparing": {"jax", "flax", "optax", "orbax"},
  # worker processes import it, and jax would take their memory and seconds
  "train/data": {"jax", "flax", "optax", "orbax"},
}
# Scripts that an environment of their own runs, with torch.
ELSEWHERE = ("tests/fixtures", "tests/parity/trainer.py", "experiments/benchmark/peers")
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
  """Yields (line, dotted name) of every import, at the top or inside a function."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, name.name) for name in node.names)
    elif isinstance(node, ast.ImportFrom):
      start = "." * node.level + (node.module or "")
      yield from ((node.lineno, f"{start}.{name.name}".lstrip(".")) for name in node.names)


def forbidden_imports(path, source):
  """Yields each import of the file `path` (from the root) that is of a test module, or that ARROWS,
  COMMANDS, PACKAGES and BANNED do not allow."""
  for line, name in imports(source):
    top, target = name.partition(".")[0], name.replace(".", "/")
    if re.search(r"(^|/)test_", target):  # helpers.py and conftest.py hold what tests share
      allowed = False
    elif top in OURS:
      allowed = reaches(path, target)
    else:
      allowed = all(
        top in packages | sys.stdlib_module_names
        for folder, packages in PACKAGES.items()
        if within(path, folder)
      ) and not any(top in banned for folder, banned in BANNED.items() if within(path, folder))
    if not allowed:
      yield f"{path}:{line} imports {name}"


def reaches(path, target):
  """Returns whether ARROWS and COMMANDS let the file `path` import the module `target`."""
  if longest(target, COMMANDS) and not within(path, "tests"):
    return False
  row = longest(path.removesuffix(".py"), ARROWS)
  words = ARROWS[row].split()
  word = longest(target, [row, *(word.removeprefix("-") for word in words)])
  return word is not None and f"-{word}" not in words


def longest(path, folders):
  """Returns the longest of `folders` that `path` is in, or None."""
  return max((folder for folder in folders if within(path, folder)), key=len, default=None)


def reached(path, room):
  """Returns the files of `room` that the file `path` imports, over any number of steps."""
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
        candidates = [base.with_suffix(".py"), base / "__init__.py"]
        waiting += [file for file in candidates if parts[0] == room and file.exists()]
  return seen - {path}


def axis_mismatches(source):
  """Yields einsums whose subscripts aren't the suffixes of their operands and their targets.

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
  """Yields lines that could run what a file or a person from elsewhere holds: pickles, eval, a
  shell."""
  for line, name in imports(source):
    if name.partition(".")[0] in RUNNING_MODULES:
      yield f"line {line} imports {name}"
  for node in ast.walk(ast.parse(source)):
    if not isinstance(node, ast.Call):
      continue
    name = ast.unparse(node.func)
    arguments = {word.arg for word in node.keywords if ast.unparse(word.value) != "False"}
    if name in RUNNING_CALLS or arguments & RUNNING_ARGUMENTS:
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
    text = file.read_text(encoding="utf-8").replace("train/sharding.py", "")  # may be referred to
    assert not words.search(text), f"{file}: {words.search(text)}"


@pytest.mark.parametrize("folder", ["train/data", "train/preparing"])
def test_data_reaches_no_jax_by_a_detour(folder):
  for file in files(folder):
    for other in reached(file, "train"):
      path = f"{folder}/" + other.relative_to(ROOT).as_posix()  # judged as if it were data
      assert not list(forbidden_imports(path, other.read_text(encoding="utf-8"))), file


WRONG_IMPORTS = [
  ("model/layers.py", "import ml_collections"),
  ("model/layers.py", "from train import loop"),
  ("model/layers.py", "def f():\n  import train.loop"),
  ("configs/scan.py", "import jax"),
  ("configs/scan.py", "from train.common import errors"),
  ("configs/scan.py", "from model import transformer"),
  ("train/common/files.py", "from train.record import writer"),
  ("train/scoring/scores.py", "from train.data import items"),
  ("train/record/writer.py", "from train import step"),
  ("train/cluster/processes.py", "from train import tasks"),
  ("train/data/packing.py", "import jax.numpy as jnp"),
  ("train/data/packing.py", "from flax import nnx"),
  ("train/data/packing.py", "from model import config"),
  ("train/data/packing.py", "from train.scoring import scores"),
  ("train/interop/weights.py", "from train import pretrained"),
  ("train/tasks/mlm.py", "from train import step"),
  ("train/tasks/mlm.py", "from train.interop import directory"),
  ("train/compression/lora.py", "from train import pretrained"),
  ("train/planning/estimate.py", "from train import loop"),
  ("train/planning/estimate.py", "import train.interop.directory"),
  ("train/preparing/job.py", "from train import tasks"),
  ("train/preparing/job.py", "import jax"),
  ("train/prepare.py", "from train.interop import directory"),
  ("train/loop.py", "from train.preparing import job"),
  ("train/loop.py", "from configs import scan"),
  ("train/loop.py", "from tests import helpers"),
  ("train/loop.py", "import torch"),
  ("train/loop.py", "from train.interop.directory import Directory"),
  ("train/loop.py", "from train.planning import estimate"),
  ("train/loop.py", "from train.export import as_hf"),
  ("train/evaluate.py", "from train import interop"),
  ("train/evaluate.py", "from train import predict"),
  ("train/pretrained.py", "from train import inference"),
  ("train/export.py", "from train import main"),
  ("train/export.py", "from train.planning import estimate"),
  ("train/inheriting.py", "from train import loop"),
  ("train/export_source.py", "from train.planning import estimate"),
  ("train/export_adapter.py", "from train.planning import estimate"),
  ("train/export_check.py", "from train.planning import estimate"),
  ("train/export_facts.py", "from train.planning import estimate"),
  ("train/plan.py", "from train.interop import weights"),
  ("experiments/a.py", "import tensorflow as tf"),
  ("experiments/a.py", "from train import main"),
  ("experiments/tools/a.py", "from experiments import run"),
  ("experiments/a.py", "from tests import helpers"),
  ("tests/test_a.py", "from torch import nn"),
  ("tests/test_a.py", "from test_b import build"),
  ("tests/model/test_a.py", "from tests.model.test_b import build"),
  ("tests/model/helpers.py", "from tests.model import test_b as transformers"),
]


@pytest.mark.parametrize("path, source", WRONG_IMPORTS)
def test_a_wrong_import_is_seen(path, source):
  assert list(forbidden_imports(path, source))


def test_every_row_of_the_tables_has_a_wrong_import():
  paths = [path.removesuffix(".py") for path, _ in WRONG_IMPORTS]
  assert {longest(path, ARROWS) for path in paths} == ARROWS.keys()
  assert all(any(within(path, row) for path in paths) for row in (*PACKAGES, *BANNED))


@pytest.mark.parametrize(
  "path, source",
  [
    ("model/layers.py", "import functools\nimport jax\nfrom model import positions"),
    ("configs/scan.py", "from ml_collections import ConfigDict\nfrom configs import common"),
    ("configs/sections.py", "from model.config import TransformerConfig"),
    ("train/data/packing.py", "import numpy\nimport grain\nfrom train.common import errors"),
    ("train/tasks/mlm.py", "import jax\nfrom train import losses\nfrom train.tasks import encoder"),
    ("train/loop.py", "import jax\nfrom model.transformer import Transformer"),
    (
      "train/loop.py",
      "from train import pretrained, tasks\nfrom train.checkpoint import Checkpoints",
    ),
    ("train/pretrained.py", "from train.interop.directory import Directory"),
    ("train/export.py", "from train.interop import directory\nfrom train import inference"),
    ("train/plan.py", "from train.planning import estimate"),
    ("experiments/a.py", "from configs import scan\nfrom train import loop"),
    ("tests/train/test_main.py", "from train import main\nfrom tests.train.data import po"),
    ("tests/train/test_main.py", "from tests.helpers import load_config"),
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


def test_fixtures_name_no_folder_of_a_machine():
  """Orbax's marks and tokenizers' settings would have them."""
  own = re.compile(rb"/(home|root|work|Users)/\w|/tmp/tmp")
  paths = [x for x in (ROOT / "tests/fixtures").rglob("*") if x.suffix in (".json", ".txt")]
  assert len(paths) > 100
  assert not [str(path) for path in paths if own.search(path.read_bytes())]


def test_every_room_is_read():
  """Else the tests above pass on a wrong ROOT."""
  assert all((ROOT / room / "__init__.py") in files(room) for room in ROOMS)


def test_no_two_files_of_tests_have_one_name():
  """Pytest imports them by it."""
  names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
  assert len(names) > 100
  assert not {name for name in names if names.count(name) > 1}


def test_every_test_of_the_slow_list_is_there():
  ids = slow_list.read()
  assert ids == sorted(set(ids))
  assert len(ids) > 100
  for name in ids:
    file, _, test = name.partition("::")
    assert f"def {test.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8"), name


NO_VERBS = {"Of", "As", "By", "Its", "Within", "What", "Whether", "Where", "Which", "Who", "How"}


def docstrings_without_verb(source):
  """Yields the lines of docstrings that begin with a word of NO_VERBS."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
      words = (ast.get_docstring(node) or "").split()
      if words and words[0] in NO_VERBS:
        yield f"line {getattr(node, 'lineno', 1)}: {words[0]} ..."


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_begin_with_a_verb_or_a_noun(room):
  for file in files(room):
    assert not list(docstrings_without_verb(file.read_text(encoding="utf-8"))), file


def test_a_docstring_without_verb_is_seen():
  assert list(docstrings_without_verb('def f():\n  """Of a file: its lines."""'))
  assert not list(docstrings_without_verb('def f():\n  """Returns the lines of a file."""'))
