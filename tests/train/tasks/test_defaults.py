"""Defaults stand in the task classes: sections, settings of prediction, flags and older configs."""

import argparse
import dataclasses

import pytest

from train import inference, tasks
from train.common.errors import UserError
from train.data.tokenizer_training import train_tokenizer
from train.record import older
from train.tasks.base import Settings
from train.tasks.causal import Causal
from train.tasks.decoding_settings import Decoding
from train.tasks.mixture import Mixture
from train.tasks.text_to_text import TextToText

BYTES = train_tokenizer(dict(name="byte"), [])
MASKS = train_tokenizer(dict(name="byte", special=("<mask>",), sentinels=100), [])


@pytest.mark.parametrize("name", tasks.TASKS)
def test_the_defaults_make_the_task_that_its_class_makes(name):
  defaults, task = tasks.defaults(name), tasks.TASKS[name]
  needed = dict(data={}, tokenizer=MASKS)
  needed |= dict.fromkeys(defaults.keys() & {"labels", "targets"}, ("a", "b"))
  assert tasks.make(defaults | needed) == task(**needed)
  for nested in defaults.keys() & {"decoding", "reading", "choice"}:
    assert defaults[nested].keys() == {x.name for x in dataclasses.fields(task.settings_class)}
  assert defaults.keys() == {"name"} | {x.name for x in dataclasses.fields(task)} - {"data"}


def test_a_name_that_stands_for_a_style_has_it():
  for name, style in tasks.STYLES.items():
    assert tasks.defaults(name) == tasks.defaults("span") | dict(name=name, style=style)
  with pytest.raises(UserError, match="did you mean tagging"):
    tasks.defaults("taging")


def test_a_section_of_settings_changes_the_tasks_own_defaults():
  task = Causal(data={}, tokenizer=BYTES, decoding=dict(top_p=0.9, penalty="length"))
  assert task.decoding == dataclasses.replace(Causal.decoding, top_p=0.9, penalty="length")
  assert task.decoding.temperature == 0.8 != Decoding().temperature
  assert dataclasses.replace(task, decoding=dict(beam=2)).decoding.top_p == 1.0
  with pytest.raises(UserError, match=r"task.decoding.top_pp: a Causal .*did you mean top_p"):
    Causal(data={}, tokenizer=BYTES, decoding=dict(top_pp=0.9))


def test_every_setting_of_prediction_has_a_flag():
  parser = argparse.ArgumentParser()
  inference.add_decoding(parser)
  given = {"beam": "2", "penalty": "length", "stop": "full", "top_p": "0.5", "no_answer": None}
  words = [word for key, value in given.items() for word in (f"--{key}", value) if word]
  assert inference.decoding_changes(parser.parse_args(words)) == dict(
    beam=2, penalty="length", stop="full", top_p=0.5, no_answer=True
  )
  assert inference.decoding_changes(parser.parse_args([])) == {}
  flags = vars(parser.parse_args([])).keys()
  for task in tasks.TASKS.values():
    assert issubclass(task.settings_class, Settings)
    fields = dataclasses.fields(task.settings_class)
    assert flags >= {field.name for field in fields if field.type is not tuple}  # lists of ids
  assert "a question may have no answer" in " ".join(parser.format_help().split())
  assert (
    "sampling from so many of the likeliest tokens; 0: from all; words predicted for each mask"
    in " ".join(parser.format_help().split())
  )


def test_an_older_translation_with_labels_as_text_is_text_to_text():
  before = tasks.defaults("translation") | dict(metric="tags", data=dict(name="x"))
  task = older.upgrade(dict(task=before))["task"]
  assert (task["name"], task["kind"]) == ("text_to_text", "tags")
  assert task.keys() == tasks.defaults("text_to_text").keys() | {"data"}
  mixture = dict(name="mixture", main="a", parts=dict(a=before, b=before | dict(metric="texts")))
  parts = older.upgrade(dict(task=mixture))["task"]["parts"]
  assert parts["a"] == task
  assert parts["b"] == {key: value for key, value in before.items() if key != "metric"}


def test_what_sections_of_settings_gained_is_known_for_an_older_run():
  decoding = tasks.defaults("translation")["decoding"]
  later = decoding.keys() - {"beam", "length_penalty", "max_len_ratio", "max_len_extra"}
  keys = [f"task.decoding.{key}" for key in decoding]
  assert older.defaults(keys) == {f"task.decoding.{key}": decoding[key] for key in later}
  assert older.defaults(["task.parts.a.reading.nbest"]) == {"task.parts.a.reading.nbest": 1}


def test_a_mixture_has_a_prefix_if_a_part_has():
  parts = {name: Causal(data={}, tokenizer=BYTES, prefix=name == "b") for name in "ab"}
  mixture = Mixture(main="a", parts=parts, shares=dict(a=1, b=1), tokenizer=BYTES, target_len=8)
  assert mixture.prefix
  assert not dataclasses.replace(mixture, parts=dict(a=parts["a"])).prefix


def test_labels_as_text_share_the_loss_of_translation_and_denoising():
  make = dict(data={}, tokenizer=BYTES, label_smoothing=0.1)
  keys = {TextToText(**make).loss_key, tasks.TASKS["translation"](**make).loss_key}
  assert keys == {("text to text", 0.1, 0.0, 1)}
  assert tasks.TASKS["span"].loss_name == "text to text"
