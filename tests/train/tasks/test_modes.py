"""Modes of denoisers: the token that names one stands before its sources, in training and use."""

import numpy as np
import pytest

from tests.train.data.helpers import read_all
from train.common.errors import UserError
from train.data.tokenizer_training import train_tokenizer
from train.tasks.denoising import Denoising

TEXT = " ".join(f"w{i}" for i in range(60))
MODES = ("[R]", "[S]")
TOKENIZER = train_tokenizer(
  dict(name="bpe", vocab_size=400, special=("<mask>", *MODES), sentinels=9), [TEXT]
)
R, S = map(TOKENIZER.id, MODES)


def denoiser(folder, **settings):
  (folder / "x.txt").write_text(TEXT)
  data = dict(name="text", splits=dict(train=str(folder / "x.txt")))
  settings = dict(length=24, source_len=32, target_len=32, tokenizer=TOKENIZER) | settings
  return Denoising(data=data, **settings)


@pytest.mark.parametrize("style", ["spans", "suffix"])
def test_a_source_begins_with_its_mode(style, tmp_path):
  plain, moded = (denoiser(tmp_path, style=style, mode=mode) for mode in ("", "[S]"))
  pairs = list(zip(*(read_all(task.items("train")) for task in (plain, moded))))
  for before, item in pairs:
    assert item["source"].tolist() == [S, *before["source"].tolist()]
    assert item["target"].tolist() == before["target"].tolist()
  np.testing.assert_array_equal(
    moded.items("train").lengths(), plain.items("train").lengths() + [1, 0]
  )


def test_a_text_has_the_tasks_mode_or_names_another(tmp_path):
  task = denoiser(tmp_path, mode="[R]")
  texts = ("w1 <extra_0> w3", "[S] w1 <extra_0> w3", "<extra_0> w3", "w1 [S]")
  rows = task.requests([{"text": text} for text in texts]).ids
  assert [row[0] for row in rows] == [R, S, R, R]
  assert rows[0][1:] == rows[1][1:]
  assert rows[2][1] == TOKENIZER.sentinels[0]
  plain = denoiser(tmp_path).requests([{"text": texts[0]}]).ids
  assert [rows[0][1:]] == plain


def test_a_continuation_stands_behind_its_text_without_the_mode(tmp_path):
  task = denoiser(tmp_path, style="suffix", rate=0.25, mode="[S]")
  words = TOKENIZER.encode_batch([" w4 w5"])[0]
  prediction = dict(tokens=np.asarray([words]), scores=np.zeros(1))
  examples = [{"text": "w1 w2 w3"}, {"text": "[R] w1 w2 w3"}]
  outputs = task.outputs(examples, None, [prediction] * 2, task.settings())
  assert [output["text"] for output in outputs] == ["w1 w2 w3 w4 w5"] * 2


def test_a_mode_that_is_not_in_the_vocabulary_is_reported(tmp_path):
  with pytest.raises(UserError, match=r"no \[X\].*tokenizer\.special"):
    denoiser(tmp_path, mode="[X]")
