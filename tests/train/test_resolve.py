"""Tests of train/resolve.py and what prints a config: completion, errors, --print_config, :help."""

import argparse
import copy
import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from model.config import LSTMConfig, TransformerConfig
from train import (
  checkpoints,
  evaluate,
  export,
  loop,
  main,
  optimizer,
  plan,
  predict,
  ranges,
  resolve,
  schema,
  tasks,
)
from train.common.errors import Help, UserError
from train.record import config, workdir
from train.tasks import mixture
from train.tasks.decoding_settings import Decoding

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
  return refusal_of(resolve.load, *args)


def refusal_of(function, *args):
  with pytest.raises(UserError) as error:
    function(*args)
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
    assert part.pop("share") == 1.0
    assert part.pop("max_epochs") == 0.0
    assert part == {key: value for key, value in expected.items() if key not in shared}


def test_sections_that_are_left_out_are_completed(write):
  cfg = resolve.load(write())
  assert cfg.model.name == "transformer"
  assert cfg.optimizer.to_dict() == optimizer.OPTIMIZER
  assert cfg.schedule.to_dict() == optimizer.SCHEDULE
  for name in ("mesh", "init_from"):
    assert cfg[name].to_dict() == schema.RUN[name]
  assert cfg.checkpoint.to_dict() == schema.RUN["checkpoint"] | dict(every=5)


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


def test_keys_that_a_tokenizer_or_a_source_takes_can_be_set_though_they_are_not_there(write):
  path = write(dict(tokenizer=dict(name="char")))
  words = ["tokenizer.name=bpe", "tokenizer.vocab_size=400", "data.cutoff=26"]
  task = resolve.load(path, [f"task.{word}" for word in words]).task
  assert task.tokenizer.to_dict() == dict(name="bpe", vocab_size=400)
  assert task.data.cutoff == 26
  for word in ("tokenizer.vocab_sze=4", "data.cutof=26", "data.paths=x"):
    assert "no such key" in refusal(path, [f"task.{word}"])


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
    (dict(skip_spikes=1), ["skip_spikes is 1", "bool"]),
    (dict(loggers="wandb"), ["loggers is 'wandb'", "tuple"]),
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


WRONG = """
steps=0 steps=-5 steps=9999999999 seed=-1 seed=4294967296 batch_size=0 batch_size=-8 microbatches=0
microbatches=-1 workers=-1 log_every=0 log_every=-1 ema=2 ema=-1 ema=nan spike=-1 max_skipped=-1
watchdog_seconds=-1 watchdog_seconds=inf patience=-1 parallelism=foo mesh.data=-2 evaluate.every=0
evaluate.every=-1 evaluate.decode_every=-1 evaluate.decode_examples=-1 checkpoint.every=0
checkpoint.keep_latest=0 checkpoint.keep_latest=-1 checkpoint.keep_best=-1
checkpoint.best_mode=least optimizer.name=foo optimizer.clip_norm=-1 optimizer.b1=5 optimizer.b2=1
optimizer.eps=abc optimizer.eps=-1 optimizer.weight_decay=abc optimizer.mu_dtype=foo
optimizer.nesterov=3 optimizer.momentum=2 optimizer.rates=abc optimizer.no_decay=( schedule.name=foo
schedule.peak=-1 schedule.peak=nan schedule.warmup_steps=-1 schedule.warmup_steps=99
schedule.final=-3 schedule.final=abc schedule.decay_steps=-1 schedule.decay_steps=2.5
model.window=abc model.window=0 model.vocab_size=abc model.vocab_size=0 model.dim=-4 model.dim=7
model.num_heads=0 model.norm_eps=-1 model.init_std=abc model.init_std=-1 model.attention_scale=abc
model.dropout=1 model.dropout=nan model.max_len=0 model.rope_theta=0 model.encoder_layers=-1
model.positions=rotory model.dtype=float64 model.attention_scale=nan model.mlp_dim=99999999999
task.source_len=-3 task.decode_batch=0 task.label_smoothing=2 task.z_loss=-1 task.loss_chunks=0
task.bleu_tokenizer=13b task.decoding.beam=0 task.decoding.max_len_extra=-100
task.decoding.temperature=nan task.decoding.length_penalty=inf task.decoding.seed=-1
checkpoint.best_metric=los
"""


@pytest.mark.parametrize("override", WRONG.split())
def test_a_value_that_cannot_be_is_refused_with_its_key(write, override):
  key, value = override.split("=")
  message = refusal(write(), [override])
  assert key.rpartition(".")[2] in message
  assert value in message or value.lstrip("-").isdigit()


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(name="span", style="span"), ["task.style is 'span'", "did you mean spans?"]),
    (dict(name="mlm", rate=1.5), ["task.rate is 1.5", "above 0 and below 1"]),
    (dict(name="electra", generator=0.0), ["task.generator is 0.0"]),
    (dict(name="text_to_text", kind="class"), ["task.kind", "did you mean classes?"]),
    (dict(name="qa", reading=dict(max_answer=0)), ["task.reading.max_answer is 0"]),
    (dict(name="classification", pool="median"), ["task.pool is 'median'", "first, mean"]),
  ],
)
def test_a_value_that_a_task_cannot_have_is_refused_before_its_data_is_read(write, changes, words):
  message = refusal(write(changes))
  assert not [word for word in words if word not in message], message


def test_a_value_of_a_part_of_a_mixture_is_checked(write):
  parts = dict(
    a=dict(name="span", share=1.0, data={}, rate=0.1), b=dict(name="translation", data={})
  )
  task = dict(name="mixture", main="a", parts=parts, tokenizer=dict(name="word"), source_len=9)
  for override in ("parts.a.rate=0.0", "parts.a.share=0.0", "parts.b.decoding.beam=0"):
    assert f"task.{override.partition('=')[0]} is 0" in refusal(write(task), [f"task.{override}"])


def test_every_range_and_choice_is_of_a_setting_and_allows_its_default():
  defaults = config.flat(schema.RUN | schema.REQUIRED)
  defaults |= config.flat(dict(optimizer=optimizer.OPTIMIZER, schedule=optimizer.SCHEDULE))
  mixed = {field.name: field.default for field in dataclasses.fields(mixture.Mixture)}
  mixed = {name: x for name, x in mixed.items() if x is not dataclasses.MISSING} | mixture.PART
  defaults |= {f"task.{key}": value for key, value in mixed.items()}
  for name in tasks.NAMES[:-1]:
    defaults |= {f"task.{key}": value for key, value in tasks.defaults(name).items()}
  assert {*ranges.RANGES, *ranges.CHOICES, *ranges.TYPES} <= defaults.keys()
  for key, value in defaults.items():
    if key not in schema.REQUIRED and not key.startswith(("task.tokenizer", "task.decoding")):
      ranges.check(key, value, None if value is None else type(value))


def test_each_way_to_parallelize_is_a_choice():
  assert loop.PUT.keys() == {*ranges.CHOICES["parallelism"]}


@pytest.mark.parametrize(
  "task, metric, words",
  [
    ("translation", "bleu", ["'bleu'", "set evaluate.decode_every"]),
    ("translation", "blue", ["'blue'", "did you mean bleu?"]),
    ("translation", "accuracy", ["reports loss, perplexity, token_accuracy"]),
    ("classification", "acuracy", ["did you mean accuracy?"]),
  ],
)
def test_a_best_metric_that_no_evaluation_reports_is_refused(write, task, metric, words):
  override = [f"checkpoint.best_metric={metric}"]
  message = refusal(write(dict(name=task)), override)
  assert not [word for word in ["checkpoint.best_metric", *words] if word not in message], message


def test_decoding_for_no_score_is_refused_before_data_is_read(write):
  assert "decode_every is 5, and a mlm" in refusal(
    write(dict(name="mlm")), ["evaluate.decode_every=5"]
  )


@pytest.mark.parametrize(
  "task, before, now",
  [
    ("causal", "accuracy", "token_accuracy"),
    ("qa", "right", "token_accuracy"),
    ("electra", "recall", "replaced_recall"),
    ("classification", "accuracy", "accuracy"),
  ],
)
def test_an_older_name_of_a_metric_is_read(write, task, before, now):
  evaluate = dict(every=5, decode_every=5 * (task == "classification"))
  path = write(dict(name=task), checkpoint=dict(every=5, best_metric=before), evaluate=evaluate)
  assert resolve.load(path).checkpoint.best_metric == now


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


def test_a_hugging_face_directory_without_hf_is_named_as_such(write):
  folder = "tests/fixtures/bert"
  path = write(dict(name="mlm"), model=dict(inherit="encoder"), init_from=dict(workdir=folder))
  assert f"write hf:{folder}" in refusal(path)


@pytest.mark.parametrize("path", ["configs", "nosuch/scn.py", "train", "model/scan.py"])
def test_a_path_that_is_no_config_file_is_answered_with_those_there_are(path):
  assert "configs has: c4.py, " in refusal(path)


def test_no_steps_to_profile_are_refused(write, tmp_path):
  with pytest.raises(UserError, match="FIRST:LAST"):
    main.main([f"--config={write()}", f"--workdir={tmp_path / 'x'}", "--profile_steps", ""])


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
    (lambda saved: saved.clear(), "section task is missing"),
    (lambda saved: saved.pop("model"), "section model is missing"),
    (lambda saved: saved.pop("checkpoint"), "section checkpoint is missing"),
    (lambda saved: saved["task"].pop("name"), "task.name is missing"),
    (lambda saved: saved["task"].update(decoding=3), "task.decoding is 3: expects a section"),
    (lambda saved: saved["task"]["decoding"].update(foo=3), "task.decoding.foo"),
    (lambda saved: saved["task"]["decoding"].update(beam=10**6), "task.decoding.beam is 1000000"),
    (lambda saved: saved["task"]["decoding"].update(beam=900, max_len_ratio=900), "at a time"),
    (lambda saved: saved["model"].update(dimm=64), "did you mean dim?"),
    (lambda saved: saved["model"].update(dim=10**11), "model.dim is 100000000000"),
    (lambda saved: saved["checkpoint"].update(best_metric="los"), "did you mean loss?"),
  ],
)
@pytest.mark.parametrize("command", [main, predict, evaluate, export, checkpoints])
def test_a_changed_config_of_a_run_is_not_used(write, tmp_path, change, word, command):
  words = {
    main: ["--rerun", "RUN", "--print_config"],
    predict: ["--workdir", "RUN", "x"],
    evaluate: ["--workdir", "RUN"],
    export: ["--workdir", "RUN", "--out", "OUT"],
    checkpoints: ["list", "RUN"],
  }
  arguments = [
    word.replace("RUN", str(tmp_path / "run")).replace("OUT", str(tmp_path / "out"))
    for word in words[command]
  ]
  workdir.open_run(tmp_path / "run", resolve.load(write()), ["test"]).close()
  file = tmp_path / "run/config.json"
  saved = json.loads(file.read_text())
  change(saved)
  file.write_text(json.dumps(saved))
  with pytest.raises(UserError) as error:
    command.main(arguments)
  assert str(file) in str(error.value)
  assert word in str(error.value)


def test_a_run_with_a_setting_less_opens_if_its_config_is_as_it_was_written(write, tmp_path):
  cfg = ConfigDict(resolve.load(write()).to_dict())
  del cfg.model["logits_scale"], cfg["spike"]
  with workdir.open_run(tmp_path / "run", cfg, ["test"]):
    pass
  assert "logits_scale" not in schema.load_run(tmp_path / "run").model
  again = resolve.load_again(tmp_path / "run", ["steps=99"])
  assert (again.model.logits_scale, again.spike, again.steps) == (1.0, 3.0, 99)
  assert "steps is 0" in refusal_of(resolve.load_again, tmp_path / "run", ["steps=0"])


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
