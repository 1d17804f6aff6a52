"""train/record/loggers: each step once, in the same run after a restart, and one error line."""

import importlib
import itertools
import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from train import main, resolve, schema
from train.common.errors import UserError
from train.record import older, writer
from train.record.loggers import registry

CONFIG = {"steps": 9, "task.data.path": "data/x", "model.dim": 8, "empty": "", "pair": (1, 2)}


def run(folder, start, stop, loggers, config=CONFIG, close=True):
  """Writes the lines of steps start+1 .. stop, as a training would."""
  folder.mkdir(exist_ok=True)
  out = writer.Writer(folder, start, progress=False, loggers=loggers, config=config)
  for step in range(start + 1, stop + 1):
    out.write(step, "train", {"loss": 1 / step})
    if step % 2 == 0:
      out.write(step, "validation", {"loss": 2 / step})
  if close:
    out.close()
  return out


ONCE = {("train", step): 1 / step for step in range(1, 10)}
ONCE |= {("validation", step): 2 / step for step in (2, 4, 6, 8)}


class Service:
  """A logger that keeps what it gets, for all of its runs."""

  runs, points, closed = [], [], []
  fails = False

  def __init__(self, folder, config, run, start_step):
    if run == "gone":
      raise RuntimeError("no such run\nand more")
    self.run = run or f"run{len(self.runs)}"
    self.runs.append((self.run, start_step))

  def write(self, step, split, values):
    if self.fails:
      raise ConnectionError("no route")
    self.points.append((self.run, split, step, values["loss"]))

  def close(self, scores, failed):
    self.closed.append((self.run, scores, failed))


@pytest.fixture
def service(monkeypatch):
  for name in ("runs", "points", "closed"):
    monkeypatch.setattr(Service, name, [])
  monkeypatch.setattr(Service, "fails", False)
  monkeypatch.setitem(registry.LOGGERS, "wandb", Service)
  return Service


def test_a_resumed_run_goes_on_in_its_run_and_repeats_no_step(service, tmp_path):
  run(tmp_path, 0, 7, ["wandb"], close=False).lines.close()  # killed at 7, checkpoint at 4
  run(tmp_path, 4, 6, ["wandb"], close=False).lines.close()  # killed again
  run(tmp_path, 4, 9, ["wandb"])
  assert service.runs == [("run0", 0), ("run0", 4), ("run0", 4)]
  assert {point[1:3]: point[3] for point in service.points} == ONCE
  assert len(service.points) == len(ONCE)
  assert service.closed == [("run0", {"validation/loss": 0.25}, False)]


def test_a_start_from_nothing_is_a_new_run(service, tmp_path):
  run(tmp_path, 0, 2, ["wandb"])
  run(tmp_path, 0, 2, ["wandb"])
  assert [name for name, _ in service.runs] == ["run0", "run1"]
  assert len(service.points) == 6
  run(tmp_path, 0, 2, [])
  assert not (tmp_path / registry.FILE).exists()


def test_a_logger_that_fails_does_not_end_the_run(service, tmp_path, caplog):
  service.fails = True
  run(tmp_path, 0, 4, ["wandb"])
  assert service.points == service.closed == []
  assert caplog.text.count("wandb failed") == 1
  assert "no route" in caplog.text
  assert len(writer.read_metrics(tmp_path)) == 6
  service.fails = False
  run(tmp_path, 4, 5, ["wandb"])
  assert service.points == [("run0", "train", 5, 0.2)]


def test_a_run_that_fails_is_closed_as_failed(service, tmp_path):
  with pytest.raises(ZeroDivisionError), writer.Writer(tmp_path, 0, loggers=["wandb"]):
    _ = 1 / 0
  assert service.closed == [("run0", {}, True)]


def test_only_the_primary_process_opens_loggers(service, tmp_path):
  writer.Writer(tmp_path, 0, primary=False, loggers=["wandb"]).close()
  assert service.runs == []
  assert not list(tmp_path.iterdir())


def test_what_cannot_be_opened_or_read_is_named(service, tmp_path):
  file = tmp_path / registry.FILE
  file.write_text('{"wandb": {"run": "gone", "steps": {}}}')
  with pytest.raises(UserError, match=r"^loggers: wandb .*no such run$"):
    run(tmp_path, 4, 5, ["wandb"])
  for damaged in ('{"wandb": 3}', '{"wandb": {"run": "a"}}', '{"wandb": {"run": 1, "steps": {}}}'):
    file.write_text(damaged)
    with pytest.raises(UserError, match=r"loggers\.json: wandb"):
      run(tmp_path, 4, 5, ["wandb"])


@pytest.mark.parametrize(
  "value, words",
  [
    ("('tensorbord',)", ["loggers is 'tensorbord'", "did you mean tensorboard?"]),
    ("wandb,wandb", ["loggers", "'wandb' is given twice"]),
    ("3", ["loggers", "'3'", "known: tensorboard, wandb, mlflow"]),
  ],
)
def test_an_unknown_name_is_an_error(value, words):
  with pytest.raises(UserError) as error:
    resolve.load("configs/scan.py:small", [f"loggers={value}"])
  assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("name", registry.OPTIONAL)
def test_a_missing_package_is_an_error_before_data_is_read(name, monkeypatch, tmp_path):
  spec = importlib.machinery.ModuleSpec(name, None)  # a folder of that name, as wandb makes it
  for absent in (None, spec):
    monkeypatch.setattr(importlib.util, "find_spec", {name: absent}.get)
    words = ["--config=configs/scan.py:small", f"--config.loggers={name}"]
    with pytest.raises(UserError, match=rf"loggers: '{name}' .*requirements-loggers\.txt"):
      main.main([*words, "--workdir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
    assert resolve.load("configs/scan.py:small", [f"loggers={name}"]).loggers == (name,)


def test_the_setting_tensorboard_of_older_runs_and_commands_is_understood():
  assert older.upgrade({"tensorboard": True}) == {"loggers": ("tensorboard",)}
  assert older.upgrade({"tensorboard": False}) == {"loggers": ()}
  assert older.upgrade({"tensorboard": 1}) == {"tensorboard": 1}
  for text, names in (("tensorboard=False", ()), ("tensorboard=1", ("tensorboard",))):
    assert resolve.load("configs/scan.py:small", [text]).loggers == names
  assert schema.RUN["loggers"] == ("tensorboard",)


def events(folder):
  """Yields the events in TensorBoard's files."""
  for file in sorted((folder / "tensorboard").iterdir()):
    data = file.read_bytes()
    while data:
      (size,) = struct.unpack("<Q", data[:8])
      yield Event.FromString(data[12 : 12 + size])
      data = data[12 + size + 4 :]


def test_tensorboard_has_settings_and_last_scores(tmp_path):
  run(tmp_path, 0, 9, ["tensorboard"])
  summaries = [value for event in events(tmp_path) for value in event.summary.value]
  tags = [value.tag for value in summaries]
  assert "_hparams_/session_start_info" in tags
  (start,) = (x for x in summaries if x.tag == "_hparams_/session_start_info")
  for part in (b"task.data.path", b"data/x", b"model.dim"):
    assert part in start.metadata.plugin_data.content
  assert "validation/loss" in tags


def records(file):
  """Yields the records of a file of wandb, which has the blocks of a LevelDB log."""
  from wandb.proto.wandb_internal_pb2 import Record

  data, at, parts = file.read_bytes(), 7, []
  while at + 7 <= len(data):
    left = 32768 - at % 32768
    size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
    if left < 7 or kind == 0:
      at += left
      continue
    parts.append(data[at + 7 : at + 7 + size])
    at += 7 + size
    if kind in (1, 4):  # full or last
      yield Record.FromString(b"".join(parts))
      parts = []


def test_wandb_offline_has_each_step_once_in_one_run(tmp_path, monkeypatch):
  pytest.importorskip("wandb", reason="no wandb: see requirements-loggers.txt")
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_SILENT", "true")
  folder = tmp_path / "scan"
  run(folder, 0, 7, ["wandb"])
  run(folder, 4, 9, ["wandb"], config=CONFIG | {"steps": 12})
  files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
  assert len(files) == 2
  found, points, config, summary = [], {}, {}, {}
  for record in itertools.chain.from_iterable(map(records, files)):
    if record.HasField("run"):
      found.append((record.run.run_id, record.run.project, record.run.display_name))
      changes = record.run.config.update
    else:
      changes = record.config.update
    config |= {x.key or ".".join(x.nested_key): json.loads(x.value_json) for x in changes}
    items = {x.key or ".".join(x.nested_key): x.value_json for x in record.history.item}
    for key, value in items.items():
      if key.endswith("/loss"):
        split, step = key.partition("/")[0], int(items["step"])
        assert (split, step) not in points
        points[split, step] = float(value)
    for x in record.summary.update:
      summary[x.key or ".".join(x.nested_key)] = x.value_json
  name = json.loads((folder / registry.FILE).read_text())["wandb"]["run"]
  assert set(found) == {(name, "scriptorium", "scan")}
  assert points == pytest.approx(ONCE)
  assert config.items() >= {"steps": 12, "task.data.path": "data/x", "pair": [1, 2]}.items()
  assert float(summary["validation/loss"]) == 0.25


def test_mlflow_has_each_step_once_in_one_run(tmp_path, monkeypatch):
  mlflow = pytest.importorskip("mlflow", reason="no mlflow: see requirements-loggers.txt")
  monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  folder, many = tmp_path / "scan", {f"key{i}": i for i in range(250)}
  run(folder, 0, 7, ["mlflow"], config=CONFIG | many)
  run(folder, 4, 9, ["mlflow"], config=CONFIG | many | {"steps": 12, "new": 1})
  client = mlflow.MlflowClient()
  (experiment,) = (x for x in client.search_experiments() if x.name == "scriptorium")
  (there,) = client.search_runs([experiment.experiment_id])
  assert there.info.run_id == json.loads((folder / registry.FILE).read_text())["mlflow"]["run"]
  assert (there.info.run_name, there.info.status) == ("scan", "FINISHED")
  points = [
    ((split, point.step), point.value)
    for split in ("train", "validation")
    for point in client.get_metric_history(there.info.run_id, f"{split}/loss")
  ]
  assert sorted(points) == sorted(ONCE.items())
  params = {"task.data.path": "data/x", "steps": "9", "new": "1", "key249": "249", "empty": ""}
  assert there.data.params.items() >= params.items()
  assert there.data.tags["since step 5: steps"] == "12"
  assert there.data.metrics["validation/loss"] == 0.25
