"""Runs side by side: what is counted, what differs, and whether it is more than chance."""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from experiments import compare
from experiments.tools.compare import cost, curves, significance, trained
from experiments.tools.report import blocks
from train import evaluate, loop, pretrained, resolve
from train.build import build_model
from train.checkpoint import Checkpoints
from train.common.errors import UserError
from train.record.older import ADDED
from train.record.workdir import config_json, load_config, open_run
from train.scoring import scores

BEGAN = 1_767_225_600  # 2026-01-01, UTC
GIT = dict(commit="a" * 40, dirty=False)
SCAN = resolve.load("configs/scan.py:small", ["steps=30"])
CLASSES = resolve.load("configs/classify.py:small,data=nowhere", ["steps=30"])
LM = resolve.load("configs/causal.py:small,data=nowhere", ["steps=30"])


def start(after=0, **facts):
  time = f"2026-01-01T00:{after // 60:02d}:{after % 60:02d}+00:00"
  return dict(time=time, git=GIT, versions={"jax": "1"}, devices=["cpu:0"]) | facts


def line(step, split="train", after=0, **values):
  return dict(step=step, split=split, time=BEGAN + after) | values


def write(folder, cfg=SCAN, lines=(), starts=(), outputs=None, name="test-best", **results):
  """A run's folder, with an evaluation's outputs if they are given: (example, output) pairs."""
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text(config_json(cfg))
  (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
  (folder / "run.json").write_text(json.dumps(dict(starts=list(starts or [start()]))))
  if outputs is not None:
    evaluations = folder / "evaluations"
    evaluations.mkdir(exist_ok=True)
    rows = [example | {"output": output} for example, output in outputs]
    (evaluations / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
    results = dict(split="test", checkpoint="best", steps=[30]) | results
    (evaluations / f"{name}.json").write_text(json.dumps(results))
  return folder


def translated(predictions, references):
  return [({"source": "x", "target": w}, {"text": f}) for f, w in zip(predictions, references)]


def classified(right):
  """An example a number: whether its class is predictions."""
  return [({"text": "x", "label": "1"}, {"text": str(x)}) for x in right]


WORDS = ("the", "cat", "sat", "on", "a", "mat", "while", "one", "dog", "barked", "at", "night")


def sentences(count, seed):
  rng = np.random.default_rng(seed)
  return [" ".join(rng.choice(WORDS, size=8)) for _ in range(count)]


def noisy(texts, share, seed):
  """The texts with a share of their words replaced."""
  rng = np.random.default_rng(seed)
  return [
    " ".join(rng.choice(WORDS) if rng.random() < share else word for word in text.split())
    for text in texts
  ]


def compared(capsys, *args):
  compare.main([str(arg) for arg in args])
  return capsys.readouterr().out


def rows_of(text, title):
  """The cells of the table below a bold title, the head aside."""
  below = text[text.index(f"**{title}**") :].split("\n\n")[1]
  return [[cell.strip() for cell in row.strip("|").split("|")] for row in below.splitlines()[2:]]


# What of it is chance


def test_the_test_of_bleu_is_sacrebleus_own(tmp_path):
  references = sentences(40, seed=0)
  systems = dict(a=noisy(references, 0.4, seed=1), b=noisy(references, 0.3, seed=2))
  for name, texts in dict(ref=references, **systems).items():
    (tmp_path / name).write_text("".join(text + "\n" for text in texts))
  command = "-m sacrebleu ref -i a b --paired-bs --paired-bs-n 300 -tok intl --force -f json"
  clean = {key: x for key, x in os.environ.items() if key != "SACREBLEU_SEED"}
  told = subprocess.run(
    [sys.executable, *command.split()], cwd=tmp_path, capture_output=True, check=True, env=clean
  )
  theirs = [system["BLEU"] for system in json.loads(told.stdout)]
  task = trained.task_settings(SCAN)[""] | dict(bleu_tokenizer="intl", piece_marker="")
  judged = [
    significance.judge(name, task, [x | {"output": y} for x, y in translated(texts, references)])
    for name, texts in systems.items()
  ]
  ours = significance.tests(judged, samples=300)[0]
  for row, other in zip(ours.rows, theirs, strict=True):
    assert (row.score, row.p) == (other["score"], other["p_value"])
    assert (row.low + row.high) / 2 == pytest.approx(other["mean"])
    assert (row.high - row.low) / 2 == pytest.approx(other["ci"])
  assert 0 < ours.rows[1].p < 1
  assert ours.how.endswith(
    "nrefs:1|bs:300|seed:12345|case:mixed|eff:no|tok:intl|smooth:exp|version:2.6.0"
  )


def test_the_same_outputs_are_no_difference_and_better_ones_are(tmp_path, capsys):
  references = sentences(60, seed=0)
  bad = noisy(references, 0.5, seed=1)
  for name, predictions in dict(a=bad, same=bad, better=noisy(references, 0.1, seed=2)).items():
    write(tmp_path / name, outputs=translated(predictions, references))
  text = compared(capsys, *(tmp_path / name for name in ("a", "same", "better")), "--samples", 200)
  for metric in ("bleu", "exact_match"):
    base, same, better = rows_of(text, metric)
    assert base[0] == "a"
    assert base[3:5] == ["", ""]
    assert same[3:5] == ["+0.00", "1.0000"]
    assert float(better[3]) > 20
    assert float(better[4]) < 0.01
  assert rows_of(text, "exact_match")[1][5:] == ["0", "0"]
  expected = scores.texts(bad, references, tokenize="none")["bleu"]
  assert rows_of(text, "bleu")[0][1] == f"{expected:.2f}"
  assert "tok:none" in text  # SCAN's, not sacreBLEU's own 13a
  assert "not corrected for several" in text


def test_mcnemar_is_a_coin_for_each_example_that_one_alone_has_right(tmp_path, capsys):
  a = [1] * 50 + [0] * 3 + [1] * 12 + [0] * 5  # both, the second alone, the first alone, none
  b = [1] * 50 + [1] * 3 + [0] * 12 + [0] * 5
  write(tmp_path / "a", CLASSES, outputs=classified(a))
  write(tmp_path / "b", CLASSES, outputs=classified(b))
  text = compared(capsys, tmp_path / "a", tmp_path / "b")
  assert "McNemar's exact test, two-sided" in text
  first, second = rows_of(text, "accuracy")
  assert [first[1], second[1], second[3]] == ["88.57", "75.71", "-12.86"]
  assert second[5:] == ["3", "12"]
  p = 2 * sum(math.comb(15, k) for k in range(4)) / 2**15
  assert second[4] == f"{p:.4f}"
  from scipy.stats import binomtest

  judged = [
    significance.judge(
      name, trained.task_settings(CLASSES)[""], [x | {"output": y} for x, y in classified(right)]
    )
    for name, right in (("a", a), ("b", b))
  ]
  (test,) = significance.tests(judged, samples=10)
  assert test.rows[1].p == pytest.approx(binomtest(3, 15).pvalue) == pytest.approx(p)


def test_a_score_of_sums_is_the_score():
  rng = np.random.default_rng(0)
  tags = ["O", "B-a", "I-a", "B-b", "I-b"]
  references = [list(rng.choice(tags, size=6)) for _ in range(30)]
  predictions = [
    [t if rng.random() < 0.7 else str(rng.choice(tags)) for t in row] for row in references
  ]
  ours = significance.SCORES["tags"](predictions, references)
  theirs = scores.tags(predictions, references)
  assert {name: one.value for name, one in ours.items()} == pytest.approx(
    {name: theirs[name] for name in ("accuracy", "f1")}
  )
  assert set(significance.SCORES["tags"]([["NOUN"]], [["VERB"]])) == {"accuracy"}  # no BIO, no F1
  references = [["a b c", "the d"], ["x y"], [], ["q"]]
  predictions = ["a b", "X, y", "", "something else"]
  ours = significance.SCORES["answers"](predictions, references)
  assert {name: one.value for name, one in ours.items()} == pytest.approx(
    scores.answers(predictions, references)
  )
  references = rng.normal(size=50) + 1000
  predictions = references + rng.normal(size=50)
  (pearson,) = significance.SCORES["numbers"](predictions, references).values()
  assert pearson.value == pytest.approx(scores.numbers(predictions, references)["pearson"])
  assert significance.SCORES["numbers"]([2.0, 2.0], [1.0, 3.0])["pearson"].value == 0


def test_numbers_and_tags_in_words_are_judged_as_the_task_does():

  def judged(kind, predictions, references):
    rows = [x | {"output": y} for x, y in translated(predictions, references)]
    made = significance.judge("a", dict(name="text_to_text", kind=kind), rows).scores
    return {name: one.value for name, one in made.items()}

  predictions, references = ["1", "nan", "so so", "4.5"], ["1.5", "2", "-3", "4"]
  theirs = scores.numbers_as_text(predictions, references)
  assert judged("numbers", predictions, references) == pytest.approx({"pearson": theirs["pearson"]})
  predictions, references = ["B-a I-a", "O", "O O"], ["B-a I-a O", "O", "B-b O"]
  theirs = scores.tags_as_text(predictions, references)
  theirs = {name: theirs[name] for name in ("accuracy", "f1")}
  assert judged("tags", predictions, references) == pytest.approx(theirs)


def test_a_bootstrap_finds_a_difference_where_there_is_one_and_seldom_else():
  rng = np.random.default_rng(0)

  def p(gain):
    hard = rng.normal(size=60)  # examples are hard for both: pairs tell more than means
    judged = []
    for name, more in (("a", 0.0), ("b", gain)):
      value = hard + more + 0.3 * rng.normal(size=60)
      score = significance._share(np.stack([value, np.ones(60)], 1))
      judged.append(significance.Judged(name, "tags", [], {"accuracy": score}))
    (test,) = significance.tests(judged, samples=200)
    return test.rows[1].p

  chance = [p(0.0) for _ in range(150)]
  assert np.mean(np.asarray(chance) < 0.05) < 0.11  # 0.05, and two and a half deviations
  assert 0.4 < np.mean(chance) < 0.6
  assert all(p(0.3) < 0.02 for _ in range(5))


def test_a_bootstrap_of_the_same_outputs_has_p_1(tmp_path, capsys):
  cfg = resolve.load("configs/tag.py:small,data=nowhere")
  rows = [({"words": ["a", "b"], "tags": ["O", "B-x"]}, {"tags": ["O", t]}) for t in ("O", "B-x")]
  for name in "ab":
    write(tmp_path / name, cfg, outputs=rows)
  text = compared(capsys, tmp_path / "a", tmp_path / "b", "--samples", 50)
  assert rows_of(text, "accuracy")[1] == ["b", "75.00", "50.00 to 100.00", "+0.00", "1.0000"]
  assert rows_of(text, "f1")[1][3:] == ["+0.00", "1.0000"]


# Which outputs


def test_outputs_for_other_references_are_an_error(tmp_path):
  write(tmp_path / "a", outputs=translated(["x", "y"], ["x", "y"]))
  write(tmp_path / "b", outputs=translated(["x", "y"], ["x", "z"]))
  write(tmp_path / "c", outputs=translated(["x"], ["x"]))
  with pytest.raises(
    UserError, match=r"a and b have different references: example 2 has 'y' and 'z'"
  ):
    compare.main([str(tmp_path / "a"), str(tmp_path / "b")])
  with pytest.raises(UserError, match=r"a and c have different references: 2 and 1 examples"):
    compare.main([str(tmp_path / "a"), str(tmp_path / "c")])
  compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--split", "none"])


def test_references_are_compared_as_words_not_as_pieces(tmp_path, capsys):
  pieces = resolve.load("configs/multi30k.py:small,data=nowhere,form=wu2021")
  words = ConfigDict(pieces.to_dict())
  words.task.piece_marker = ""
  write(tmp_path / "a", pieces, outputs=translated(["ein hund"], ["ein hu@@ nd"]))
  write(tmp_path / "b", words, outputs=translated(["ein hund"], ["ein hund"]))
  assert rows_of(compared(capsys, tmp_path / "a", tmp_path / "b"), "bleu")[1][3] == "+0.00"


def test_the_newest_outputs_that_all_have_are_taken(tmp_path, capsys):
  for name in "ab":
    for at, (kind, text) in enumerate([("best-beam1", "x y z u"), ("best-beam4", "x y z w")]):
      outputs = translated([text], ["x y z w"])
      write(tmp_path / name, outputs=outputs, name=f"test-{kind}")
      os.utime(tmp_path / name / f"evaluations/test-{kind}.json", (at, at))
  write(tmp_path / "b", outputs=outputs, name="test-latest-beam4")
  a, b = tmp_path / "a", tmp_path / "b"
  text = compared(capsys, a, b)
  assert "Outputs: a as best-beam4 (step 30); b as best-beam4 (step 30)." in text
  assert rows_of(text, "exact_match")[0][1] == "100.00"
  text = compared(capsys, a, b, "--evaluation", "best-beam1")
  assert rows_of(text, "exact_match")[0][1] == "0.00"
  text = compared(capsys, a, b, "--evaluation", "latest-beam4")
  assert "a has no outputs of test named latest-beam4 (there are best-beam1, best-beam4)" in text
  assert "has no outputs, so nothing is tested" in text
  for file in (a / "evaluations").glob("*-best-beam*"):
    file.rename(file.with_name(file.name.replace("best", "average-2")))
  text = compared(capsys, a, b)
  assert "made in different ways**: a as average-2-beam4 (step 30); b as latest-beam4" in text


def test_a_bleu_of_two_tokenizers_is_told_and_made_with_the_firsts(tmp_path, capsys):
  other = ConfigDict(SCAN.to_dict())
  other.task.bleu_tokenizer = "13a"
  references = ["so it is, then, as it was."]
  write(tmp_path / "a", other, outputs=translated(["so it is , then , as it was."], references))
  write(tmp_path / "b", outputs=translated(["so it is , then , as it was."], references))
  text = compared(capsys, tmp_path / "a", tmp_path / "b")
  assert "b has its BLEU with tokenize=none, lowercase=False; here all have it with" in text
  assert rows_of(text, "bleu")[1][1] == "100.00"
  text = compared(capsys, tmp_path / "b", tmp_path / "a")
  assert float(rows_of(text, "bleu")[1][1]) < 50


def test_runs_of_other_tasks_share_what_they_share(tmp_path, capsys):
  lines = [line(10, "validation", 5, loss=1.0, bleu=3.0)]
  write(tmp_path / "a", lines=lines, outputs=translated(["x"], ["x"]))
  lines = [line(10, "validation", 5, loss=2.0, right=0.5)]
  write(tmp_path / "b", CLASSES, lines, outputs=classified([1]))
  write(tmp_path / "c", LM, lines)
  text = compared(capsys, *(tmp_path / name for name in "abc"))
  assert "The tasks differ (translation, classification, causal)." in text
  assert "metrics in common: loss." in text
  assert "b is scored as classes, a as texts: they share no score." in text
  assert "c has a loss and no score" in text
  assert "**bleu**" not in text


def test_classes_in_words_are_held_against_classes(tmp_path, capsys):
  typed = ConfigDict(SCAN.to_dict())
  typed.task.name, typed.task.kind = "text_to_text", "classes"
  write(tmp_path / "a", CLASSES, outputs=classified([1, 0]))
  write(tmp_path / "b", typed, outputs=translated(["1", "1"], ["1", "1"]))
  assert rows_of(compared(capsys, tmp_path / "a", tmp_path / "b"), "accuracy")[1][1] == "100.00"


def test_a_mixtures_parts_are_held_against_each_other(tmp_path, capsys):
  cfg = ConfigDict(resolve.load("configs/mixture.py:small,data=nowhere").to_dict())
  cfg.task.parts.more = cfg.task.parts.translation
  cfg.task.parts.more.bleu_tokenizer = "char"
  for name, predictions in (("a", "x y z w"), ("b", "x y z v")):
    write(tmp_path / name, cfg, outputs=translated([predictions], ["x y z w"]))
    more = {"source": "x", "target": "x y z v", "output": {"text": predictions}}
    file = tmp_path / name / "evaluations" / "more-test-best.jsonl"
    file.write_text(json.dumps(more) + "\n")
  text = compared(capsys, tmp_path / "a", tmp_path / "b")
  assert rows_of(text, "exact_match")[1][3] == "-100.00"
  assert rows_of(text, "more/exact_match")[1][3] == "+100.00"
  assert "tok:char" in text[text.index("**more/bleu**") :]


# What differs


def test_settings_that_differ_are_shown_and_no_others():
  a, b = ConfigDict(SCAN.to_dict()), ConfigDict(SCAN.to_dict())
  assert compare.differing_settings([a, b]) == []
  b.model.dim, b.task.decoding.beam, b.model.extra = 48, 2, "x"
  del a["ema"]
  del a.task.data["holdout"]
  del a.task.data["on_bad_record"]
  assert compare.differing_settings([a, b, b]) == [
    ("ema", "(absent: as 0.0)", "0.0", "0.0"),
    ("model.dim", "32", "48", "48"),
    ("model.extra", "(absent)", "'x'", "'x'"),
    ("task.data.holdout", "(absent)", "500", "500"),
    ("task.data.on_bad_record", "(absent: as 'error')", "'error'", "'error'"),
    ("task.decoding.beam", "1", "2", "2"),
  ]
  assert compare.differing_settings([ConfigDict({"a": 1}), ConfigDict({"a": 1.0})])  # not by ==


def test_what_run_json_says_differs(tmp_path, capsys):
  data = {"train": "b" * 64 + "[0%:90%]", "validation": "c" * 64}
  write(tmp_path / "a", starts=[start(data=data)])
  other = start(30, git=GIT | {"commit": "0" * 40, "dirty": True}, versions={"jax": "2"})
  other |= dict(devices=["cuda:0", "cuda:1"], left_out={"train": 3})
  other |= dict(data=data | {"train": "e" * 64 + "[0%:90%]"})
  write(tmp_path / "b", starts=[start(), other])
  write(tmp_path / "c")
  runs = trained.read([tmp_path / "a", tmp_path / "b"])
  told = compare.differing_facts(runs)
  assert [row[0] for row in told] == ["commit", "jax", "devices", "data, train", "left out"]
  assert told[0] == ("commit", "a" * 40, f"{'a' * 40}, then {'0' * 40} with changes")
  assert told[2] == ("devices", "1: cpu:0", "1: cpu:0, then 2: cuda:0")
  text = compared(capsys, tmp_path / "a", tmp_path / "b")
  assert f"| data, train | {'b' * 12}[0%:90%] | {'e' * 12}[0%:90%] |" in text
  assert "The data are not the same" in text
  text = compared(capsys, tmp_path / "a", tmp_path / "c")
  assert f"| data, train | {'b' * 12}[0%:90%] | (unknown) |" in text
  assert "The data are not the same" not in text
  assert "All settings are the same." in text
  assert "Code, packages, devices and data are the same." in compared(
    capsys, tmp_path / "c", write(tmp_path / "d")
  )


# What is counted


def test_seconds_leave_out_what_lies_between_starts(tmp_path):
  lines = [line(10, after=25), line(20, after=40), line(30, after=925), line(40, after=930)]
  write(tmp_path / "a", lines=lines, starts=[start(5), start(300), start(900)])
  write(tmp_path / "b")
  run, empty = trained.read([tmp_path / "a", tmp_path / "b"])
  assert run.seconds == [20, 35, 60, 65]
  assert empty.seconds == []
  (tmp_path / "a" / "run.json").unlink()  # then only what lies between lines is known
  assert trained.read([tmp_path / "a", tmp_path / "b"])[0].seconds == [0, 15, 900, 905]
  lines[2]["time"] = BEGAN - 3600  # a clock that was set back adds nothing
  write(tmp_path / "a", lines=lines, starts=[start(5)])
  assert trained.read([tmp_path / "a", tmp_path / "b"])[0].seconds == [20, 35, 35, 925]
  lines = [
    line(step, after=after) for step, after in ((1, -9), (2, 25), (3, 120), (4, 30), (5, 130))
  ]
  write(tmp_path / "a", lines=lines, starts=[start(5), start(100)])
  assert trained.read([tmp_path / "a", tmp_path / "b"])[0].seconds == [0, 20, 40, 40, 50]


def test_tokens_are_places_without_padding(tmp_path):
  lines = [line(10, after=1, padding_share=0.25), line(10, "validation", 2, loss=1.0)]
  lines += [line(20, after=5, padding_share=0.5), line(30, after=11, padding_share=0.1)]
  write(tmp_path / "a", lines=lines, starts=[start(0), start(10)])
  write(tmp_path / "b", CLASSES, lines[:1])
  run, other = trained.read([tmp_path / "a", tmp_path / "b"])
  places = SCAN.batch_size * SCAN.task.target_len
  # a start tells the share of all its batches; the second has its own
  assert run.tokens == [7.5 * places, 7.5 * places, 10 * places, 19 * places]
  assert other.tokens == [7.5 * CLASSES.batch_size * CLASSES.task.source_len]


def test_an_unfinished_run_is_marked_and_one_out_of_patience_is_not(tmp_path, capsys):
  cfg = ConfigDict(SCAN.to_dict())
  cfg.patience, cfg.checkpoint.best_metric, cfg.checkpoint.best_mode = 2, "bleu", "max"
  values = [line(step, "validation", step, bleu=bleu) for step, bleu in ((5, 3.0), (9, 2.0))]
  write(tmp_path / "done", lines=[line(30, loss=1.0)])
  write(tmp_path / "half", cfg, values)
  write(tmp_path / "early", cfg, [*values, line(20, "validation", 20, bleu=1.0)])
  write(tmp_path / "none")
  text = compared(capsys, *(tmp_path / name for name in ("done", "half", "early", "none")))
  (state,) = re.findall(r"^\| state .*$", text, re.MULTILINE)
  assert [cell.strip() for cell in state.split("|")[2:-1]] == [
    "finished",
    "**UNFINISHED: 9 of 30 steps**",
    "stopped early: 20 of 30 steps",
    "**UNFINISHED: 0 of 30 steps**",
  ]
  assert re.search(r"best bleu \(validation\) \|  \| 3 at step 5 \| 3 at step 5 \|  \|", text)


def test_the_best_is_the_lowest_or_the_highest_that_is_finite(tmp_path):
  losses = [(1, 3.0), (2, "nan"), (3, 1.0), (4, 1.0), (5, 2.0), (6, "-inf")]
  lines = [line(step, "validation", loss=loss) for step, loss in losses]
  for name, mode, best in (("a", "min", (1.0, 3)), ("b", "max", (3.0, 1))):
    cfg = ConfigDict(SCAN.to_dict())
    cfg.checkpoint.best_mode, cfg.checkpoint.best_metric = mode, "loss"
    run, _ = trained.read([write(tmp_path / name, cfg, lines), write(tmp_path / "other")])
    assert run.best == best


def test_scores_are_those_of_evaluations(tmp_path, capsys):
  predictions = dict(bleu=12.345, bleu_signature="x", classes={})
  write(tmp_path / "a", outputs=translated(["x"], ["x"]), **predictions)
  write(tmp_path / "b", outputs=translated(["x"], ["x"]), **predictions)
  write(tmp_path / "b", outputs=[], name="validation-best", split="validation", chrf=9.0)
  text = compared(capsys, tmp_path / "a", tmp_path / "b")
  assert "| test bleu (best) | 12.35 | 12.35 |" in text or "| 12.34 | 12.34 |" in text
  assert "signature (" not in text
  assert "chrf" not in text


def test_a_run_whose_folder_lacks_what_its_data_made_is_not_guessed(tmp_path, capsys):
  text = compared(capsys, write(tmp_path / "a"), write(tmp_path / "b"))
  assert "Parameters and FLOPs of a are unknown: its folder lacks tokenizer.json." in text
  assert "| parameters" not in text


# Mistakes


def test_mistakes_are_told(tmp_path):
  a, b = write(tmp_path / "a"), write(tmp_path / "b")
  (tmp_path / "link").symlink_to(a)
  for args, told in (
    ([a], "1 run to compare"),
    ([a, b, tmp_path / "link"], r"link is given twice \(first as .*a\)"),
    ([a, tmp_path], "holds no run"),
    ([a, tmp_path / "c"], "c: no such folder$"),
    ([a, b, "--samples", "0"], "--samples 0"),
    ([a, ""], "'' cannot name a folder"),
    ([a, b, "--out="], "'' cannot name a folder"),
    ([a, b, "--x", "tokens"], "--x is of the curves.*give --out DIR"),
    ([a, b, "--x", "hours"], "--x is 'hours'; known: step, tokens, seconds"),
    ([a, b, "--out", a / "config.json"], "can't be written"),
  ):
    with pytest.raises(UserError, match=told):
      compare.main([str(arg) for arg in args])
  (b / "run.json").write_text(json.dumps(dict(starts=[start() | {"time": "noon"}])))
  with pytest.raises(UserError, match=r"run\.json: times that can't be read"):
    compare.main([str(a), str(b)])
  write(b, outputs=[({"source": "x"}, {"text": "x"})])
  write(a, outputs=translated(["x"], ["x"]))
  with pytest.raises(UserError, match="b: its outputs are not as"):
    compare.main([str(a), str(b)])
  (b / "evaluations/test-best.jsonl").write_text('{"a": 1}\n{')
  with pytest.raises(UserError, match=r"test-best\.jsonl line 2 is not JSON"):
    compare.main([str(a), str(b)])


def test_losses_of_other_vocabularies_have_other_axes(tmp_path, capsys, monkeypatch):
  lines = [line(10, "validation", loss=3.0, perplexity=20.0, bits_per_byte=1.0)]
  for name, tokenizer in dict(a="{}", b="{}", c="[]").items():
    write(tmp_path / name, LM, lines)
    (tmp_path / name / "tokenizer.json").write_text(tokenizer)
  seen, panel = [], curves._panel
  monkeypatch.setattr(
    curves, "_panel", lambda axes, *rest: seen.append((axes, *rest[1:3])) or panel(axes, *rest)
  )
  folders = [tmp_path / name for name in "abc"]
  text = compared(capsys, *folders, "--split", "none", "--out", tmp_path / "out")
  assert "vocabularies differ" in text
  drawn = {(name, *group) for _, group, name in seen}
  assert drawn == {
    *(("loss", "a", "b"), ("loss", "c"), ("perplexity", "a", "b"), ("perplexity", "c")),
    ("bits_per_byte", "a", "b", "c"),
  }
  titles = [axes.get_title(loc="left") for axes, *_ in seen]
  assert {"loss of a, b", "perplexity of c", "bits per byte"} < set(titles)
  (tmp_path / "c" / "tokenizer.json").write_text("{}")
  assert "vocabularies differ" not in compared(capsys, *folders, "--split", "none")


def test_no_text_of_a_run_is_html(tmp_path, capsys):
  folder = tmp_path / "<script>x"
  text = compared(
    capsys,
    write(folder, starts=[start(devices=["<script>d"])]),
    write(tmp_path / "b"),
    *("--out", tmp_path / "out"),
  )
  assert text.startswith("# &lt;script>x and b")
  assert not blocks._has_html((tmp_path / "out/compare.md").read_text())


def test_names_are_as_short_as_tells_them_apart(tmp_path):
  for folder in ("x", "y"):
    (tmp_path / folder).mkdir()
  paths = [write(tmp_path / name) for name in ("x/run", "y/run")]
  assert [run.name for run in trained.read(paths)] == ["x/run", "y/run"]
  assert [run.name for run in trained.read([paths[0], write(tmp_path / "z")])] == ["run", "z"]


# Two that were trained


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
  """A trained run, and its copy with another seed."""
  folder = tmp_path_factory.mktemp("runs")
  changes = ["steps=10", "log_every=5", "schedule.warmup_steps=2", "loggers=()"]
  changes += ["task.data.holdout=20", "task.decoding.max_len_extra=4", "evaluate.decode_every=0"]
  changes += ["evaluate.every=5", "checkpoint.every=5"]
  cfg = resolve.load("configs/scan.py:small", changes)
  with open_run(folder / "a", cfg, ["python"], ["cpu:0"]) as run:
    loop.train(cfg, run)
  shutil.copytree(folder / "a", folder / "b")
  other = resolve.load("configs/scan.py:small", [*changes, "seed=1"])
  (folder / "b" / "config.json").write_text(config_json(other))
  return folder


@pytest.mark.slow
def test_two_runs_side_by_side(two_runs, tmp_path, capsys):
  runs = [two_runs / "a", two_runs / "b"]
  before = sorted((file, file.stat().st_mtime_ns) for file in two_runs.rglob("*"))
  text = compared(capsys, *runs, "--split", "validation", "--out", tmp_path / "new/out")
  assert sorted((file, file.stat().st_mtime_ns) for file in two_runs.rglob("*")) == before
  assert "| seed | `0` | `1` |" in text
  assert text.count("UNFINISHED") == 0
  assert (tmp_path / "new/out/compare.png").read_bytes().startswith(b"\x89PNG")
  written = (tmp_path / "new/out/compare.md").read_text()
  assert written.startswith(text.rstrip("\n"))
  assert written.endswith("(compare.png)\n")
  # the commands that it names make what is missing
  commands = re.findall(r"this makes them: `python -m train.evaluate (.*)`", text)
  assert len(commands) == 2
  for command in commands:
    evaluate.main(shlex.split(command))
  capsys.readouterr()
  text = compared(capsys, *runs, "--split", "validation")
  for run, row in zip(runs, rows_of(text, "bleu"), strict=True):
    results = json.loads((run / "results.json").read_text())
    assert row[1] == f"{results['bleu']:.2f}"
  assert "no outputs" not in text


@pytest.mark.slow
def test_parameters_and_flops_are_the_trained_models(two_runs):
  run = trained.read([two_runs / "a", two_runs / "b"])[0]
  parameters, flops = cost.cost(run)
  with Checkpoints(two_runs / "a") as checkpoints:
    weights = checkpoints.params("latest")
  assert parameters == sum(x.size for x in jax.tree.leaves(weights))
  cfg = load_config(two_runs / "a")
  B, S, T, D, F = *(cfg.batch_size, cfg.task.source_len, cfg.task.target_len), 32, 64
  words = weights["embedding"]["embedding"].shape[0]
  products = 4 * D * D * S + 2 * D * F * S + 2 * S * S * D  # the encoder's layer
  products += 4 * D * D * T + 2 * D * F * T + 2 * T * T * D  # the decoder's, without its source
  products += 2 * D * D * T + 2 * D * D * S + 2 * T * S * D  # and that
  products += T * D * words
  assert flops == 3 * 2 * B * products


def test_an_older_runs_model_is_built_as_it_goes(two_runs, tmp_path):
  cfg = load_config(two_runs / "a").to_dict()
  assert cfg["model"].pop("name") == "transformer"
  older = ConfigDict({key: x for key, x in cfg.items() if key not in ADDED})
  write(tmp_path / "older", older)
  (tmp_path / "older" / "tokenizer.json").write_text((two_runs / "a/tokenizer.json").read_text())
  newer, old = trained.read([two_runs / "a", tmp_path / "older"])
  assert cost.cost(old) == cost.cost(newer)


def test_an_lstm_has_its_parameters_and_flops(two_runs, tmp_path):
  cfg = resolve.load("configs/scan.py:small,model=lstm", ["task.data.holdout=20"])
  write(tmp_path / "lstm", cfg)
  (tmp_path / "lstm" / "tokenizer.json").write_text((two_runs / "a/tokenizer.json").read_text())
  parameters, flops = cost.cost(trained.read([two_runs / "a", tmp_path / "lstm"])[1])
  model = build_model(cfg.model, pretrained.build_task(cfg.task, tmp_path / "lstm"), seed=0)
  assert parameters == sum(x.size for x in jax.tree.leaves(nnx.state(model)))
  logits = cfg.batch_size * cfg.task.target_len * model.embedding.embedding[...].size
  assert flops > 3 * 2 * logits


def test_a_label_more_is_a_row_more_of_the_head(two_runs, tmp_path):
  tagger = ConfigDict(resolve.load("configs/tag.py:small,data=nowhere").to_dict())
  predictions = {}
  for labels in (["NUM"], ["NUM", "LOC", "HUM"]):
    folder = write(tmp_path / f"classes{len(labels)}", CLASSES)
    (folder / "labels.json").write_text(json.dumps(labels))
    tagger.task.labels = ("NOUN", "VERB", *labels)
    write(tmp_path / f"tags{len(labels)}", tagger)
  for folder in tmp_path.iterdir():
    (folder / "tokenizer.json").write_text((two_runs / "a/tokenizer.json").read_text())
  for run in trained.read(sorted(tmp_path.iterdir())):
    predictions[run.name] = cost.cost(run)[0]
  assert predictions["classes3"] - predictions["classes1"] == 2 * (CLASSES.model.dim + 1)
  assert predictions["tags3"] - predictions["tags1"] == 2 * (tagger.model.dim + 1)
