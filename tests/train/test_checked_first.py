"""What is named before anything is read or built, and what a person sees while they wait."""

import logging as stdlib_logging
import os
import subprocess
import sys

import pytest
from absl import logging

from tests.helpers import FIXTURES, ROOT
from train import main, resolve
from train.common.errors import Help, UserError
from train.data import source
from train.record import writer


def test_a_tokenizer_that_is_not_there_is_refused_by_print_config(tmp_path):
  words = ["--config=configs/classify.py:tokenizer=/nowhere", "--print_config"]
  with pytest.raises(UserError, match=r"task\.tokenizer\.path: there is no file /nowhere/tok"):
    main.main(words)
  (tmp_path / "tokenizer.json").write_text("{}")  # a run that has its own goes on
  assert main.main([*words, f"--workdir={tmp_path}"]) == 0
  assert main.main([words[0].replace("/nowhere", str(tmp_path)), words[1]]) == 0


def test_a_batch_that_no_memory_holds_is_refused():
  with pytest.raises(UserError, match=r"task\.source_len is 99999999 and batch_size"):
    resolve.load("configs/scan.py", ["task.source_len=99999999"])


@pytest.mark.parametrize(
  ("init", "message"),
  [
    (FIXTURES / "bert", f"write hf:{FIXTURES / 'bert'}"),
    ("hf:nosuch", r"nosuch/config\.json: no such file"),
    ("nosuch", "nosuch: no such folder"),
  ],
)
def test_a_start_that_is_none_is_named_without_a_class(init, message):
  with pytest.raises(UserError, match=message) as error:
    resolve.load(f"configs/classify.py:init={init}")
  assert "Error" not in str(error.value)


def test_help_with_an_equals_sign_and_a_value_without_a_name():
  with pytest.raises(Help, match="Arguments"):
    resolve.load("configs/scan.py:help=")
  with pytest.raises(UserError, match="'=3' names no argument"):
    resolve.load("configs/scan.py:=3")


def test_the_list_of_configs_is_not_written_for_help():
  before = os.stat(ROOT / "configs" / "README.md").st_mtime_ns
  command = [sys.executable, "-m", "configs", "--help"]
  output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
  assert "usage: python -m configs" in output
  assert os.stat(ROOT / "configs" / "README.md").st_mtime_ns == before


def test_a_language_model_of_pieces():
  def tokenizer(arguments):
    return resolve.load(f"configs/causal.py:{arguments}").task.tokenizer.to_dict()

  assert tokenizer("small")["name"] == "char"
  assert tokenizer("tokenizer=bpe") == {"name": "bpe", "vocab_size": 4000}
  with pytest.raises(UserError, match="brings its tokenizer"):
    resolve.load("configs/causal.py:tokenizer=bpe,init=hf:x")


def test_encoding_says_when_it_ends(caplog, monkeypatch):
  monkeypatch.setattr(source, "SECONDS", -1)
  monkeypatch.setattr(source, "CHUNK", 2)
  caplog.set_level(stdlib_logging.INFO, logger="absl")
  assert [first for first, _ in source.read_in_chunks([{}] * 5)] == [0, 2, 4]
  assert caplog.messages[-1].startswith("encoded all 5 examples in ")
  caplog.clear()
  monkeypatch.setattr(source, "SECONDS", 10)
  list(source.read_in_chunks([{}] * 3))
  assert not caplog.messages


def test_log_lines_go_above_the_bar_and_not_through_it(tmp_path, monkeypatch):
  monkeypatch.setenv("FORCE_COLOR", "1")  # makes a terminal of standard error for the bar
  handler = logging.get_absl_handler().python_handler
  before = handler.stream
  out = writer.Writer(tmp_path, 0, progress=True, total_steps=20, loggers=())
  assert handler.stream is sys.stderr is not before
  out.close()
  assert handler.stream is before


@pytest.mark.parametrize(
  ("key", "hint"),
  [
    ("task.beam", "task.decoding.beam"),
    ("beam", "task.decoding.beam"),
    ("eval_every", "evaluate.every"),
    ("optimizer.lr", "schedule.peak"),
    ("learning_rate", "schedule.peak"),
    ("optimizer.warmup", "schedule.warmup_steps"),
    ("evaluate.metric", "checkpoint.best_metric"),
    ("model.dropuot", "model.dropout"),
    ("epoch", "epochs"),
    ("data", None),
    ("init", None),
    ("task.labels", None),
    ("task.length", None),
    ("optimizer.xyz", None),
  ],
)
def test_a_hint_names_a_key_that_helps_or_none(key, hint):
  with pytest.raises(UserError, match="no such key") as error:
    resolve.load("configs/scan.py", [f"{key}=1"])
  message = str(error.value)
  assert message.endswith(f"did you mean {hint}?") if hint else "did you mean" not in message


@pytest.mark.parametrize("text", ["log_every=1.5", "log_every=0", "evaluate.every=-0.1"])
def test_a_cadence_that_is_none_may_be_a_share(text):
  with pytest.raises(UserError, match="or a share of all steps above 0 and below 1"):
    resolve.load("configs/scan.py", [text])
  with pytest.raises(UserError, match="at least 1") as error:
    resolve.load("configs/scan.py", ["batch_size=0"])
  assert "share" not in str(error.value)
