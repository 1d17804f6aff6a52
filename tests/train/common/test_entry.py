"""Arguments of commands name paths in the home folder."""

import pytest

from tests.helpers import load_config
from train import pretrained
from train.common import entry
from train.record import workdir


@pytest.mark.parametrize(
  "word, expected",
  [
    ("--workdir=~/x", "--workdir=/elsewhere/x"),
    ("--out=~", "--out=/elsewhere"),
    ("--model=hf:~/x", "--model=hf:/elsewhere/x"),
    ("--config=~/a.py:data=~/b", "--config=/elsewhere/a.py:data=~/b"),
    ("--config.init_from.workdir=~/x", "--config.init_from.workdir=~/x"),
    ("--workdir=x~/y", "--workdir=x~/y"),
    ("a = ~/b", "a = ~/b"),
    ("~/text", "~/text"),
    ("--scores", "--scores"),
  ],
)
def test_a_path_in_the_home_folder_is_expanded(monkeypatch, word, expected):
  monkeypatch.setenv("HOME", "/elsewhere")
  assert entry.expand_home(word) == expected


def test_a_run_may_be_in_the_home_folder(monkeypatch, tmp_path):
  (tmp_path / "run").mkdir()
  cfg = load_config("scan.py:small", "nowhere")
  (tmp_path / "run" / "config.json").write_text(workdir.config_json(cfg))
  monkeypatch.setenv("HOME", str(tmp_path))
  assert pretrained.open("~/run").model == cfg.model.to_dict()
