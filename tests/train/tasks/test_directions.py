"""Translators of several languages learn and write each text in its own direction."""

import json

import numpy as np
import pytest

from tests.helpers import FIXTURES, train_config
from train import evaluate, export, inference, predict
from train.common.errors import UserError
from train.data.batches import BatchBuilder
from train.interop import directory

SETTINGS = dict(beam=1, max_len_ratio=0.0, max_len_extra=6)
NAMES = {  # fixture -> directions
  "nllb": [("eng_Latn", "deu_Latn"), ("fra_Latn", "eng_Latn"), ("zho_Hans", "fra_Latn")],
  "m2m_100": [("en", "de"), ("fr", "en"), ("zh", "fr")],
  "mbart50": [("en_XX", "de_DE"), ("fr_XX", "en_XX"), ("zh_CN", "af_ZA")],
  "mbart": [("en_XX", "de_DE"), ("fr_XX", "en_XX"), ("zh_CN", "fr_XX")],
}


@pytest.mark.parametrize(
  "name", [pytest.param(x, marks=[pytest.mark.slow] * (x != "mbart")) for x in NAMES]
)
def test_rows_of_a_batch_have_their_own_directions(name):
  texts = ["The lazy fox jumps.", "Is it the 3rd?", "Où?"]
  model = f"hf:{FIXTURES / name}"
  one_by_one = [
    inference.load(model, source_lang=source, target_lang=target, **SETTINGS)([text])[0]
    for text, (source, target) in zip(texts, NAMES[name])
  ]
  inputs = [
    dict(source=text, source_lang=source, target_lang=target)
    for text, (source, target) in zip(texts, NAMES[name])
  ]
  usual = inference.load(model, **SETTINGS)
  together, same = usual(inputs), usual(texts)
  assert all(
    x["score"] != pytest.approx(y["score"], abs=1e-3) for x, y in zip(together[1:], same[1:])
  )
  assert [x["text"] for x in together] == [x["text"] for x in one_by_one]
  scores = np.array([[x["score"] for x in row] for row in (together, one_by_one)])
  np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def write_rows(path, count=30):
  rows = ["x,y,source_lang,target_lang"]
  pairs = NAMES["nllb"]
  rows += [f"the fox {n},a dog {n},{','.join(pairs[n % 3])}" for n in range(count)]
  path.write_text("\n".join(rows) + "\n")


@pytest.mark.slow
def test_a_run_of_several_directions(tmp_path, capsys):
  """Rows of a table have their languages in training, in evaluation, and in the export."""
  write_rows(tmp_path / "a.csv")
  run = tmp_path / "run"
  text = (
    f"nllb.py:small,init=hf:{FIXTURES}/nllb,data={{folder}}/a.csv,source=x,target=y,directions=rows"
  )
  train_config(text, tmp_path, run)
  task = inference.load_run(run, "latest").task
  batch = BatchBuilder(task.items("train"), 128, 128)([[(0, 0), (1, 1)]])
  ids = task.tokenizer.languages
  starts = batch["source"][0][batch["source_positions"][0] == 0][:2].tolist()
  assert starts == [ids[source] for source, _ in NAMES["nllb"][:2]]
  begun = batch["labels"][0][batch["positions"][0] == 0][:2].tolist()
  assert begun == [ids[target] for _, target in NAMES["nllb"][:2]]
  write_rows(tmp_path / "b.csv", 3)
  file = ["--workdir", str(run), "--data", f"{tmp_path}/b.csv", "--beam", "1"]
  evaluate.main([*file, "--columns", "x+y+source_lang+target_lang"])
  loss = json.loads(capsys.readouterr().out)["loss"]
  evaluate.main([*file, "--columns", "x+y", "--target_lang", "fra_Latn"])
  results = json.loads(capsys.readouterr().out)
  assert results["target_lang"] == "fra_Latn"
  assert results["loss"] != pytest.approx(loss, abs=1e-6)
  assert len(list((run / "evaluations").glob("*.json"))) == 2
  with pytest.raises(UserError, match=r"give 2, source\+target"):
    evaluate.main([*file, "--columns", "x+y+source_lang+target_lang+x"])


@pytest.mark.slow
def test_a_direction_is_written_and_read_again(tmp_path):
  (tmp_path / "a.csv").write_text("source,target\n" + "the fox,a dog\n" * 20)
  direction = "source_lang=fra_Latn,target_lang=eng_Latn"
  text = f"nllb.py:small,init=hf:{FIXTURES}/nllb,data={{folder}}/a.csv,{direction}"
  train_config(text, tmp_path, tmp_path / "run")
  export.as_hf(tmp_path / "run", "latest", tmp_path / "out")
  here = inference.load_run(tmp_path / "run", "latest").task.tokenizer
  there = directory.Directory(tmp_path / "out")
  assert there.family.model_type == "m2m_100"
  assert there.tokenizer.roles == here.roles
  assert there.tokenizer.roles.target_first == (here.languages["eng_Latn"],)
  settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
  assert (settings["src_lang"], settings["tgt_lang"]) == ("fra_Latn", "eng_Latn")
  before = inference.load(tmp_path / "run", **SETTINGS)(["The fox."])
  after = inference.load(f"hf:{tmp_path / 'out'}", **SETTINGS)(["The fox."])
  assert after[0]["text"] == before[0]["text"]


def test_flags_are_for_translators(capsys):
  words = ["--model", f"hf:{FIXTURES}/bert_classification", "--target_lang", "de", "x"]
  with pytest.raises(UserError, match="--target_lang: a Classification task has no languages"):
    predict.main(words)
  words = ["--model", f"hf:{FIXTURES}/nllb", "--target_lang", "fra_Latn", "--beam", "1", "The fox."]
  predict.main([*words, "--max_len_ratio", "0", "--max_len_extra", "6"])
  first = capsys.readouterr().out
  expected = inference.load(f"hf:{FIXTURES}/nllb", target_lang="fra_Latn", **SETTINGS)
  assert first == expected(["The fox."])[0]["text"] + "\n"
