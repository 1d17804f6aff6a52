"""train/record/writer.py: each step once in metrics.jsonl, and the same numbers everywhere."""

import json
import math
import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event

from train.common.errors import UserError
from train.record import curves, writer


def run(folder, start, stop, **options):
  """Writes the lines of steps start+1 .. stop, as a loop would, and leaves the writer open."""
  out = writer.Writer(folder, start, progress=False, total_steps=stop, **options)
  for step in range(start + 1, stop + 1):
    out.write(step, "train", {"loss": 1 / step, "accuracy": step / 100})
    if step % 2 == 0:
      out.write(step, "validation", {"loss": 2 / step})
  return out


def told(folder):
  return [{**line, "time": 0} for line in writer.read_metrics(folder)]


def test_a_run_with_skipped_updates_goes_on(tmp_path):
  """Its skipped.jsonl has no split and no time."""
  lines = [json.dumps(dict(step=step, examples=[[step]])) for step in (1, 2, 3, 4)]
  (tmp_path / "skipped.jsonl").write_text("\n".join(lines) + "\n")
  run(tmp_path, 2, 3, loggers=()).close()
  assert (tmp_path / "skipped.jsonl").read_text().splitlines() == lines[:2]


def test_killed_and_resumed_equals_never_killed(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "b").mkdir()
  run(tmp_path / "a", 0, 10, loggers=()).close()
  run(tmp_path / "b", 0, 7, loggers=()).lines.close()  # killed at 7, checkpoint at 4
  with open(tmp_path / "b" / "metrics.jsonl", "a") as file:
    file.write('{"step": 8, "split": "tr')
  run(tmp_path / "b", 4, 10, loggers=()).close()
  assert told(tmp_path / "a") == told(tmp_path / "b")
  assert len(told(tmp_path / "a")) == 15


def test_a_start_from_nothing_keeps_nothing(tmp_path):
  first = writer.Writer(tmp_path, 0, progress=False, loggers=())
  first.write(0, "validation", {"loss": 3.0})
  first.lines.close()
  run(tmp_path, 0, 3, loggers=()).close()
  assert [line["step"] for line in told(tmp_path)] == [1, 2, 2, 3]


@settings(deadline=None)
@given(st.integers(0, 400))
def test_a_line_cut_anywhere_is_left_out(tmp_path_factory, cut):
  file = tmp_path_factory.getbasetemp() / "metrics.jsonl"
  whole = "".join(
    json.dumps({"step": step, "split": "train", "time": 1.5, "loss": 0.25}) + "\n"
    for step in range(1, 6)
  )
  file.write_text(whole[:cut])
  complete = [line for line in whole.splitlines() if line in whole[:cut]]
  assert len(writer.read_metrics(file)) == len(complete)
  writer.drop_after(file, 3)
  assert file.read_text().splitlines() == complete[:3]


def test_a_broken_line_in_the_middle_is_told(tmp_path):
  good = '{"step": 1, "split": "train", "time": 1.0}'
  for bad in ("{", "[]", '{"step": 1}'):
    (tmp_path / "metrics.jsonl").write_text(f"{good}\n{bad}\n{good}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2"):
      writer.read_metrics(tmp_path)
  with pytest.raises(UserError, match="can't be read"):
    writer.read_metrics(tmp_path / "absent.jsonl")


def test_what_is_not_finite_is_valid_json_and_comes_back(tmp_path):
  out = writer.Writer(tmp_path, 0, progress=False, loggers=())
  given_ = {"loss": math.nan, "grad_norm": math.inf, "low": -math.inf, "accuracy": 0.5}
  out.write(1, "train", given_)
  out.close()

  def refuse(word):
    raise AssertionError(f"{word} is not JSON")

  text = (tmp_path / "metrics.jsonl").read_text()
  assert json.loads(text, parse_constant=refuse)["loss"] == "nan"
  (back,) = writer.read_metrics(tmp_path)
  assert repr({name: back[name] for name in given_}) == repr(given_)


def points(folder):
  """{tag: {step: value}} as TensorBoard reads it: a start forgets the steps from its own on."""
  found = {}
  for file in sorted((folder / "tensorboard").iterdir()):
    data = file.read_bytes()
    while data:
      (size,) = struct.unpack("<Q", data[:8])
      event = Event.FromString(data[12 : 12 + size])
      data = data[12 + size + 4 :]
      if event.session_log.status == event.session_log.START:
        for tag in found.values():
          for step in [step for step in tag if step >= event.step]:
            del tag[step]
      for value in event.summary.value:
        if value.tag.startswith("_hparams_/"):
          continue
        found.setdefault(value.tag, {})[event.step] = value.simple_value
  return found


def test_tensorboard_has_what_metrics_jsonl_has(tmp_path):
  first = run(tmp_path, 0, 7)
  first.lines.close()
  first.loggers.close({})
  resumed = writer.Writer(tmp_path, 4, progress=False)
  resumed.write(5, "train", {"loss": 0.125})
  resumed.close()
  expected = {}
  for line in writer.read_metrics(tmp_path):
    for name in line.keys() - {"step", "split", "time"}:
      expected.setdefault(f"{line['split']}/{name}", {})[line["step"]] = pytest.approx(line[name])
  assert points(tmp_path) == expected
  assert expected["train/loss"].keys() == {1, 2, 3, 4, 5}


def test_only_the_primary_process_writes(tmp_path):
  other = run(tmp_path, 0, 3, primary=False)
  other.close()
  assert not list(tmp_path.iterdir())


def test_a_metric_cannot_take_a_fixed_name(tmp_path):
  out = writer.Writer(tmp_path, 0, progress=False, loggers=())
  with pytest.raises(ValueError, match="time"):
    out.write(1, "train", {"time": 3.0})


def test_lines_name_step_total_and_values_within_the_columns(tmp_path, capsys):
  run(tmp_path, 0, 2, loggers=()).lines.close()
  first, second, third = capsys.readouterr().err.splitlines()
  assert first.split() == ["step", "1/2", "train", "loss", "1", "accuracy", "0.01000"]
  assert second.endswith("0s left")
  assert third.split() == ["step", "2/2", "validation", "loss", "1"]
  many = {"loss": 1.5} | {f"metric_{i}": i + 0.5 for i in range(20)}
  line = writer.text_line(100, 2000, "train", many, "3m20s left")
  assert len(line) <= writer.COLUMNS
  assert line.startswith("step  100/2000  train       loss 1.500")
  assert line.endswith("3m20s left")
  assert "metric 19" in writer.text_line(100, 2000, "test", many)


def test_a_bar_shows_loss_and_speed_and_prints_evaluations(tmp_path, monkeypatch):
  out = writer.Writer(tmp_path, 0, progress=True, total_steps=20, loggers=())
  out.write(10, "train", {"loss": 1.25, "tokens_per_second": 12345.6})
  with out.bar.console.capture() as shown:
    out.write(10, "validation", {"loss": 2.5})
  assert "step 10/20  validation  loss 2.500" in shown.get()
  with out.bar.console.capture() as shown:
    out.bar.console.print(out.bar.get_renderable())
  assert all(word in shown.get() for word in ("step 10/20", "loss 1.250", "tokens/s 12,346"))
  out.close()


@pytest.mark.parametrize(
  "seconds, text",
  [(0, "0s"), (59.4, "59s"), (60, "1m00s"), (200, "3m20s"), (7500, "2h05m"), (100_800, "1d04h")],
)
def test_durations(seconds, text):
  assert writer.duration(seconds) == text


@settings(deadline=None)
@given(st.floats(1e-12, 1e12) | st.floats(-1e12, -1e-12))
def test_a_shown_number_is_near_and_short(value):
  shown = writer.number(value)
  assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.06)
  assert len(shown) <= 12


def test_curves_are_drawn_at_close_also_of_odd_runs(tmp_path):
  run(tmp_path, 0, 4, loggers=()).close()
  file = tmp_path / "curves.png"
  assert file.read_bytes()[:4] == b"\x89PNG"
  file.unlink()
  lines = [{"step": 1, "split": "test", "time": 0.0, "bleu": 30.0, "loss": "nan"}]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  assert curves.draw(tmp_path, writer.by_metric(writer.read_metrics(tmp_path))) == file
  (tmp_path / "metrics.jsonl").write_text("")
  assert curves.draw(tmp_path, writer.by_metric(writer.read_metrics(tmp_path))) is None


def test_what_is_drawn_is_what_was_written(tmp_path):
  out = run(tmp_path, 0, 6, loggers=())
  out.write(7, "train", {"loss": math.inf})
  out.lines.close()
  drawn = writer.by_metric(writer.read_metrics(tmp_path))
  assert drawn["loss"]["train"] == ([1, 2, 3, 4, 5, 6], [1 / step for step in range(1, 7)])
  assert drawn["loss"]["validation"][0] == [2, 4, 6]


def test_importing_the_writer_imports_no_matplotlib():
  import subprocess

  code = "import train.record.writer, sys; assert 'matplotlib' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], check=True)
