"""Adapters mean the same to the package peft and here, both ways (make parity)."""

import numpy as np
import pytest

from tests.helpers import FIXTURES, train_config
from tests.train.interop.helpers import TRAINED
from train import export, inference

torch = pytest.importorskip("torch", reason="`make parity` compares with peft on torch")
peft = pytest.importorskip("peft", reason="`make parity` compares with it")
transformers = pytest.importorskip("transformers", reason="`make parity` compares with it")

BERT = FIXTURES / "bert"
TEXTS = ["the dog runs on two", "a red ball", "the man sees"]


def logits(model, folder, texts=TEXTS):
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  rows = tokenizer(texts, padding=True, return_tensors="pt")
  with torch.no_grad():
    return model.eval()(**rows).logits.numpy()


def base(labels, folder=BERT):
  load = transformers.AutoModelForSequenceClassification.from_pretrained
  return load(folder, num_labels=labels, ignore_mismatched_sizes=True)


# of a head of which a part stays as it is
FROZEN = {"init_from.which": "latest", "init_from.skip": ("^head/labels",)}
FROZEN |= {"lora.train": ("^head/labels",)}


@pytest.mark.parametrize(
  ("name", "changes"),
  [("bert", {}), *((f"{x}_classification", FROZEN) for x in ("distilbert", "roberta"))],
)
def test_our_adapter_answers_there_as_here(name, changes, corpus, tmp_path):
  origin, run, out = FIXTURES / name, tmp_path / "run", tmp_path / "adapter"
  changes = {"lora.rank": 2, "lora.alpha": 6.0, "schedule.peak": 0.1} | changes
  changes["task.source_len"] = 24
  changes["lora.layers"] = (r"blocks/.*(query|value|out|down)$",)
  train_config(f"classify.py:small,data={{folder}},init=hf:{origin}", corpus, run, **changes)
  export.main(["--workdir", str(run), "--out", str(out), "--format", "peft"])
  theirs = logits(peft.PeftModel.from_pretrained(base(2, origin), out), origin)
  ours = inference.load(run).arrays(TEXTS)["logits"]
  np.testing.assert_allclose(ours, theirs, atol=2e-5)
  plain = logits(base(2, origin), origin)
  assert np.abs(theirs - plain).max() > 1e-3


def test_adapters_of_a_trained_model_give_the_same_labels_there(tmp_path):
  """The model knows the last verb of a command, and its adapters learn the first one."""
  base, run, out = (tmp_path / name for name in ("base", "run", "adapter"))
  export.main(["--workdir", str(TRAINED / "classifier"), "--no-check", "--out", str(base)])
  for split in ("train", "dev", "test"):
    rows = (TRAINED / "data" / f"{split}.tsv").read_text().splitlines()
    commands = [row.partition("\t")[0] for row in rows]
    lines = [f"{text}\t{first_verb(text)}\n" for text in commands]
    (tmp_path / f"{split}.tsv").write_text("".join(lines))
  changes = {"lora.rank": 8, "lora.alpha": 16.0, "lora.layers": ("(query|value|up|down)$",)}
  changes |= {"steps": 300, "batch_size": 32, "schedule.peak": 1e-2, "evaluate.every": 300}
  train_config(f"classify.py:data={{folder}},init=hf:{base}", tmp_path, run, **changes)
  export.main(["--workdir", str(run), "--out", str(out), "--format", "peft"])
  known = transformers.AutoModelForSequenceClassification.from_pretrained(base)
  theirs = logits(peft.PeftModel.from_pretrained(known, out), base, commands).argmax(1)
  answers = [output["text"] for output in inference.load(run)(commands)]
  labels = inference.load_run(run, "latest").task.labels
  assert [labels[number] for number in theirs] == answers
  assert [output["text"] for output in inference.load(f"hf:{out}")(commands)] == answers
  assert np.mean([answer == first_verb(text) for answer, text in zip(answers, commands)]) > 0.9


def first_verb(command):
  first, after, second = command.partition(" after ")
  return (second if after else first).split()[0]


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_of_peft_answers_here_as_there(rslora, tmp_path):
  torch.manual_seed(0)
  config = peft.LoraConfig(
    task_type="SEQ_CLS", r=4, lora_alpha=12, target_modules=["query", "dense"], use_rslora=rslora
  )
  model = peft.get_peft_model(base(3), config)
  with torch.no_grad():
    for name, weight in model.named_parameters():
      if "lora_B" in name:
        weight.normal_(0, 0.2)
  model.save_pretrained(tmp_path)
  theirs = logits(model, BERT)
  ours = inference.load(f"hf:{tmp_path}").arrays(TEXTS)["logits"]
  np.testing.assert_allclose(ours, theirs, atol=2e-5)
