"""model/README.md: its example runs, and its tables are those of the code."""

import ast
import dataclasses
import pathlib
import re

import jax.numpy as jnp
import pytest
from flax import nnx

from model import config, kernels, layers, settings
from model.config import LSTMConfig, TransformerConfig
from model.transformer import Transformer
from train import sharding

FOLDER = pathlib.Path(config.__file__).parent
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
CHOICES = dict(
  activation=layers.ACTIVATIONS,
  norm=layers.NORMS,
  norm_position=settings.NORM_POSITIONS,
  positions=settings.POSITIONS,
  disentangled_terms=settings.TERMS,
  convolution_activation=layers.ACTIVATIONS,
  output_transform=settings.KNOWN["output_transform"],
  attention_impl=kernels.IMPLS,
  remat=layers.REMAT,
  dtype=settings.DTYPES,
)


def table(first: str) -> list[list[str]]:
  """Returns the cells of each row of the table whose first heading is `first`."""
  (rows,) = re.findall(rf"^\| {first} \|.*\n\|[-|]*\n((?:\|.*\n)*)", TEXT, re.MULTILINE)
  return [re.split(r" ?(?<!\\)\| ?", row)[1:-1] for row in rows.splitlines()]


def code(cell: str) -> list[str]:
  return re.findall(r"`([^`]*)`", cell)


def test_its_example_runs():
  (text,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
  names = dict(jnp=jnp, nnx=nnx, Transformer=Transformer, TransformerConfig=TransformerConfig)
  exec(text, names)
  assert names["states"].shape == (1, 4, 64)
  assert names["logits"].shape == (1, 3, 100)


def test_its_reading_order_names_every_file_once():
  named = [name for row in table("file") for name in code(row[0])]
  assert sorted(named) == sorted(p.name for p in FOLDER.glob("*.py") if p.name != "__init__.py")


@pytest.mark.parametrize("kind", [TransformerConfig, LSTMConfig])
def test_its_settings_are_the_fields_with_their_values(kind):
  fields = {field.name: field for field in dataclasses.fields(kind)}
  rows = table(kind.__name__)
  assert sorted(name for row in rows for name in code(row[0])) == sorted(fields)
  for cells in rows:
    names, values = code(cells[0]), code(cells[1])
    defaults = [fields[name].default for name in names]
    given = [str(value) for value in defaults if value is not dataclasses.MISSING]
    assert values[: len(given)] == given, names
    assert ("required" in cells[1]) == (len(given) < len(names)), names
    choices = {choice for name in names for choice in CHOICES.get(name, ())}
    assert set(values) == choices | set(given), names


def marked(path: pathlib.Path) -> set[str]:
  """Returns the names that a file passes to `constrain`."""
  nodes = ast.walk(ast.parse(path.read_text()))
  calls = (node for node in nodes if isinstance(node, ast.Call) and len(node.args) == 2)
  return {ast.literal_eval(call.args[1]) for call in calls if ast.unparse(call.func) == "constrain"}


def test_its_layouts_are_the_places_that_are_marked():
  rows = {code(cells[0])[0]: set(code(cells[2])) for cells in table("name")}
  places = {path.name: marked(path) for path in FOLDER.glob("*.py")}
  assert rows == {
    name: {file for file, names in places.items() if name in names}
    for name in set().union(*places.values())
  }
  mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
  assert rows.keys() == sharding.ActivationSharding(mesh).layouts.keys()
