"""Defines what an experiment file contains: runs, estimates and the numbers of a paper.

An experiment file begins with a docstring (command, paper, cost) and defines
  runs(scale)     a generator of `Run`s and `Estimate`s for "small" or "full", the paper's size
  EXPECTED        or expected(scale): `Value`s and `Order`s of the paper, each with its source
  SEARCH          or search(scale): a `space.Search`, for `python -m experiments.search`
"""

import dataclasses
import itertools
import pathlib
import re
import types
from collections.abc import Iterator, Mapping, Sequence

from train.common import paths
from train.common.errors import UserError, did_you_mean
from train.record.config import inside, unread_module

SCALES = ("small", "full")
SCALE_HELP = "small: what two CPU cores do in hours; full: the paper's size"
Changes = Mapping[str, object]  # --config.KEY=VALUE


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run and its evaluations. In `config`, {data} is the folder of the data sets and
  {root} that of this experiment's runs: `init={root}/NAME` starts from the weights of the run NAME
  and waits for it."""

  name: str
  config: str  # configs/NAME.py:arg=value
  changes: Changes = dataclasses.field(default_factory=dict)
  splits: Sequence[str] = ("test",)  # to evaluate; empty: training alone
  checkpoint: str = "best"
  metrics: Sequence[str] = ("accuracy",)  # columns of the table, for each split

  def dependencies(self) -> set[str]:
    """Returns the names of the runs from which this run starts."""
    return set(re.findall(r"\{root\}/([^,:\s/]+)", self.config))


@dataclasses.dataclass(frozen=True)
class Derived(Run):
  """A folder or file that a command makes of other runs, such as ("train.prune", "--workdir",
  "{root}/NAME"), to which --out is added, and the evaluations of that folder."""

  config: str = ""
  checkpoint: str = "latest"
  made: Sequence[str] = ()
  out: str = "run"  # in this run's folder: a folder, or a file

  def dependencies(self) -> set[str]:
    """Returns the names of the runs that it is made of."""
    return set(re.findall(r"\{root\}/([^,:\s/]+)", " ".join(self.made)))


def check_metrics(run: Run, names: Sequence[Sequence[str]]) -> None:
  """Raises UserError for a metric of a run, but the default one, that is among none of the `names`
  of its task."""
  known = [name for several in names for name in several]
  for metric in run.metrics if run.splits and not isinstance(run, Estimate | Derived) else ():
    if metric not in (*known, *Run.metrics):
      raise UserError(
        f"metrics has {metric!r}{did_you_mean(metric, known)}; its evaluation reports"
        f" {', '.join(known)}"
      )


@dataclasses.dataclass(frozen=True)
class Estimate(Run):
  """A step compiled by train.plan for chips that are not here, with metrics such as plan/mfu. TPUs
  need requirements-tpu.txt, an H100 needs requirements-cuda.txt."""

  splits: Sequence[str] = ("plan",)
  checkpoint: str = ""
  metrics: Sequence[str] = ("milliseconds", "mfu", "gigabytes")
  topology: str = "v5e:2x2"
  table: bool = False  # weak scaling too: plan/efficiency_512


@dataclasses.dataclass(frozen=True)
class Value:
  """A number of a paper, compared with the mean of our runs and checked if it has a tolerance.

  `metric` is SPLIT/NAME of an evaluation, train/NAME (the median over the log without its first
  line; train/milliseconds is the time of a step), parameters, seconds or steps, or one of
  sizes.NAMES.
  """

  name: str
  runs: str  # pattern for whole names of runs
  metric: str
  paper: float | None = None
  source: str = ""  # table, page
  tolerance: float | None = None
  why: str = ""  # explains a miss


@dataclasses.dataclass(frozen=True)
class Order:
  """A paper's claim that one group of runs exceeds `times` another by more than `by`; with `spread`
  also by more than either group's largest value is above its smallest."""

  name: str
  more: str  # pattern for names of runs
  less: str
  metric: str
  source: str = ""
  by: float = 0.0
  times: float = 1.0
  spread: bool = False
  why: str = ""


def check_name(name: str, what: str) -> None:
  """Raises UserError for a name of `what` that is no plain folder name, such as "..", "-rf", ""."""
  if not re.fullmatch(r"[\w+][\w.+-]*", name):
    raise UserError(
      f"{what}: {name!r} cannot name a folder: begin with a letter or digit, and use letters,"
      " digits, ._+-"
    )


def folder(text: str) -> paths.Path:
  """Returns a command's folder; raises UserError for an empty name or one like an option."""
  if not text or text.startswith("-"):
    raise UserError(f"{text!r} cannot name a folder of a command: write ./{text}")
  return paths.of(text)


def group_name(name: str, ending: str = "") -> str:
  """Returns a run's name with `ending` in place of -seedN: the group of runs that are averaged."""
  return re.sub(r"-seed\d+$", ending, name)


def overrides(run: Run | Estimate) -> list[str]:
  """Returns the run's changes as KEY=VALUE, which follow `--config.`."""
  return [f"{key}={value}" for key, value in run.changes.items()]


def values(key: str, *several, short: str = "") -> dict[str, Changes]:
  """Makes an axis of a sweep; `values("model.num_heads", 4, 8, short="h")` has the names h4, h8."""
  return {f"{short}{value}": {key: value} for value in several}


def product(*axes: Mapping[str, Changes]) -> dict[str, Changes]:
  """Combines each point of an axis with each point of the others; "-" joins their names."""
  joined = {}
  for combination in itertools.product(*(axis.items() for axis in axes)):
    name, changes = "-".join(name for name, _ in combination), {}
    for _, more in combination:
      if twice := changes.keys() & more.keys():
        raise UserError(f"{name}: two axes set {min(twice)}")
      changes |= more
    if name in joined:
      raise UserError(f"two combinations have the name {name}")
    joined[name] = changes
  return joined


def seeds(run: Run, count: int = 3) -> Iterator[Run]:
  """Yields the run with seeds 0, 1, ..., which the tables average."""
  for seed in range(count):
    changes = {**run.changes, "seed": seed}
    yield dataclasses.replace(run, name=f"{run.name}-seed{seed}", changes=changes)


def evaluate_every(steps: int) -> dict[str, int]:
  """Returns changes that compute loss and score and save a checkpoint every so many steps."""
  return dict.fromkeys(("evaluate.every", "evaluate.decode_every", "checkpoint.every"), steps)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """An experiment file, read at one scale."""

  name: str
  scale: str
  module: types.ModuleType
  runs: tuple[Run | Estimate, ...]
  expected: tuple[Value | Order, ...]
  folder: pathlib.Path  # of the file; copies of its results are stored beside it
  search: object = None  # a space.Search, where the file has one

  @property
  def copies(self) -> pathlib.Path:
    """Returns the folder of the committed copies of its results."""
    return self.folder / "results" / self.name / self.scale

  @property
  def listed(self) -> bool:
    """Returns whether README.md beside the file links to it; the results of others are private."""
    readme = self.folder / "README.md"
    return readme.is_file() and f"({self.name}.py)" in readme.read_text(encoding="utf-8")


def load(path: str, scale: str = "small") -> Experiment:
  """Reads an experiment file. Raises UserError where the file is none, two runs share a name, a run
  starts from a run that does not precede it, or a pattern of EXPECTED matches no run."""
  file = pathlib.Path(path)
  if not file.is_file():
    others = [other.name for other in file.parent.glob("*.py")]
    raise UserError(f"{path}: no such experiment file{did_you_mean(file.name, others)}")
  check_name(file.stem, path)
  spec, module = unread_module(file.stem, file)
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, "runs"):
      raise UserError(f"{path}: an experiment file defines runs(scale), this file does not")
    runs = tuple(module.runs(scale))
    expected = module.expected(scale) if hasattr(module, "expected") else ()
    expected = tuple(expected or getattr(module, "EXPECTED", ()))
    search = module.search(scale) if hasattr(module, "search") else None
    search = search or getattr(module, "SEARCH", None)
  except UserError:
    raise
  except Exception as error:
    raise UserError(inside(file, error)) from error
  names = [run.name for run in runs]
  for index, run in enumerate(runs):
    check_name(run.name, path)
    if run.name in names[:index]:
      raise UserError(f"{path}: two runs have the name {run.name}")
    if missing := run.dependencies() - set(names[:index]):
      raise UserError(f"{path}: {run.name} starts from {min(missing)}, which no earlier run makes")
  for claim in expected:
    for pattern in (claim.runs,) if isinstance(claim, Value) else (claim.more, claim.less):
      if not any(re.fullmatch(pattern, name) for name in names):
        raise UserError(f"{path}: {claim.name}: no run has a name like {pattern}")
  return Experiment(file.stem, scale, module, runs, expected, file.parent, search)
