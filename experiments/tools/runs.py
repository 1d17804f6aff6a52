"""What an experiment file says: which runs there are, and which numbers to hold to a paper's.

An experiment file has
  runs(scale)     yields the `Run`s and `Estimate`s of "full" (the paper's size) or "small" (here)
  EXPECTED        (or expected(scale)) `Value`s and `Order`s of a paper, each with its source
  SEARCH          (or search(scale)) a `space.Search`, for `python -m experiments.search`
  NOTES           Markdown for the report: what is to be seen in the numbers
and begins with a docstring: the paper, what it costs, the command.
"""

import dataclasses
import itertools
import pathlib
import re
import types
from collections.abc import Iterator, Mapping, Sequence

from train.common.errors import UserError
from train.record.config import inside, unread_module

SCALES = ("small", "full")
Changes = Mapping[str, object]  # --config.KEY=VALUE


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run and its evaluations. In `config` {data} stands for the folder with the data and
  {root} for the one where this experiment's runs are: `init={root}/NAME` starts from another's
  weights, and waits for it."""

  name: str
  config: str  # configs/NAME.py:arg=value
  changes: Changes = dataclasses.field(default_factory=dict)
  splits: Sequence[str] = ("test",)  # to evaluate; none: training alone
  checkpoint: str = "best"
  metrics: Sequence[str] = ("accuracy",)  # of the table, each of every split

  @property
  def group(self) -> str:
    """The name without its seed: what is averaged."""
    return re.sub(r"-seed\d+$", "", self.name)

  def needs(self) -> set[str]:
    """Names of the runs whose results this one starts from."""
    return set(re.findall(r"\{root\}/([^,:\s]+)", self.config))


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What a config costs on chips that are not here: train.plan, whose numbers have the metric names
  plan/milliseconds, plan/mfu, ... TPUs need requirements-tpu.txt, an H100 requirements-cuda.txt."""

  name: str
  config: str
  changes: Changes = dataclasses.field(default_factory=dict)
  topology: str = "v5e:2x2"
  table: bool = False  # weak scaling too: plan/efficiency_512
  metrics: Sequence[str] = ("milliseconds", "mfu", "gigabytes")
  splits: Sequence[str] = ("plan",)
  checkpoint: str = ""

  @property
  def group(self) -> str:
    return self.name

  def needs(self) -> set[str]:
    return set()


@dataclasses.dataclass(frozen=True)
class Value:
  """A number of a paper. `runs` is a pattern for whole names of runs, whose mean it is held to;
  `metric` is SPLIT/NAME of an evaluation, train/NAME (median over the log; train/milliseconds are
  a step's), parameters or seconds. Without a tolerance it is shown and not checked."""

  name: str
  runs: str
  metric: str
  paper: float | None = None
  source: str = ""  # table, page
  tolerance: float | None = None
  why: str = ""  # a miss, explained


@dataclasses.dataclass(frozen=True)
class Order:
  """What a paper found to be more than something else, by more than `by`."""

  name: str
  more: str  # pattern for names of runs
  less: str
  metric: str
  source: str = ""
  by: float = 0.0
  why: str = ""


def overrides(run: Run | Estimate) -> list[str]:
  """Its changes as KEY=VALUE, what follows `--config.`."""
  return [f"{key}={value}" for key, value in run.changes.items()]


def values(key: str, *several, short: str = "") -> dict[str, Changes]:
  """An axis of a sweep: `values("model.num_heads", 4, 8, short="h")` has the names h4 and h8."""
  return {f"{short}{value}": {key: value} for value in several}


def product(*axes: Mapping[str, Changes]) -> dict[str, Changes]:
  """Each of one axis with each of the others, names joined by "-"."""
  return _joined(itertools.product(*(axis.items() for axis in axes)))


def zipped(*axes: Mapping[str, Changes]) -> dict[str, Changes]:
  """The first of each axis, the second of each, ...; UserError where their lengths differ."""
  if len({len(axis) for axis in axes}) > 1:
    raise UserError(f"zipped: axes of {', '.join(str(len(axis)) for axis in axes)} values")
  return _joined(zip(*(axis.items() for axis in axes)))


def seeds(run: Run, count: int = 3) -> Iterator[Run]:
  """The run with seeds 0, 1, ..., which the table averages."""
  for seed in range(count):
    changes = {**run.changes, "seed": seed}
    yield dataclasses.replace(run, name=f"{run.name}-seed{seed}", changes=changes)


def every(steps: int) -> dict[str, int]:
  """Changes: loss, score and checkpoint after so many steps each."""
  keys = ("evaluate.every", "evaluate.decode_every", "checkpoint.every")
  return dict.fromkeys(keys, steps)


def _joined(combinations):
  found = {}
  for combination in combinations:
    name, changes = "-".join(name for name, _ in combination), {}
    for _, more in combination:
      if twice := changes.keys() & more.keys():
        raise UserError(f"{name}: two axes set {min(twice)}")
      changes |= more
    if name in found:
      raise UserError(f"two combinations have the name {name}")
    found[name] = changes
  return found


@dataclasses.dataclass(frozen=True)
class Experiment:
  """An experiment file, read at one scale."""

  name: str
  scale: str
  module: types.ModuleType
  runs: tuple[Run | Estimate, ...]
  expected: tuple[Value | Order, ...]
  folder: pathlib.Path  # of the file: its results are kept beside it

  @property
  def kept(self) -> pathlib.Path:
    """Where copies of its results are."""
    return self.folder / "results" / self.name / self.scale


def load(path: str, scale: str = "small") -> Experiment:
  """Raises UserError where the file is no experiment, two runs have one name, a run starts from
  one that is not before it, or a pattern of EXPECTED fits no run."""
  file = pathlib.Path(path)
  if not file.is_file():
    raise UserError(f"{path}: no such experiment file")
  spec, module = unread_module(file.stem, file)
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, "runs"):
      raise UserError(f"{path}: an experiment file defines runs(scale), this one does not")
    runs = tuple(module.runs(scale))
    expected = module.expected(scale) if hasattr(module, "expected") else ()
    expected = tuple(expected or getattr(module, "EXPECTED", ()))
  except UserError:
    raise
  except Exception as error:
    raise UserError(inside(file, error)) from error
  names = [run.name for run in runs]
  for at, run in enumerate(runs):
    if not re.fullmatch(r"[\w.+-]+", run.name):
      raise UserError(
        f"{path}: {run.name!r} is no name for a folder: letters, digits and ._+- only"
      )
    if run.name in names[:at]:
      raise UserError(f"{path}: two runs have the name {run.name}")
    if missing := run.needs() - set(names[:at]):
      raise UserError(
        f"{path}: {run.name} starts from {min(missing)}, which no run before it makes"
      )
  for one in expected:
    for pattern in (one.runs,) if isinstance(one, Value) else (one.more, one.less):
      if not any(re.fullmatch(pattern, name) for name in names):
        raise UserError(f"{path}: {one.name}: no run has a name like {pattern}")
  return Experiment(file.stem, scale, module, runs, expected, file.parent)
