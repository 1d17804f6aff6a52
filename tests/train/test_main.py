"""Whole runs: same command again, kill, Ctrl-C, bad input; evaluating and predicting with a run."""

import io
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.helpers import assert_same_arrays
from train import evaluate, inference, loop, main, predict, pretrained, resolve, sharding, tasks
from train.checkpoint import Checkpoints
from train.common import entry
from train.common.errors import UserError
from train.common.trees import flatten
from train.data import scan
from train.data.batches import Batches
from train.record import config, workdir
from train.record.writer import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"
TINY = [
  "--config=configs/scan.py:small",
  "--config.steps=200",
  "--config.log_every=3",  # what is said after step 42 began before the checkpoint of step 40
  "--config.checkpoint.every=40",
  "--config.checkpoint.keep_latest=5",
  "--config.evaluate.every=40",
  "--config.evaluate.decode_every=0",
]


def parse(argv):
  """Returns the config that the arguments describe, and the other arguments."""
  texts, overrides, rest = config.split(argv)
  return resolve.load(config.only(texts), overrides), rest


def weights(folder, which="latest"):
  """path -> numpy of a run's checkpoint."""
  with Checkpoints(folder, keep_latest=9) as checkpoints:
    return {name: np.asarray(x) for name, x in flatten(checkpoints.params(which)).items()}


def losses(folder):
  """(step, split) -> the numbers that do not depend on time."""
  told = ("loss", "token_accuracy", "grad_norm", "perplexity", "learning_rate")
  lines = read_metrics(folder)
  assert len({(x["step"], x["split"]) for x in lines}) == len(lines), "a step is there twice"
  return {(x["step"], x["split"]): {k: x[k] for k in told if k in x} for x in lines}


def assert_same_run(one, other):
  assert losses(one) == losses(other)
  assert_same_arrays(weights(one), weights(other))


def start(folder, *more, config=TINY, program=("-m", "train.main")):
  """The real command in a process of its own, on one device."""
  env = os.environ | {"XLA_FLAGS": os.environ["SCRIPTORIUM_TEST_XLA_FLAGS"]}
  command = [sys.executable, *program, *config, *more, "--workdir", str(folder)]
  return subprocess.Popen(
    command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )


def finish(process):
  output, _ = process.communicate(timeout=300)
  return process.returncode, output


def when(true, process):
  """Waits until `true()`, while the process lives."""
  deadline = time.time() + 200
  while not true():
    assert process.poll() is None, process.communicate()[0]
    assert time.time() < deadline, "waited in vain"
    time.sleep(0.01)


def reached(folder, step):
  """Whether metrics.jsonl has a line of `step`."""
  file = folder / "metrics.jsonl"
  return lambda: file.exists() and f'"step": {step},' in file.read_text()


def saved(folder, step):
  """Whether the checkpoint of `step` is finished."""
  return (folder / "checksums" / f"{step}.json").exists


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An uninterrupted run."""
  folder = tmp_path_factory.mktemp("whole")
  code, output = finish(start(folder))
  assert code == 0, output
  return folder


def test_killed_and_interrupted_and_started_again_is_the_same_run(whole, tmp_path):
  process = start(tmp_path)
  when(saved(tmp_path, 40), process)
  process.kill()
  assert finish(process)[0] == -signal.SIGKILL
  last = max(line["step"] for line in read_metrics(tmp_path))
  process = start(tmp_path)
  when(reached(tmp_path, last + 9), process)
  process.send_signal(signal.SIGINT)
  code, output = finish(process)
  assert code == 130, output
  assert "going on after step" in output
  assert "is saved in" in output
  assert str(tmp_path) in output
  code, output = finish(start(tmp_path, "--config.workers=2"))  # other workers, same data
  assert code == 0, output
  assert "going on after step" in output
  # The interrupted step was saved outside the plan; the numbers are those of the whole run.
  assert_same_run(tmp_path, whole)


def test_a_run_in_use_is_refused_and_sigterm_saves_it_and_exits_143(tmp_path):
  """What SLURM and Kubernetes send before they kill."""
  process = start(tmp_path)
  when(reached(tmp_path, 21), process)
  with pytest.raises(UserError, match=str(process.pid)):
    main.main([*TINY, "--workdir", str(tmp_path)])
  process.send_signal(signal.SIGTERM)
  code, output = finish(process)
  assert code == entry.TERMINATED == 128 + signal.SIGTERM, output
  (step,) = re.findall(r"terminated: step (\d+) is saved in", output)
  assert saved(tmp_path, step)()


HANGS = """
import time
from train import evaluation, main
from train.cluster import signals
from train.common import entry
signals.LEAVE_SECONDS = 1.0
evaluation.loss = lambda *_: time.sleep(600)
entry.run(main.main)
"""


@pytest.mark.slow
def test_an_evaluation_that_does_not_end_is_left_and_its_step_is_saved(whole, tmp_path):
  process = start(tmp_path, program=("-c", HANGS))
  when(saved(tmp_path, 40), process)
  process.send_signal(signal.SIGTERM)
  began = time.monotonic()
  code, output = finish(process)
  assert code == entry.TERMINATED, output
  assert time.monotonic() - began < 30
  assert "SIGTERM: the run saves and leaves after the evaluation after step 40" in output
  assert output.splitlines()[-1].endswith(f"terminated: step 40 is saved in {tmp_path}/checkpoints")
  after = weights(tmp_path)
  for name, x in weights(whole, "40").items():
    np.testing.assert_array_equal(after[name], x, err_msg=name)


def test_a_damaged_checkpoint_is_set_aside_and_the_run_goes_on_from_the_one_before(whole, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(whole, folder)
  (data,) = (folder / "checkpoints/200/params/ocdbt.process_0/d").iterdir()
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(content)
  code, output = finish(start(folder))
  assert code == 0, output
  assert f"checkpoints/200 is damaged (params/ocdbt.process_0/d/{data.name} has other" in output
  assert "going on after step 160" in output
  assert_same_run(folder, whole)


def test_only_training_makes_the_tokenizer_and_it_is_the_one_trained_with(whole, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(whole, folder)
  path = folder / "tokenizer.json"
  content = path.read_text()
  path.write_text(content.replace("jump", "jumps"))
  with pytest.raises(UserError, match=f"{path} is another"):
    inference.load(folder)
  with pytest.raises(UserError, match=f"{path} is another"):
    main.main([*TINY, "--workdir", str(folder)])
  path.unlink()
  with pytest.raises(UserError, match=f"{path} is missing"):
    inference.load(folder)
  assert not path.exists()
  for file in ("run.json", "metrics.jsonl"):  # as of an older run
    (folder / file).unlink()
  with pytest.raises(UserError, match=f"{path} is missing.*only training"):
    inference.load(folder)
  assert not path.exists()
  assert main.main([*TINY, "--workdir", str(folder)]) == 0
  assert path.read_text() == content


@pytest.mark.slow
def test_a_run_is_run_again_from_its_folder(whole, tmp_path):
  code, output = finish(start(tmp_path / "new", config=["--rerun", str(whole)]))
  assert code == 0, output
  assert_same_run(tmp_path / "new", whole)
  before, after = (
    json.loads((folder / "run.json").read_text())["starts"][0]
    for folder in (whole, tmp_path / "new")
  )
  for key in ("config_sha256", "versions", "data"):
    assert before[key] == after[key]
  assert after["data"]["train"] != after["data"]["validation"]
  with pytest.raises(UserError, match="leave out --config"):
    main.main(["--rerun", str(whole), "--config=x.py", "--workdir", str(tmp_path / "other")])
  with pytest.raises(UserError, match=r"(?s)holds another run.* seed"):
    main.main(["--rerun", str(whole), "--config.seed=1", "--workdir", str(whole)])


def test_a_finished_run_says_so(whole, caplog):
  with caplog.at_level("INFO", "absl"):
    assert main.main([*TINY, "--workdir", str(whole)]) == 0
  assert "finished" in caplog.text


def test_another_config_is_refused_and_the_difference_shown(whole):
  code, output = finish(start(whole, "--config.seed=1"))
  assert code == 2
  assert "Traceback" not in output
  assert "seed" in output


def train_here(folder, *more):
  """Trains in this process, over its eight devices."""
  cfg, _ = parse([*TINY, *more])
  with workdir.open_run(folder, cfg, ["test"]) as run:
    assert loop.train(cfg, run) == 0


def test_a_run_that_learns_nothing_but_nan_stops_and_says_what_of(tmp_path):
  """The numbers it writes are those of examples: read by them, the batch is made again."""
  settings = ["--config.model.init_std=1e30", "--config.max_skipped=4"]
  with pytest.raises(UserError, match="4 updates in a row"):
    train_here(tmp_path, *settings)
  lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [1, 2, 3, 4]
  (first,) = (x for x in read_metrics(tmp_path) if x["step"] == 3)
  assert first["skipped"] == 3
  assert np.isnan(first["loss"])
  cfg, _ = parse([*TINY, *settings])
  task = tasks.build(cfg.task, tmp_path)
  with Batches(task.items("train"), tasks.layout(task, cfg.batch_size), seed=cfg.seed) as batches:
    for line in lines:
      batch = next(batches)
      assert line["examples"] == batches.delivered()
      numbers = [number for row in line["examples"] for number in row]
      read = task.items("train").read(numbers, range(len(numbers)))
      assert sum(len(one["target"]) for one in read) == batch["weights"].sum()


@pytest.mark.slow
def test_eight_devices_are_one(whole, tmp_path):
  assert jax.device_count() == 8
  train_here(tmp_path)
  here, there = losses(tmp_path), losses(whole)
  assert here.keys() == there.keys()
  for step, split in here:
    if step <= 25:  # rounding differs, and grows from step to step
      for name, value in here[step, split].items():
        assert value == pytest.approx(there[step, split][name], rel=2e-3), (step, split, name)


@pytest.mark.slow
def test_early_stopping_ends_a_run_that_gets_no_better_also_after_a_restart(tmp_path):
  """With a learning rate of 0 no evaluation is better than the first, at step 10."""
  settings = ["--config.schedule.peak=0", "--config.patience=2"]
  settings += ["--config.evaluate.every=10", "--config.checkpoint.every=10"]
  train_here(tmp_path, *settings)
  assert max(step for step, _ in losses(tmp_path)) == 30
  shutil.rmtree(tmp_path / "checkpoints" / "30")
  train_here(tmp_path, *settings)  # from step 20: one of the two was spent before
  assert max(step for step, _ in losses(tmp_path)) == 30
  assert saved(tmp_path, 30)()
  code, output = finish(start(tmp_path, *settings))
  assert code == 0
  assert "finished" in output
  assert "2 evaluations without a loss better" in output


def test_nothing_heavy_was_imported(whole):
  assert not {"tensorflow", "torch"} & sys.modules.keys()


def test_average_is_the_mean_of_the_last_checkpoints(whole):
  with Checkpoints(whole, keep_latest=9) as checkpoints:
    steps = checkpoints.steps("average:3")
    assert checkpoints.steps("average:40,160") == [40, 160]
  assert steps == [120, 160, 200]
  each = [weights(whole, str(step)) for step in steps]
  for name, mean in weights(whole, "average:3").items():
    np.testing.assert_allclose(mean, np.mean([x[name] for x in each], 0), rtol=1e-5, atol=1e-7)


def test_best_is_the_checkpoint_of_the_lowest_validation_loss(whole):
  scored = {x["step"]: x["loss"] for x in read_metrics(whole) if x["split"] == "validation"}
  with Checkpoints(whole, keep_latest=9) as checkpoints:
    assert checkpoints.steps("best") == [min(scored, key=scored.get)]


def test_latest_and_best_are_both_kept(tmp_path):
  class Position:
    def get_state(self):
      return {"position": 1, "carried": []}

  with Checkpoints(tmp_path, keep_latest=2, keep_best=1) as checkpoints:
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.7), (4, 0.8), (5, 0.9)):
      params = {"w": jax.numpy.full(3, float(step))}
      state = dict(step=jax.numpy.int32(step), params=params, opt_state=())
      checkpoints.save(state, Position())
      checkpoints.score(step, {"loss": loss})
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.steps("average:3") == [2, 4, 5]
    assert checkpoints.steps("best") == [2]
    with pytest.raises(UserError, match=r"steps \[2, 4, 5\]"):
      checkpoints.steps("3")


def test_a_checkpoint_of_another_shape_is_refused_by_name(whole):
  with Checkpoints(whole, keep_latest=9) as checkpoints:
    params = checkpoints.params("latest")
    params["embedding"]["embedding"] = params["embedding"]["embedding"][:, :5]
    with pytest.raises(UserError, match=r"embedding/embedding: \(\d+, 32\) in the checkpoint"):
      checkpoints.params("latest", params)


def test_init_from_takes_the_weights(whole, tmp_path):
  train_here(
    tmp_path,
    f"--config.init_from.workdir={whole}",
    "--config.steps=1",
    "--config.schedule.peak=0.0",
    "--config.schedule.warmup_steps=0",
  )
  there = weights(whole)
  for name, value in weights(tmp_path).items():
    np.testing.assert_allclose(value, there[name], atol=1e-7, err_msg=name)


ONE_DEVICE = """
import sys
import jax
from train.checkpoint import Checkpoints, flatten
with Checkpoints(sys.argv[1]) as checkpoints:
  for which in ("latest", "average:1"):
    for name, x in flatten(checkpoints.params(which)).items():
      print(jax.device_count(), name, x.dtype, x.tolist())
"""


def test_weights_saved_by_eight_devices_are_read_on_one(tmp_path):
  """As init_from, `train.checkpoint diff` and whoever looks at them read them."""

  class Data:
    def get_state(self):
      return {}

  mesh = sharding.make_mesh(dict(data=8, fsdp=1, tensor=1))
  places = {"x": P("data"), "y": P()}
  params = {
    "x": jax.numpy.arange(16.0).reshape(8, 2),
    "y": jax.numpy.arange(3, dtype="bfloat16"),
  }
  params = {
    name: jax.device_put(x, jax.sharding.NamedSharding(mesh, places[name]))
    for name, x in params.items()
  }
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(dict(step=jax.numpy.int32(1), params=params, opt_state=()), Data())
  environment = dict(os.environ, XLA_FLAGS="", JAX_PLATFORMS="cpu")
  command = [sys.executable, "-c", ONE_DEVICE, str(tmp_path)]
  found = subprocess.run(
    command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
  )
  lines = [f"1 {name} {x.dtype} {np.asarray(x).tolist()}" for name, x in params.items()]
  assert found.stdout.splitlines() == 2 * lines
  assert "warn" not in found.stderr.lower()


def test_init_from_names_what_does_not_match(whole, tmp_path):
  wider = [f"--config.init_from.workdir={whole}", "--config.steps=1", "--config.model.mlp_dim=72"]
  wider.append("--config.schedule.warmup_steps=0")
  with pytest.raises(UserError, match=r"mlp/up/kernel: \(32, 64\) there, \(32, 72\) here"):
    train_here(tmp_path / "refused", *wider)
  train_here(tmp_path / "allowed", *wider, "--config.init_from.skip=('mlp',)")


def test_evaluate_writes_results_and_outputs(whole, capsys):
  evaluate.main(["--workdir", str(whole), "--split", "validation"])
  results = json.loads(capsys.readouterr().out)
  assert results == json.loads((whole / "results.json").read_text())
  assert results["steps"] == [200]
  assert results["loss"] == pytest.approx(losses(whole)[200, "validation"]["loss"], rel=1e-3)
  lines = (whole / "evaluations" / "validation-latest-beam1.jsonl").read_text().splitlines()
  told = [json.loads(line) for line in lines]
  exact = np.mean([x["output"]["text"] == x["target"] for x in told])
  assert results["exact_match"] == pytest.approx(100 * exact)


INPUTS = ["jump twice", "walk", "turn left after run opposite right thrice", "look and walk"]


def test_prediction_does_not_depend_on_the_batch(whole):
  predictor = predict.load(whole, beam=3, nbest=2)
  together = predictor(INPUTS)
  assert together == [predictor([text])[0] for text in INPUTS]
  assert together == predictor(INPUTS[::-1])[::-1]


def test_sampling_does_not_depend_on_the_place_in_the_batch(whole):
  predictor = predict.load(whole, temperature=1.0, nbest=3)
  assert predictor(INPUTS)[0] == predictor(INPUTS[:1])[0]
  scores = [x["score"] for x in predictor(INPUTS)[0]["nbest"]]
  assert scores == sorted(scores, reverse=True)


COMMANDS = re.findall(r"python -m (train\.(?:predict|evaluate)) ([^>`\n]*)", README.read_text())


@pytest.mark.parametrize("module, words", COMMANDS, ids=lambda x: x[:60])
def test_readme_command(module, words, whole, tmp_path, monkeypatch, capsys):
  (tmp_path / "captions.en").write_text("\n".join(INPUTS) + "\n")
  (tmp_path / "reviews.csv").write_text("label,review\nneutral,a dog\npositive,two men\n")
  split = scan.split_pairs
  monkeypatch.setattr(scan, "split_pairs", lambda *args, **more: split(*args, **more)[:64])
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"walk\n")))
  words = shlex.split(re.sub(r"average:\d+", "average:5", words))  # as many as the run has
  if "--model" in words:
    words[words.index("--model") + 1] = f"hf:{ROOT}/tests/fixtures/bert_classification"
  else:
    words[words.index("--workdir") + 1] = str(whole)
  {"train.predict": predict, "train.evaluate": evaluate}[module].main(words)
  assert capsys.readouterr().out.strip()


def test_readme_training_commands_name_real_settings(whole):
  lines = re.sub(r"init=[^, ]+", f"init={whole}", README.read_text().replace("\\\n", " "))
  commands = re.findall(r"python -m train\.main ([^`\n]*)", lines)
  assert len(commands) >= 2
  for command in commands:
    if not command.startswith("--rerun ") and ":help" not in command:  # which are tried elsewhere
      parse(shlex.split(command))


def test_predict_streams_standard_input_in_order(whole, monkeypatch, capsys):
  lines = io.BytesIO("\n".join(INPUTS).encode())
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines))
  predict.main(["--workdir", str(whole), "--input", "-"])
  wanted = [output["text"] for output in predict.load(whole)(INPUTS)]
  assert capsys.readouterr().out.splitlines() == wanted


@pytest.mark.parametrize(
  "arguments, told",
  [
    (["--config=configs/scam.py"], "scan.py"),
    (["--config=configs/scan.py:splitt=length"], "split"),
    (["--config=configs/scan.py:split=longth"], "length"),
    (["--config=configs/scan.py", "--config.model.num_haeds=4"], "model.num_heads"),
    (["--config=configs/tag.py:init=runs/nothing"], "init=runs/nothing: runs/nothing: no such"),
    (
      ["--config=configs/mlm.py:small,data=README.md", "--config.evaluate.decode_every=5"],
      "decode_every=0",
    ),
    (["--config=configs/scan.py", "--config.model.num_heads=four"], "int"),
    (["--config=configs/scan.py", "--workdirr=x"], "workdirr"),
    (["--config=configs/scan.py:small", "--config.model.positions=sinus"], "sinusoidal"),
    (["--config=configs/scan.py:small", "--config.model.num_heads=5"], "multiple"),
    (["--config=configs/scan.py:small,positions=learned", "--config.model.max_len=63"], "max_len"),
    (["--config=configs/scan.py:small", "--config.task.data.split=long"], "length"),
    (["--config=configs/scan.py:small", "--config.task.name=translate"], "translation"),
    (["--config=configs/scan.py:small", "--config.optimizer.name=adamax"], "adamw"),
    (["--config=configs/scan.py:small", "--config.schedule.name=step"], "rsqrt"),
    (["--config=configs/scan.py:small", "--config.schedule.warmup_steps=99"], "warmup_steps"),
    (["--config=configs/scan.py:small", "--config.batch_size=12"], "batch_size"),
    (["--config=configs/scan.py:small", "--config.microbatches=3"], "microbatches"),
    (["--config=configs/scan.py:small", "--config.mesh.tensor=3"], "devices"),
    (["--config=configs/scan.py:small", "--config.init_from.workdir=nowhere"], "nowhere"),
    (["--config=configs/multi30k.py:data=nowhere"], "nowhere"),
    (["--config=configs/scan.py:small", "--config.model.name=lstn"], "did you mean lstm?"),
    (["--config=configs/scan.py:small", "--config.model.name=lstm"], "scan.py:model=lstm"),
    (
      ["--config=configs/scan.py:small,model=lstm", "--config.model.num_heads=4"],
      "the config has no such key (model.name is 'lstm')",
    ),
    (["--config=configs/scan.py:small,model=lstm", "--config.model.dim=33"], "dim 33 is odd"),
    (["--config=configs/scan.py:small,model=lstm", "--config.model.dropuot=0"], "model.dropout"),
    (["--config=configs/scan.py:small,model=lstm,positions=rotary"], "positions=rotary"),
  ],
)
def test_mistakes_are_told_before_the_first_batch(arguments, told, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  with pytest.raises(UserError) as error:
    main.main([*arguments, "--workdir", str(tmp_path)])
  assert told in str(error.value)


@pytest.mark.parametrize(
  "arguments, told",
  [
    (["--workdir", "nowhere", "x"], "nowhere"),
    (["--workdir", "{run}", "--checkpoint", "7", "x"], "200"),
    (["--workdir", "{run}", "--checkpoint", "average:9", "x"], "5 checkpoints"),
    (["--workdir", "{run}"], "--input"),
    (["--workdir", "{run}", "--input", "missing.txt"], "missing.txt"),
    (["--workdir", "{run}", "--nbest", "3", "x"], "beam"),
  ],
)
def test_mistakes_in_prediction(arguments, told, whole):
  with pytest.raises(UserError) as error:
    predict.main([word.format(run=whole) for word in arguments])
  assert told in str(error.value)


@pytest.mark.parametrize("key, value", [("dim", 10**6), ("decoder_layers", 10**5)])
def test_a_model_larger_than_what_is_saved_is_refused_before_it_is_built(
  key, value, whole, tmp_path, monkeypatch
):
  folder = tmp_path / "run"
  shutil.copytree(whole, folder)
  cfg = json.loads((folder / "config.json").read_text())
  cfg["model"][key] = value
  (folder / "config.json").write_text(json.dumps(cfg))
  monkeypatch.setattr(pretrained, "build_model", None)
  with pytest.raises(UserError, match=rf"config\.json: model\.{key} is {value}, and no side of"):
    predict.main(["--workdir", str(folder), "walk"])


@pytest.mark.parametrize("kept", [pytest.param(None, marks=pytest.mark.slow), 40])
def test_a_run_goes_on_without_lines_of_metrics_and_names_them(kept, whole, tmp_path):
  """The weights are those of a run that has all lines; kept: the last step with a line."""
  folder = tmp_path / "run"
  shutil.copytree(whole, folder)
  (folder / "checkpoints/200").rename(tmp_path / "200")
  (folder / "checksums/200.json").unlink()
  file = folder / "metrics.jsonl"
  lines = file.read_text().splitlines(keepends=True)
  file.write_text("".join(line for line in lines if kept and json.loads(line)["step"] <= kept))
  if not kept:
    file.unlink()
  code, output = finish(start(folder))
  assert code == 0, output
  assert f"metrics.jsonl has no line after step {kept or 0}, and the run goes on after" in output
  after = weights(folder)
  for name, x in weights(whole).items():
    np.testing.assert_array_equal(after[name], x, err_msg=name)


def test_undecodable_input_names_file_and_line(whole, tmp_path):
  file = tmp_path / "input.txt"
  file.write_bytes(b"walk\njump \xff twice\n")
  with pytest.raises(UserError, match=r"input\.txt, line 2"):
    predict.main(["--workdir", str(whole), "--input", str(file)])


def test_a_user_mistake_exits_2_without_traceback(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["train.main", "--config=configs/none.py", "--workdir=x"])
  with pytest.raises(SystemExit) as stop:
    entry.run(main.main)
  assert stop.value.code == 2
  assert capsys.readouterr().err.startswith("error: ")
