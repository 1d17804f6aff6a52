"""Tests of train/resolve.py and what prints a config: completion, errors, --print_config, :help."""

import argparse
import copy
import dataclasses
import json

import pytest

from model.config import LSTMConfig, TransformerConfig
from train import checkpoints, evaluate, export, main, optimizer, plan, predict, resolve, tasks
from train.common.errors import Help, UserError
from train.record import config, workdir
from train.tasks.seq2seq import Decoding

# What a config has to have.
LEAST = dict(
  steps=10,
  batch_size=8,
  log_every=5,
  task=dict(name="translation", data=dict(name="scan", split="simple", holdout=20)),
  evaluate=dict(every=5),
  checkpoint=dict(every=5),
)


@pytest.fixture
def write(tmp_path):
  """Writes the least config file with changed sections, those of the task merged; returns its
  path."""
  path = tmp_path / "least.py"

  def to(task=(), **changes):
    sections = LEAST | dict(task=LEAST["task"] | dict(task)) | changes
    path.write_text(
      "from ml_collections import ConfigDict\n\n"
      f"def get_config(arg=''):\n  return ConfigDict({sections!r})\n"
    )
    return str(path)

  return to


def refusal(*args):
  with pytest.raises(UserError) as error:
    resolve.load(*args)
  return str(error.value)


@pytest.mark.parametrize(
  "name, settings", [("transformer", TransformerConfig), ("lstm", LSTMConfig)]
)
def test_the_model_has_the_defaults_of_its_class(write, name, settings):
  cfg = resolve.load(write(model=dict(name=name, dim=64)))
  expected = dataclasses.asdict(settings(vocab_size=9, dim=64)) | dict(name=name, vocab_size=None)
  assert cfg.model.to_dict() == expected


@pytest.mark.parametrize("name", tasks.TASKS)
def test_the_task_has_the_defaults_of_its_class(write, name):
  section = resolve.load(write(dict(name=name))).task.to_dict()
  assert section.pop("data")["on_bad_record"] == "error"
  assert section == config.frozen(tasks.defaults(name)).to_dict()


def test_the_parts_of_a_mixture_have_the_defaults_that_they_do_not_share(write):
  parts = dict(a=dict(name="span", share=1.0, data={}), b=dict(name="translation", data={}))
  task = dict(name="mixture", main="a", parts=parts, tokenizer=dict(name="word"), source_len=9)
  section = resolve.load(write(dict(task), evaluate=dict(every=5))).task.to_dict()
  shared = {"tokenizer", "source_len", "target_len", "pack"}
  assert shared < section.keys()
  for part in section["parts"].values():
    expected = config.frozen(tasks.defaults(part["name"])).to_dict()
    del part["data"]
    part.pop("share", None)
    assert part == {key: value for key, value in expected.items() if key not in shared}


def test_sections_that_are_left_out_are_completed(write):
  cfg = resolve.load(write())
  assert cfg.model.name == "transformer"
  assert cfg.optimizer.to_dict() == optimizer.OPTIMIZER
  assert cfg.schedule.to_dict() == optimizer.SCHEDULE
  for name in ("mesh", "init_from"):
    assert cfg[name].to_dict() == resolve.RUN[name]
  assert cfg.checkpoint.to_dict() == resolve.RUN["checkpoint"] | dict(every=5)


@pytest.mark.parametrize("field", dataclasses.fields(Decoding), ids=lambda field: field.name)
@pytest.mark.parametrize("name", ["translation", "causal", "span"])
def test_every_field_of_decoding_can_be_set(write, field, name):
  cfg = resolve.load(write(dict(name=name)), [f"task.decoding.{field.name}={field.default}"])
  assert cfg.task.decoding[field.name] == field.default


def test_a_tokenizer_with_a_name_is_whole_and_one_without_is_completed(write):
  usual = resolve.load(write(dict(name="mlm"))).task.tokenizer.to_dict()
  for spec, expected in (
    (dict(name="char"), dict(name="char")),
    (dict(vocab_size=400), usual | dict(vocab_size=400)),
  ):
    cfg = resolve.load(write(dict(name="mlm", tokenizer=spec)))
    assert cfg.task.tokenizer.to_dict() == expected


def test_references_between_fields_follow_an_override(tmp_path):
  (tmp_path / "c.py").write_text(
    "from ml_collections import ConfigDict\n\ndef get_config():\n"
    f"  cfg = ConfigDict({LEAST | dict(model=dict(dim=64))!r})\n"
    "  cfg.model.mlp_dim = cfg.model.get_ref('dim') * 4\n  return cfg\n"
  )
  assert resolve.load(str(tmp_path / "c.py"), ["model.dim=32"]).model.mlp_dim == 128


OLDER = """
from configs import common, sections

def get_config(arg=""):
  arg = common.parse(arg, small=False)
  return common.run(
    steps=10, batch_size=8, log_every=5, step="pmap", mesh=common.MESH | dict(fsdp=2),
    task=sections.MLM | dict(data=common.prose("x"), source_len=64, static=True),
    model=sections.MODEL | sections.ENCODER,
    optimizer=sections.ADAMW,
    schedule=dict(name="linear", peak=1e-3, warmup_steps=5, final=0.0),
    evaluate=dict(split="validation", every=5, decode_every=0, decode_examples=0),
    checkpoint=common.checkpoints(every=5, keep_latest=2),
  )
"""


def test_a_config_file_of_the_older_form_is_read(tmp_path):
  (tmp_path / "older.py").write_text(OLDER)
  cfg = resolve.load(str(tmp_path / "older.py"))
  assert (cfg.parallelism, cfg.task.fixed_masks, cfg.mesh.fsdp) == ("pmap", True, 2)
  assert (cfg.checkpoint.keep_latest, cfg.model.dim, cfg.task.rate) == (2, 320, 0.15)


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(model=dict(num_head=4)), ["model.num_head", "did you mean num_heads?"]),
    (dict(model=dict(name="lstm", num_heads=4)), ["model.num_heads", "model.name=transformer"]),
    (dict(model=dict(name="ltsm")), ["model.name", "'ltsm'", "did you mean lstm?"]),
    (dict(task=dict(name="translaton")), ["task.name", "did you mean translation?"]),
    (dict(task=dict(sorce_len=4)), ["did you mean task.source_len?"]),
    (dict(optimizer=dict(wieght_decay=0.1)), ["did you mean optimizer.weight_decay?"]),
    (dict(schedule=dict(warmup=3)), ["did you mean schedule.warmup_steps?"]),
    (dict(mesh=dict(tensors=2)), ["mesh.tensors", "did you mean mesh.tensor?"]),
    (dict(stepss=3), ["stepss", "did you mean steps?"]),
    (dict(parts=dict(a=1)), ["parts.a", "no such key"]),
    (dict(ema="0.9"), ["ema is '0.9'", "float"]),
    (dict(patience=1.5), ["patience is 1.5", "int"]),
    (dict(tensorboard=1), ["tensorboard is 1", "bool"]),
    (dict(model=dict(dim="64")), ["model.dim is '64'", "int"]),
    (dict(model=3), ["model is 3", "section"]),
    (dict(mesh=2), ["mesh is 2", "section"]),
    (dict(task=dict(decoding=2)), ["task.decoding is 2", "section"]),
  ],
)
def test_a_wrong_key_or_value_in_a_file_is_named(write, changes, words):
  path = write(**changes)
  message = refusal(path)
  assert not [word for word in [path, *words] if word not in message], message


def test_a_setting_that_any_optimizer_has_may_be_in_a_file(write):
  cfg = resolve.load(write(optimizer=dict(name="adafactor", decay_rate=0.9)))
  assert cfg.optimizer.decay_rate == 0.9


@pytest.mark.parametrize("key", ["steps", "evaluate.every", "task.name"])
def test_a_missing_key_is_named(tmp_path, key):
  section, _, name = key.rpartition(".")
  assert f"{key} is missing" in refusal(write_without(tmp_path, section, name))


def test_a_required_key_with_a_typing_mistake_is_named_as_such(tmp_path):
  assert "stepz" in (message := refusal(write_without(tmp_path, "", "steps", stepz=3)))
  assert "did you mean steps?" in message


def write_without(folder, section, name, **more):
  """Writes the least config file without a key and with more keys; returns its path."""
  sections = copy.deepcopy(LEAST) | more
  del (sections[section] if section else sections)[name]
  (folder / "c.py").write_text(
    f"from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({sections!r})\n"
  )
  return str(folder / "c.py")


def test_a_mixture_without_parts_is_refused(write):
  assert "task.parts is missing" in refusal(write(task=dict(name="mixture")))


def test_a_mixture_is_no_part_of_a_mixture():
  with pytest.raises(UserError, match="part of a mixture"):
    tasks.make(dict(name="mixture", main="a", parts={}))


def test_print_config_has_every_key_and_marks_what_is_not_its_default(write, capsys, tmp_path):
  path = write(model=dict(dim=64))
  command = [f"--config={path}", "--config.task.label_smoothing=0.2", "--print_config"]
  cfg = resolve.load(path, ["task.label_smoothing=0.2"])
  assert main.main(command) == 0
  lines = [line for line in capsys.readouterr().out.splitlines() if line]
  values = dict(line[2:].split(" = ", 1) for line in lines)
  assert values.keys() == config.flat(cfg).keys()
  marked = {line[2:].partition(" = ")[0] for line in lines if line.startswith("*")}
  assert marked == {"model.dim", "task.label_smoothing"}
  assert values["model.dim"].split() == ["64", "default:", "512"]
  assert main.main([*command, "--json"]) == 0
  out = capsys.readouterr().out
  assert out == workdir.config_json(cfg)
  assert config.frozen(json.loads(out)) == cfg
  assert [file.name for file in tmp_path.iterdir()] == ["least.py"]


def test_print_config_of_a_run(write, capsys, tmp_path):
  cfg = resolve.load(write(), ["seed=7"])
  workdir.open_run(tmp_path / "run", cfg, ["test"]).close()
  assert main.main(["--rerun", str(tmp_path / "run"), "--print_config", "--json"]) == 0
  assert capsys.readouterr().out == workdir.config_json(cfg)


@pytest.mark.parametrize(
  "change, word",
  [
    (lambda saved: saved["model"].pop("dim"), "model.dim is missing"),
    (lambda saved: saved.pop("steps"), "steps is missing"),
    (lambda saved: saved.pop("task"), "section task is missing"),
    (lambda saved: saved.update(model=3), "model is 3, no section"),
    (lambda saved: saved.update(stepz=3), "did you mean steps?"),
    (lambda saved: saved["model"].update(dim="64"), "model.dim is '64'"),
  ],
)
def test_a_changed_config_of_a_run_is_not_run_again(write, tmp_path, change, word):
  workdir.open_run(tmp_path / "run", resolve.load(write()), ["test"]).close()
  file = tmp_path / "run/config.json"
  saved = json.loads(file.read_text())
  change(saved)
  file.write_text(json.dumps(saved))
  with pytest.raises(UserError) as error:
    main.main(["--rerun", str(tmp_path / "run"), "--print_config"])
  assert str(file) in str(error.value)
  assert word in str(error.value)


@pytest.mark.parametrize(
  "words, message",
  [
    (["--config.modle.dim=3", "--print_config"], "did you mean model.dim"),
    (["--config=FILE", "--print_config"], "twice"),
    (["--json"], "--print_config"),
    (["--rerun=x"], "leave out --config"),
    (["--wrokdir=x"], "--wrokdir"),
    ([], "--workdir is missing"),
  ],
)
def test_a_wrong_command_is_named(write, words, message):
  path = write()
  with pytest.raises(UserError, match=message):
    main.main([f"--config={path}", *(word.replace("FILE", path) for word in words)])


@pytest.mark.parametrize("command", [main, plan])
def test_help_of_a_config_file_is_what_a_command_ends_with(command):
  with pytest.raises(Help, match=r"split=simple\|length"):
    command.main(["--config=configs/scan.py:help"])


@pytest.mark.parametrize("command", [main, evaluate, predict, export, plan, checkpoints])
def test_every_flag_is_explained(command, monkeypatch, capsys):
  texts, add = {}, argparse._ActionsContainer.add_argument

  def record(self, *names, **options):
    texts[names[0]] = options.get("help")
    return add(self, *names, **options)

  monkeypatch.setattr(argparse._ActionsContainer, "add_argument", record)
  with pytest.raises(SystemExit) as end:
    command.main(["--help"])
  assert end.value.code == 0
  out = capsys.readouterr().out
  assert len(texts) > 2
  assert not [name for name, text in texts.items() if not text]
  assert not [name for name in texts if name.startswith("-") and name not in out]
