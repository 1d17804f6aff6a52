"""Predicting and evaluating with a run of every kind of task, as a person does."""

import copy
import dataclasses
import functools
import json
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common, sections
from tests.train.tasks.helpers import BOTH, DECODER, ENCODER, MASKS, MODEL, NOUNS, WORDS
from train import evaluate, evaluation, inference, predict, resolve, tasks
from train.build import build_model
from train.checkpoint import Checkpoints
from train.common.errors import UserError
from train.data import batches
from train.data.batches import eval_batches
from train.data.roles import BOS
from train.data.tokenizer import MASK
from train.record import workdir
from train.scoring import classes, colour
from train.tasks import defaults
from train.tasks.text_to_text import TextToText

RNG = random.Random(1)
LINES = [RNG.choices(WORDS, k=3 + i % 4) for i in range(40)]
SPLITS = dict(train=LINES[:30], test=LINES[30:])
LOAD = predict.load  # tests put one in its place that has compiled before
SHORT = dict(beam=1, length_penalty=0.0, temperature=0.0, max_len_ratio=0.0, max_len_extra=5)
LANGUAGE = dict(target_len=24, cross_documents=False, decoding=SHORT, tokenizer=dict(name="word"))
LANGUAGE = defaults("causal") | LANGUAGE


def label(words, split):
  known = "dog" if "dog" in words else "cat" if "cat" in words else "none"
  return "odd" if split == "test" and "two" in words else known


def write(folder):
  """Writes the files of all kinds."""
  for split, lines in SPLITS.items():
    texts = [" ".join(words) for words in lines]
    (folder / f"{split}.txt").write_text("\n\n".join(texts))
    rows = [f"{text}\t{label(words, split)}\n" for text, words in zip(texts, lines)]
    (folder / f"{split}.tsv").write_text("".join(rows))
    rows = [f"{text}\t{len(text) / 30}\n" for text in texts]
    (folder / f"{split}_numbers.tsv").write_text("".join(rows))
    rows = [
      f"{text}\t{','.join(sorted({*words} & {*NOUNS}))}\n" for text, words in zip(texts, lines)
    ]
    (folder / f"{split}_sets.tsv").write_text("".join(rows))
    rows = [f"{text}\t{len(text) / 30}\t{text.count('a')}\n" for text in texts]
    (folder / f"{split}_vectors.tsv").write_text("text\tsize\tletters\n" + "".join(rows))
    rows = [f"{text}\t{text.upper()}\n" for text in texts]
    (folder / f"{split}_upper.tsv").write_text("".join(rows))
    names = {"dog": "B-PET", "cat": "B-PET", "house": "B-LOC", "green": "I-LOC"}
    rows = ["".join(f"{word}\t{names.get(word, 'O')}\n" for word in words) for words in lines]
    (folder / f"{split}.conll").write_text("\n".join(rows))
    paragraphs = []
    for number, text in enumerate(texts):
      answers = [{"text": text.split()[0], "answer_start": 0}] if number % 3 else []
      ask = {"id": f"{split}{number}", "question": "the dog", "answers": answers}
      paragraphs.append({"context": text, "qas": [ask | {"is_impossible": not answers}]})
    squad = {"data": [{"paragraphs": paragraphs}]}
    (folder / f"{split}.json").write_text(json.dumps(squad))


def data(folder, ending, only=tuple(SPLITS), **more):
  return dict(splits={split: f"{folder}/{split}{ending}" for split in only}, **more)


def prose(folder):
  return data(folder, ".txt", name="text", unit="paragraph")


def table(folder, ending, columns):
  return data(folder, ending, name="files", columns=columns)


def mixed(folder):
  part = dict(
    name="translation",
    data=table(folder, "_upper.tsv", ("source", "target")),
    share=1.0,
    label_smoothing=0.0,  # parts share their loss
    decoding=SHORT | dict(max_len_ratio=1.0),
  )
  text = data(folder, ".txt", ("train",), name="text", unit="paragraph")
  spans = dict(name="span", data=text, share=1.0, length=16)
  parts = dict(translation=part, spans=spans)
  return dict(
    name="mixture", main="translation", parts=parts, source_len=24, target_len=24, pack=True
  )


TARGETS = {"text": "text", "label_0": "size", "label_1": "letters"}

# kind -> (the task, what differs in the model, inputs)
TEXTS = ["the dog runs", "a red cat", "two", "the green house sees a man"]
MASKED = ["the [MASK] runs", "<mask> red [MASK]", "a <mask>"]
QUESTIONS = [f"the dog\t{text}" for text in TEXTS]
KINDS = {
  "mlm": (
    lambda f: defaults("mlm") | dict(data=prose(f), source_len=24, rate=0.3),
    ENCODER,
    MASKED,
  ),
  "causal": (lambda f: LANGUAGE | dict(data=prose(f)), DECODER, TEXTS),
  # of one layer the keys would be the same if the prompt was not seen whole
  "prefix": (
    lambda f: LANGUAGE | dict(data=prose(f), prefix=True),
    DECODER | dict(decoder_layers=2),
    TEXTS,
  ),
  "span": (
    lambda f: (
      defaults("span")
      | dict(data=prose(f), length=16, source_len=24, target_len=24, decoding=SHORT)
    ),
    BOTH,
    ["the <extra_0> runs", "a <extra_0> cat <extra_1>"],
  ),
  "classes": (
    lambda f: (
      defaults("classification")
      | dict(data=table(f, ".tsv", ("text", "label")), source_len=12, stride=4)
    ),
    ENCODER,
    [*TEXTS, " ".join(LINES[3] * 4)],
  ),
  "pairs": (
    lambda f: (
      defaults("classification")
      | dict(
        data=table(f, "_upper.tsv", ("text", "text_pair")),
        fields=("text", "text_pair"),
        labels=("no", "yes"),
        source_len=40,
      )
    ),
    ENCODER,
    [f"{text}\tthe dog" for text in TEXTS],
  ),
  "numbers": (
    lambda f: (
      defaults("classification")
      | dict(data=table(f, "_numbers.tsv", ("text", "label")), source_len=24, regression=True)
    ),
    ENCODER,
    TEXTS,
  ),
  "label sets": (
    lambda f: (
      defaults("multi_label")
      | dict(data=table(f, "_sets.tsv", ("text", "labels")), source_len=12, stride=4)
    ),
    ENCODER,
    TEXTS,
  ),
  "vectors": (
    lambda f: (
      defaults("numbers")
      | dict(data=table(f, "_vectors.tsv", TARGETS), source_len=24, targets=("size", "letters"))
    ),
    ENCODER,
    TEXTS,
  ),
  "tags": (
    lambda f: (
      defaults("tagging") | dict(data=data(f, ".conll", name="conll"), source_len=10, stride=4)
    ),
    ENCODER,
    [*TEXTS, " ".join(LINES[3] * 4)],
  ),
  "qa": (
    lambda f: defaults("qa") | dict(data=data(f, ".json", name="squad"), source_len=14, stride=4),
    ENCODER,
    [*QUESTIONS, "the dog\t" + " ".join(LINES[3] * 4)],
  ),
  "mixture": (mixed, BOTH, TEXTS),
}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
  """Returns a function of a kind that makes its run's folder: a config, and weights that are not
  alike anywhere."""
  folder, runs = tmp_path_factory.mktemp("data"), {}
  write(folder)

  def of(kind):
    if kind in runs:
      return runs[kind]
    path, (task, model, _) = folder / kind, KINDS[kind]
    section = common.run(
      steps=1,
      batch_size=8,
      log_every=1,
      task=task(folder) | (dict(tokenizer=MASKS) if model["encoder_layers"] else {}),
      model=MODEL | model,
      optimizer=sections.ADAMW,
      schedule=dict(name="linear", peak=1e-3, warmup_steps=0, final=0.0),
      evaluate=dict(split="test", every=1, decode_every=0, decode_examples=0),
      checkpoint=dict(every=1),
    )
    cfg = resolve.complete(section)
    with workdir.open_run(path, cfg, ["test"]):
      built = tasks.build(cfg.task, path)
      params = nnx.to_pure_dict(nnx.state(build_model(cfg.model, built, seed=0)))
      params = jax.tree.map(
        lambda x: x + 0.3 * jnp.sin(jnp.arange(x.size) ** 1.5).reshape(x.shape), params
      )
      with Checkpoints(path, keep_latest=1) as checkpoints:
        position = type("", (), {"get_state": lambda self: {"position": 1, "carried": []}})()
        checkpoints.save(dict(step=jnp.int32(1), params=params, opt_state=()), position, {})
    runs[kind] = path
    return path

  return of


@pytest.fixture(scope="module")
def loaded(make):
  """Returns a function of a kind that loads its predictor."""
  predictors = {}

  def of(kind):
    if kind not in predictors:
      predictors[kind] = LOAD(make(kind))
    return predictors[kind]

  return of


def change_settings(predictor, **changes):
  """Returns the predictor with other settings, and the step that is compiled already."""
  other = copy.copy(predictor)
  other.settings = predictor.run.task.settings(**changes)
  return other


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"mixture", "numbers"}))
def test_an_output_does_not_depend_on_the_batch_and_order_is_kept(kind, loaded):
  predictor, inputs = loaded(kind), KINDS[kind][2]
  together = predictor(inputs)
  assert len({json.dumps(output) for output in together}) > 1  # else order shows nothing
  assert predictor(inputs[::-1])[::-1] == together
  for text, output in zip(inputs, together):
    assert json.loads(json.dumps(output)) == predictor([text])[0] == output
  assert predictor([]) == []


@pytest.mark.parametrize("kind", ["causal", "prefix", "span"])
def test_outputs_of_rows_that_take_request_after_request_are_those_of_one(kind, make):
  """A batch of two rows has up to 32 requests of each, of any lengths."""
  inputs = [" ".join(KINDS[kind][2][:i]) for i in (1, 2, 3, 1, 2)] + KINDS[kind][2]
  at_a_time = inference.load(make(kind), batch_size=2)
  requests = at_a_time.run.task.requests([at_a_time.run.task.example(text) for text in inputs])
  batches_of = batches.requests(requests, 2, 24, at_a_time.run.task.search_tokens)
  assert max(batch["row"].shape[1] for batch in batches_of) > 1
  together = at_a_time(inputs)
  assert [at_a_time([text])[0] for text in inputs] == together


READ = {  # kind -> an output, as it is to be read without and with --scores
  "mlm": lambda x: [_masks(x)] * 2,
  "classes": lambda x: [_labels(x, 1), _labels(x, 9)],
  "numbers": lambda x: [f"{x['value']:.4f}"],
  "tags": lambda x: [
    " ".join(f"{word}/{tag}" for word, tag in zip(x["words"], x["tags"])),
    " ".join(f"{w}/{t}/{p:.2f}" for w, t, p in zip(x["words"], x["tags"], x["probs"])),
  ],
  "qa": lambda x: [x["text"], f"{x['score']:.4f}\t{x['start']}-{x['end']}\t{x['text']}"],
  "causal": lambda x: [x["text"], f"{x['score']:.4f}\t{x['text']}"],
}


def _masks(x):
  rows = [
    f"  <mask> {i + 1}: " + ", ".join(f"{y['word']} {y['prob']:.4f}" for y in words)
    for i, words in enumerate(x["masks"])
  ]
  return "\n".join([x["text"], *rows])


def _labels(x, most):
  best = sorted(x["probs"], key=x["probs"].get, reverse=True)[:most]
  return "\t".join(f"{name}\t{x['probs'][name]:.4f}" for name in best)


@pytest.mark.parametrize("kind", READ)
def test_predict_prints_what_the_outputs_say(kind, make, loaded, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(predict, "load", lambda *_, **__: loaded(kind))
  outputs, where = loaded(kind)(KINDS[kind][2]), ["--workdir", str(make(kind))]
  (tmp_path / "inputs").write_text("".join(text + "\n" for text in KINDS[kind][2]))
  for more, expected in zip(([], ["--scores"]), zip(*(READ[kind](output) for output in outputs))):
    predict.main([*where, "--input", str(tmp_path / "inputs"), *more])
    assert capsys.readouterr().out == "".join(text + "\n" for text in expected)
  predict.main([*where, "--jsonl", *KINDS[kind][2]])
  assert list(map(json.loads, capsys.readouterr().out.splitlines())) == outputs


def test_words_for_a_mask_have_the_probabilities_of_the_model(loaded):
  predictor, tokenizer = loaded("mlm"), loaded("mlm").run.task.tokenizer

  @jax.jit
  def forward(params, row_BS):
    model = nnx.merge(predictor.run.graph, params)
    return jax.nn.softmax(model.logits(model.head(model.encode(row_BS))))

  for text, output in zip(MASKED, predictor(MASKED)):
    words = text.replace("[MASK]", MASK).split()
    ids = [BOS, *(tokenizer.specials.get(w) or tokenizer.encode_batch([w])[0][0] for w in words)]
    row_BS = np.asarray([[*ids, tokenizer.roles.eos, *[0] * (9 - len(ids))]])
    probs_SV, first = forward(predictor.run.params, row_BS)[0], int(tokenizer.words[0])
    places = [place for place, word in enumerate(words, 1) if word == MASK]
    assert len(output["masks"]) == len(places)
    for place, predictions in zip(places, output["masks"]):
      best = (first + np.argsort(-probs_SV[place, first:])[:5]).tolist()
      assert [x["word"] for x in predictions] == [tokenizer.decode([i]) for i in best]
      probs = [x["prob"] for x in predictions]
      np.testing.assert_allclose(probs, probs_SV[place, best], rtol=1e-4)
      words[place - 1] = predictions[0]["word"]
    assert output["text"] == " ".join(words)


@pytest.fixture(scope="module")
def parallel(loaded):
  """Returns a function of a kind, ids, and the prompt's length that computes the log-probabilities
  [T, V] after each token, all at once."""

  @functools.partial(jax.jit, static_argnums=0)
  def forward(kind, params, row_BT, prefix_BT):
    run = loaded(kind).run
    model, prefix_BT = nnx.merge(run.graph, params), prefix_BT if run.task.prefix else None
    return jax.nn.log_softmax(model.logits(model.decode(row_BT, prefix=prefix_BT)))

  def of(kind, ids, prompt_length):
    row_BT = np.zeros((1, 24), np.int32)
    row_BT[0, : len(ids)] = ids
    prefix_BT = (np.arange(24)[None] < prompt_length).astype(np.int32)
    log_BTV = forward(kind, loaded(kind).run.params, row_BT, prefix_BT)
    return np.array(log_BTV[0, : len(ids)])

  return of


def decoded_ids(predictor, text, output):
  """Returns a prompt's ids and those that an output adds, eos included."""
  tokenizer = predictor.run.task.tokenizer
  before, after = tokenizer.encode_batch([text, output["text"][len(text) :]])
  assert output["text"].startswith(text)
  return [BOS, *before], [*after, tokenizer.roles.eos]


@pytest.mark.parametrize("kind", ["causal", "prefix"])
def test_greedy_goes_on_by_the_likeliest_word_of_the_parallel_model(kind, loaded, parallel):
  predictor = loaded(kind)
  texts = TEXTS[:3]
  for text, output in zip(texts, predictor(texts)):
    (ids,) = predictor.run.task.tokenizer.encode_batch([text])
    row, score, length = [BOS, *ids], 0.0, len(ids) + 1
    for left in reversed(range(SHORT["max_len_extra"])):
      log_V = parallel(kind, row, length)[-1]
      log_V[[0, BOS]] = -np.inf
      row.append(int(log_V.argmax()) if left else predictor.run.task.tokenizer.roles.eos)
      score += log_V[row[-1]]
      if row[-1] == predictor.run.task.tokenizer.roles.eos:
        break
    assert output["text"] == predictor.run.task.tokenizer.decode(row)
    assert output["score"] == pytest.approx(score, rel=1e-4)


@pytest.mark.parametrize("kind", ["causal", "prefix"])
def test_beams_score_as_the_parallel_model_and_better_than_greedy(kind, loaded, parallel):
  beams, greedy = change_settings(loaded(kind), beam=3, nbest=3), loaded(kind)
  compared = 0
  for text, output, by_greedy in zip(TEXTS, beams(TEXTS), greedy(TEXTS)):
    scores = [x["score"] for x in output["nbest"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] >= by_greedy["score"] - 1e-4
    for x in output["nbest"]:
      if "<unk>" not in x["text"]:  # which reads as another text than it was
        before, after = decoded_ids(beams, text, x)
        log_TV = parallel(kind, before + after[:-1], len(before))[len(before) - 1 :]
        total = sum(log[i] for log, i in zip(log_TV, after))
        assert x["score"] == pytest.approx(total, rel=1e-4)
        compared += 1
  assert compared > 3


def test_a_long_text_has_the_mean_of_its_windows_logits(loaded):
  predictor = loaded("classes")
  text = KINDS["classes"][2][-1]
  words, task = text.split(), predictor.run.task
  length = task.source_len - 2
  starts = range(0, len(words) - length + task.stride, task.stride)
  windows = predictor([" ".join(words[start : start + length]) for start in starts])
  assert len(windows) > 2
  logs = np.mean([[np.log(x["probs"][name]) for name in task.labels] for x in windows], 0)
  probs = np.exp(logs) / np.exp(logs).sum()
  actual = predictor([text])[0]["probs"]
  np.testing.assert_allclose([actual[name] for name in task.labels], probs, rtol=1e-4)


@pytest.mark.parametrize("kind", ["classes", "tags", "qa"])
def test_one_window_that_covers_a_text_is_the_text_without_windows(kind, loaded):
  predictor = loaded(kind)
  whole = copy.copy(predictor)
  whole.run = dataclasses.replace(
    predictor.run, task=dataclasses.replace(predictor.run.task, stride=0)
  )
  *short, long = KINDS[kind][2]
  assert whole(short) == predictor(short)
  assert whole([long]) != predictor([long])


def test_every_word_has_a_tag_also_one_without_tokens(loaded):
  predictor = loaded("tags")
  words = ["the", "", "dog", "runs"]
  gapped, plain = predictor([{"words": words}, {"words": ["the", "dog", "runs"]}])
  assert len(gapped["tags"]) == len(gapped["probs"]) == len(words)
  assert (gapped["tags"].pop(1), gapped["probs"].pop(1)) == ("O", 0.0)
  assert (gapped["tags"], gapped["probs"]) == (plain["tags"], plain["probs"])
  for text, output in zip(KINDS["tags"][2], predictor(KINDS["tags"][2])):
    assert len(output["tags"]) == len(text.split())


def test_tags_are_coloured_on_a_terminal_unless_no_color_is_set(make, loaded, capsys, monkeypatch):
  monkeypatch.setattr(predict, "load", lambda *_, **__: loaded("tags"))
  monkeypatch.setenv("TERM", "xterm-256color")
  printed = {}
  for name, values in dict(plain={}, colour={"FORCE_COLOR": "1"}, no={"NO_COLOR": "1"}).items():
    for key, value in values.items():
      monkeypatch.setenv(key, value)
    predict.main(["--workdir", str(make("tags")), *TEXTS])
    printed[name] = capsys.readouterr().out
  assert "\x1b[" not in printed["plain"] == printed["no"]  # FORCE_COLOR is still set in the last
  assert "\x1b[" in printed["colour"]


def test_an_entity_is_painted_whole_with_its_kind_behind():
  output = dict(
    words=["Ada", "Byron", "saw", "Rome", "Bern"],
    tags=["B-PER", "I-PER", "O", "B-LOC", "B-LOC"],
    probs=[0.9, 0.5, 1.0, 0.8, 0.7],
  )
  painted = colour.colour_tags(output, ("B-LOC", "B-PER", "I-PER", "O"), scores=True)
  assert (
    re.sub(r"\x1b\[[\d;]*m", "", painted) == "Ada Byron PER 0.50 saw Rome LOC 0.80 Bern LOC 0.70"
  )
  assert re.search(r"\x1b\[[\d;]*mAda Byron\x1b\[0m", painted)
  colours = re.findall(r"\x1b\[1;(\d+)m", painted)
  assert colours[0] != colours[1] == colours[2]
  single = colour.colour_tags(output | dict(tags=["X"] * 5), ("X", "Y"), scores=False)
  assert re.sub(r"\x1b\[[\d;]*m", "", single) == "Ada/X Byron/X saw/X Rome/X Bern/X"


def test_an_answer_is_the_text_between_its_characters(loaded):
  predictor = change_settings(loaded("qa"), nbest=4)
  contexts = [text.split("\t")[1] for text in KINDS["qa"][2]]
  for context, output in zip(contexts, predictor(KINDS["qa"][2])):
    assert len(output["nbest"]) <= 4
    assert output["nbest"][0].items() <= output.items()
    for answer in output["nbest"]:
      assert answer["text"] == context[answer["start"] : answer["end"]] != ""
    assert [x["score"] for x in output["nbest"]] == sorted(
      (x["score"] for x in output["nbest"]), reverse=True
    )


def test_no_answer_is_given_if_it_wins_by_the_threshold(loaded):
  never = change_settings(loaded("qa"), no_answer=True, threshold=1e9, nbest=20)(QUESTIONS)
  always = change_settings(loaded("qa"), no_answer=True, threshold=-1e9)(QUESTIONS)
  task = loaded("qa").run.task
  for answer, none in zip(never, always):
    assert answer["text"]
    assert "" in [x["text"] for x in answer["nbest"]]
    assert none["text"] == ""
    assert task.render(none, scores=False, colour=False) == "(no answer)"


def test_a_test_file_without_answers_is_predicted_but_not_evaluated(loaded, tmp_path):
  asked = [{"id": 1, "question": "the dog"}, {"question": "a cat"}]
  squad = {"data": [{"paragraphs": [{"context": "the dog runs", "qas": asked}]}]}
  (tmp_path / "a.json").write_text(json.dumps(squad))
  predictor = loaded("qa")
  data = dict(name="squad", splits=dict(test=str(tmp_path / "a.json")))
  task = dataclasses.replace(predictor.run.task, data=data)
  examples = list(task.examples("test"))
  outputs = predictor(examples)
  assert outputs == predictor(["the dog\tthe dog runs", "a cat\tthe dog runs"])
  for score in (lambda: task.items("test"), lambda: task.score(outputs, examples)):
    with pytest.raises(UserError, match=r"no references: 2 of 2 questions .*train\.predict"):
      score()


def test_answers_without_a_place_count_in_scores_and_not_in_the_loss(loaded, tmp_path):
  task, context = loaded("qa").run.task, "the dog saw the dog"

  def changed(*starts):
    qas = [
      {"id": f"{i}", "question": "what", "answers": [{"text": "dog", "answer_start": start}]}
      for i, start in enumerate(starts)
    ]
    path = tmp_path / f"{len(starts)}.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}))
    data = dict(name="squad", splits=dict(train=str(path), test=str(path)))
    return dataclasses.replace(task, data=data)

  three, two = changed(4, 16, 0), changed(4, 16)  # no dog begins at 0, and there are two
  assert [len(three.examples(split)) for split in ("train", "test")] == [2, 3]
  outputs = [{"text": "dog"}, {"text": "saw"}, {"text": "dog"}]
  scored = three.score(outputs, list(three.examples("test")))
  assert scored["exact_match"] == pytest.approx(200 / 3)
  weights = [
    sum(batch["weights"].sum() for batch in eval_batches(x.items("test"), tasks.layout(x, 8)))
    for x in (three, two)
  ]
  assert weights[0] == weights[1] > 0


def test_samples_follow_temperature_and_beams_take_its_place(loaded):
  predictor = change_settings(loaded("causal"), temperature=1.0, nbest=3, top_p=0.9, seed=1)
  assert len(predictor(TEXTS[:1])[0]["nbest"]) == 3
  sampled = dataclasses.replace(predictor.run.task, decoding=SHORT | dict(temperature=0.8))
  assert sampled.settings(beam=3).temperature == 0


@pytest.mark.parametrize(
  "kind, arguments, message",
  [
    ("classes", ["--beam", "2", "x"], "--beam: a Classification"),
    ("tags", ["--temperature", "1", "x"], "--temperature: a Tagging"),
    ("qa", ["--top_k", "2", "a\tb"], "--top_k: a Qa"),
    ("qa", ["--nbest", "99", "a\tb"], "at most 20"),
    ("mlm", ["--nbest", "2", "a <mask>"], "--nbest: a Mlm"),
    ("mlm", ["--top_k", "9999", "a <mask>"], "the vocabulary has"),
    ("causal", ["--top_p", "0.5", "x"], "--top_p has no effect"),
    ("causal", ["--temperature", "1", "--beam", "3", "x"], "samples (temperature above 0): leave"),
    ("causal", ["--beam", "1", "--length_penalty", "1", "x"], "--length_penalty has no effect"),
    ("causal", ["--beam", "1", "--stop", "full", "x"], "greedy (one beam): set --beam 2"),
    ("causal", ["--beam", "2", "--nbest", "5", "x"], "set beam to 5 or more"),
    ("causal", ["--beam", "2", "--length_penalty", "nan", "x"], "--length_penalty is nan"),
    ("causal", ["--beam", "2", "--length_penalty", "1e9", "x"], "at most 10"),
    ("causal", ["--beam", "100000", "x"], "--beam is 100000"),
    ("causal", ["--temperature", "inf", "x"], "--temperature is inf"),
    ("causal", ["--temperature", "1e-45", "x"], "temperature is 1e-45"),
    ("causal", ["--temperature", "1", "--seed", "99999999999", "x"], "--seed is 99999999999"),
    ("causal", ["--max_len_ratio", "nan", "x"], "--max_len_ratio is nan"),
    ("causal", ["--max_len_ratio", "-5", "x"], "--max_len_ratio is -5"),
    ("causal", ["--max_len_ratio", "0", "--max_len_extra", "0", "x"], "would have a token"),
    ("causal", ["--max_len_extra", "-100", "x"], "--max_len_extra is -100"),
    ("causal", ["--max_len_extra", "999999999", "x"], "--max_len_extra is 999999999"),
    ("qa", ["--threshold", "1", "a\tb"], "--threshold has no effect"),
    ("qa", ["--no_answer", "--threshold", "nan", "a\tb"], "--threshold is nan"),
    ("mlm", ["a <mask>", "no mask"], "text 2: 'no mask': write <mask>"),
    ("mlm", ["<mask>" + " a" * 30], "source_len=24"),
    ("pairs", ["one"], "a tab between"),
    ("qa", ["one"], "a tab"),
    ("numbers", ["--scores", "a"], "--scores"),
  ],
)
def test_what_a_task_has_no_use_for_is_refused(kind, arguments, message, make, loaded, monkeypatch):
  monkeypatch.setattr(
    predict,
    "load",
    lambda *_, pair, batch_size, **changes: change_settings(loaded(kind), **changes),
  )
  with pytest.raises(UserError) as error:
    predict.main(["--workdir", str(make(kind)), *arguments])
  assert message in str(error.value)


@pytest.mark.parametrize(
  "kind, value, message",
  [
    ("causal", 3, "3 is no input"),
    ("causal", dict(source="a"), "has no 'text'"),
    ("pairs", ("a", 3), "no input"),
    ("qa", dict(question="a"), "has no 'context'"),
    ("tags", None, "None is no input"),
  ],
)
def test_what_is_no_input_is_named(kind, value, message, loaded):
  with pytest.raises(UserError, match=message):
    loaded(kind)([value])


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(max_len_extra=500), r"model.max_len \d+ is less than .*max_len_extra"),
    (dict(beam="5"), "beam is '5': expects int"),
    (dict(beam=None), "beam is None"),
    (dict(temperature="hot"), "temperature is 'hot': expects float"),
    (dict(beam=900, max_len_extra=900), "tokens at a time"),
    (dict(batch_size=0), "batch_size is 0"),
    (dict(batch_size=10**9), "tokens at a time"),
  ],
)
def test_settings_that_a_model_cannot_use_are_refused_before_it_is_built(changes, message):
  with pytest.raises(UserError, match=message):
    LOAD("hf:tests/fixtures/gpt2", **changes)


def test_a_step_may_be_a_number_and_rows_may_be_few(make, loaded):
  run = inference.load_run(make("causal"), "1", rows=3)
  assert run.task.decode_batch == 3
  few = LOAD(make("causal"), 1, batch_size=2)(TEXTS)
  assert [x["text"] for x in few] == [x["text"] for x in loaded("causal")(TEXTS)]


def test_line_ends_in_an_output_are_escaped_but_in_json(make, loaded, capsys, monkeypatch):
  """An input has one line of output."""

  class Verse:
    run = loaded("causal").run

    def __call__(self, inputs):
      best = dict(text="a\nb\r\nc", score=-1.0)
      return [best | dict(nbest=[best]) for _ in inputs]

  monkeypatch.setattr(predict, "load", lambda *_, **__: Verse())
  where = ["--workdir", str(make("causal")), "x", "y"]
  predict.main(where)
  assert capsys.readouterr().out == "a\\nb\\r\\nc\n" * 2
  predict.main([*where, "--jsonl"])
  texts = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
  assert texts == ["a\nb\r\nc"] * 2


def test_a_byte_order_mark_is_no_part_of_an_input(tmp_path):
  (tmp_path / "joined").write_bytes("\ufeffa\r\nb\n\ufeffc".encode())
  assert list(predict.read(str(tmp_path / "joined"))) == ["a", "b", "c"]


def test_a_line_that_is_no_input_is_named(make, loaded, tmp_path, monkeypatch):
  monkeypatch.setattr(predict, "load", lambda *_, **__: loaded("qa"))
  (tmp_path / "questions").write_text("who\ta man\nwho\n")
  with pytest.raises(UserError, match="questions, line 2: 'who'"):
    predict.main(["--workdir", str(make("qa")), "--input", str(tmp_path / "questions")])


@pytest.fixture
def evaluated(make, loaded, capsys, monkeypatch):
  """Returns a function of a kind that evaluates its run and returns results.json, which is what is
  printed, and the report on stderr."""

  def of(kind):
    folder, predictor = make(kind), loaded(kind)
    monkeypatch.setattr(
      inference, "load_run", lambda *_, **__: predictor.run
    )  # with what is compiled
    monkeypatch.setattr(evaluation, "make_predict_step", lambda *_: predictor.step)
    evaluate.main(["--workdir", str(folder)])
    printed = capsys.readouterr()
    results = json.loads(printed.out)
    assert results == json.loads((folder / "results.json").read_text())
    return results, printed.err

  return of


@pytest.mark.parametrize("kind", ["mlm", "causal", "span"])
def test_a_task_without_a_score_is_evaluated_without_decoding(kind, make, loaded, evaluated):
  folder, task = make(kind), loaded(kind).run.task
  results, report = evaluated(kind)
  assert results["perplexity"] == pytest.approx(np.exp(results["loss"]), rel=1e-4)
  assert 0 <= results["token_accuracy"] <= 100
  assert report == ""
  assert [path.name for path in (folder / "evaluations").iterdir()] == ["test-latest.json"]
  if kind == "causal":
    tokens = sum(
      float(x["weights"].sum()) for x in eval_batches(task.items("test"), tasks.layout(task, 8))
    )
    texts = [example["text"] for example in task.examples("test")]
    size = sum(len(text.encode()) + 1 for text in texts)  # a blank after each word
    bits = results["loss"] * tokens / np.log(2) / size
    assert results["bits_per_byte"] == pytest.approx(bits, rel=1e-4)
  with pytest.raises(UserError, match="--beam"):
    evaluate.main(["--workdir", str(folder), "--beam", "2"])


def test_classes_are_reported_each_with_those_that_training_never_saw(make, evaluated, caplog):
  folder = make("classes")
  with caplog.at_level("WARNING", "absl"):
    results, report = evaluated("classes")
  lines = (folder / "evaluations" / "test-latest.jsonl").read_text().splitlines()
  pairs = [(x["label"], x["output"]["text"]) for x in map(json.loads, lines)]
  references = [label for label, _ in pairs]
  assert results["classes"].keys() == set(references) >= {"odd", "none"}
  for name, row in results["classes"].items():
    hits = sum(a == b == name for a, b in pairs)
    predicted, support = sum(b == name for _, b in pairs), references.count(name)
    assert row["support"] == support
    assert row["recall"] == pytest.approx(100 * hits / support)
    assert row["precision"] == pytest.approx(100 * hits / max(predicted, 1))
    assert row["f1"] == pytest.approx(200 * hits / (predicted + support))
    assert re.search(rf"{name} +{row['precision']:.1f} .* {support}\n", report)
  assert report.strip() == (folder / "evaluations" / "test-latest-classes.txt").read_text().strip()
  assert (folder / "evaluations" / "test-latest-confusion.png").stat().st_size > 5000
  warned = [x.getMessage() for x in caplog.records if "odd" in x.getMessage()]
  assert len(warned) == 1
  assert f"'odd' ({references.count('odd')})" in warned[0]


def test_tags_are_reported_by_entity(evaluated):
  results, report = evaluated("tags")
  assert results["classes"].keys() == {"PET", "LOC"}
  names = [word for words in SPLITS["test"] for word in words]
  assert results["classes"]["PET"]["support"] == names.count("dog") + names.count("cat")
  total = sum(row["support"] for row in results["classes"].values())
  recall = sum(row["support"] * row["recall"] for row in results["classes"].values()) / total
  assert results["recall"] == pytest.approx(recall)
  assert "B-PET" in report  # in the confusion of tags


@pytest.mark.parametrize("kind", ["numbers", "qa"])
def test_a_task_without_classes_is_evaluated_without_a_table(kind, evaluated):
  results, report = evaluated(kind)
  assert report == ""
  assert results.keys() >= {"numbers": {"pearson", "mse"}, "qa": {"exact_match", "f1"}}[kind]
  if kind == "numbers":
    assert results["mse"] == pytest.approx(results["loss"], rel=1e-4)


def test_a_mixture_is_evaluated_on_the_parts_that_have_the_split(loaded, evaluated, caplog):
  task = loaded("mixture").run.task
  with caplog.at_level("WARNING", "absl"):
    results, _ = evaluated("mixture")
  assert "'test' are left out: spans" in caplog.text
  part = task.parts["translation"].items("test")
  both = [list(eval_batches(x, tasks.layout(task, 8))) for x in (task.items("test"), part)]
  jax.tree.map(np.testing.assert_array_equal, *both)
  assert {"loss", "perplexity"} < results.keys()
  assert "bleu" in results
  with pytest.raises(UserError, match="nothing"):
    task.items("nothing")


def test_a_confusion_counts_what_was_taken_for_what():
  report = classes.class_report(list("aabbc"), list("abbbb"))
  assert list(report.labels) == ["a", "b", "c"]
  assert report.counts.tolist() == [[1, 0, 0], [1, 2, 1], [0, 0, 0]]
  assert report.classes["b"] == dict(
    precision=100.0, recall=50.0, f1=pytest.approx(200 / 3), support=4
  )
  assert classes.text_class_report(["x", "a"], ["a", "a"]).counts[1].sum() == 2


def test_a_confusion_of_many_labels_is_drawn_and_the_text_says_so(tmp_path, capsys):
  many = [str(number) for number in range(classes.MOST_COLUMNS + 1)]
  report, few = classes.tag_report([many], [many]), classes.tag_report([many[1:]], [many[1:]])
  assert (len(report.tables()), len(few.tables())) == (1, 2)
  assert f"confusion of {len(many)} labels" in classes.format_report(report)
  assert "drawn, not printed" not in classes.format_report(few)
  classes.print_report(report)
  assert "drawn, not printed" in capsys.readouterr().err
  classes.draw_confusion(report, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 10_000


def test_text_to_text_reports_each_tag_and_labels_that_training_has_not(tmp_path, caplog):
  (tmp_path / "train.conll").write_text("a\tX\nb\tY\n\nc\tX\n")
  (tmp_path / "test.conll").write_text("a\tX\nb\tZ\nc\tZ\n\nd\tY\n")
  splits = {part: str(tmp_path / f"{part}.conll") for part in ("train", "test")}
  of = dict(name="conll", splits=splits, word=0, tag=-1)
  data = dict(name="formatted", of=of, source="tag: {words}", target="{tags}")
  settings = dict(data=data, tokenizer=None, source_len=8, target_len=8)
  task = TextToText(**settings, kind="tags")
  examples = task.examples("test")
  report = task.report([{"text": "X Y Y Y"}, {"text": ""}], list(map(examples.__getitem__, (0, 1))))
  assert report.classes["X"]["f1"] == 100.0
  assert list(report.labels) == [classes.OTHER, "X", "Y", "Z"]  # "" is a tag too few
  assert report.counts[2].tolist() == [1, 0, 0, 0]
  assert "2 labels are none of the training split's 2: 'Z' (2)" in caplog.text
  del splits["train"]
  assert task.report([{"text": "X"}], [{"target": "Z"}]).classes.keys() == {"Z"}
