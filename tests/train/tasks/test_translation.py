"""What a translation scores, by the words its language has."""

import pytest

from train.common.errors import UserError
from train.data import tokenizer_training
from train.tasks.translation import Translation

CHINESE = ["保存这个文件", "删除所有文件", "没有打开文件"]
FOUND = ["保存那个文件", "删除所有文件", "没有文件打开"]


def bleu(found, wanted, bleu_tokenizer):
  task = Translation(
    data={},
    tokenizer=tokenizer_training.train_tokenizer(dict(name="byte"), []),
    source_len=8,
    target_len=8,
    bleu_tokenizer=bleu_tokenizer,
  )
  outputs = [{"text": text} for text in found]
  return task.score(outputs, [{"target": text} for text in wanted])["bleu"]


def test_bleu_of_chinese_is_that_of_its_characters():
  apart = [[" ".join(text) for text in texts] for texts in (FOUND, CHINESE)]
  assert bleu(FOUND, CHINESE, "zh") == pytest.approx(bleu(*apart, "none"))
  assert 0 < bleu(FOUND, CHINESE, "zh") < 100 == pytest.approx(bleu(CHINESE, CHINESE, "zh"))


def test_bleu_of_languages_with_blanks_is_nearly_the_same():
  """So "zh" serves where Chinese is among them."""
  found, wanted = ["Save (the) file, please."], ["Save the file, now."]
  assert bleu(found, wanted, "zh") == pytest.approx(bleu(found, wanted, "13a"))


def test_an_unknown_tokenizer_is_told():
  with pytest.raises(UserError, match=r"task.bleu_tokenizer is 'zhh'; known: .*did you mean zh"):
    bleu([], [], "zhh")
