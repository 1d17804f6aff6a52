"""Every config trains at `small`, every key of it is read, and configs/README.md has them all."""

import re
import types

import pytest

from configs import __main__ as listing
from configs import common, corpora
from tests.helpers import FIXTURES, ROOT, load_config
from train import loop, resolve
from train.common.errors import UserError
from train.data import corruption, scan, sources
from train.record import workdir

CONFIGS = [
  "scan.py:small",
  "multi30k.py:small,data={folder}",
  "mixture.py:small,data={folder}",
  "causal.py:small,data={folder}/prose/*.txt",
  "mlm.py:small,data={folder}/prose,whole_words",
  "span.py:small,data={folder}/prose",
  "c4.py:small,data={folder}/c4/c4-train.*.json.gz",
  "classify.py:small,data={folder},dev=25%,class_weights=dog:2",
  "tag.py:small,data={folder},suffix=.conll,dev=20%,test=20%",
  "qa.py:small,train={folder}/train.json,test={folder}/test.json",
]
# At `small` each does nearly what one of the above does.
ALIKE = [
  "wmt14.py:small",  # load_config gives it the data of multi30k
  "causal.py:small,model=lstm,data={folder}/prose/*.txt",
  "choice.py:small,data={folder}",
  "classify.py:small,data={folder}/reviews.csv,columns=review+stars",
  "scan.py:small,split=length,positions=rotary",
  "scan.py:small,model=lstm",
  "multi30k.py:small,model=lstm,data={folder}",
  "multi30k.py:small,recipe=tiny,form=wu2021,data={folder}",
  "wmt14.py:small,size=big",
  "mlm.py:small,size=large,data={folder}/prose",
  "prefix.py:small,data={folder}/prose",
  "text2text.py:small,data={folder}",
  "prefix.py:small,data={folder}/prose,model=decoder",
  "text2text.py:small,task=tag,data={folder},suffix=.conll",
  "text2text.py:small,task=qa,data={folder}",
  "electra.py:small,size=base,data={folder}/prose",
  "span.py:small,size=11b,data={folder}/prose",
  "span.py:small,data={folder}/prose,rate=0.5",
  "span.py:small,data={folder}/train.conll,style=ul2",
  "c4.py:small,style=ul2,data={folder}/c4/c4-train.*.json.gz",
  "opus100.py:small,data={folder},languages=de+fr",
  f"nllb.py:small,init=hf:{FIXTURES}/nllb,source_lang=eng_Latn,target_lang=deu_Latn,both,"
  "data={folder},source=en,target=de,dev=10%,test=10%",
  "wikipedia.py:small,data={folder}/wikipedia/*.parquet",
  "wikipedia.py:small,objective=ul2,data={folder}/wikipedia/*.parquet",
  "catalogs.py:small,target=all,data={folder}",
  "glue.py:small,name=cola",
  "glue.py:small,name=stsb",
]
# A config file without an entry, a new one, is tried on the prose.
CONFIGS += [
  f"{name}.py:small,data={{folder}}/prose"
  for name in listing.names()
  if not any(text.startswith(f"{name}.py") for text in CONFIGS + ALIKE)
]


class Recorded:
  """A config that records the keys that are read of it and of its section `evaluate`."""

  def __init__(self, section, prefix, keys):
    self._section, self._prefix, self._keys = section, prefix, keys

  def __getattr__(self, name):
    self._keys.add(self._prefix + name)
    value = getattr(self._section, name)
    return Recorded(value, "evaluate.", self._keys) if name == "evaluate" else value


@pytest.mark.parametrize(
  "text", [*CONFIGS, *(pytest.param(text, marks=pytest.mark.slow) for text in ALIKE)]
)
def test_takes_a_step_at_small_and_reads_every_key(text, corpus, tmp_path):
  """All sections but `evaluate` are passed on whole, to code that refuses an unknown key."""
  cfg, read = load_config(text, corpus), set()
  cfg.steps, cfg.evaluate.every = 2, 2
  cfg.evaluate.decode_every = min(cfg.evaluate.decode_every, 2)
  cfg.evaluate.decode_examples, cfg.schedule.warmup_steps = 2, 1
  with workdir.open_run(tmp_path, cfg, ["test"]) as run:
    assert loop.train(Recorded(cfg, "", read), run) == 0
  unread = {*cfg, *(f"evaluate.{key}" for key in cfg.evaluate)} - read
  assert unread == (set() if cfg.evaluate.decode_every else {"evaluate.decode_examples"})
  assert (tmp_path / "checkpoints" / "2").is_dir()
  assert (tmp_path / "curves.png").stat().st_size > 1000


def choices(name):
  """Yields the arguments of a config file with each of their choices, and also `small`."""
  yield from ("", "small")
  for usage, _ in listing.arguments(__import__(f"configs.{name}", fromlist=["get_config"])):
    key, equals, values = usage.partition("=")
    words = [f"{key}={value}" for value in values.split("|")] if "|" in values else []
    for word in words or [key] * (not equals and key != "small"):
      yield from (word, f"{word},small")


@pytest.mark.parametrize("name", listing.names())
def test_no_choice_of_a_config_is_refused(name):
  for arguments in choices(name):
    resolve.load(f"{ROOT}/configs/{name}.py:{arguments}")


@pytest.mark.parametrize(
  "dev, test, expected",
  [
    ("dev", "test", ("d/train.c", "d/dev.c", "d/test.c")),
    ("10%", "test", ("d/train.c[:90%]", "d/train.c[90%:]", "d/test.c")),
    ("dev", "5%", ("d/train.c[:95%]", "d/dev.c", "d/train.c[95%:]")),
    ("10%", "20%", ("d/train.c[:70%]", "d/train.c[70%:80%]", "d/train.c[80%:]")),
  ],
)
def test_parts_of_one_file_share_nothing(dev, test, expected):
  splits = common.splits("d", ".c", dev, test)
  assert splits == dict(zip(("train", "validation", "test"), expected))


def test_a_number_is_no_share_and_another_ending_no_folder(tmp_path):
  with pytest.raises(ValueError, match="validation is 10: a share of train is written 10%"):
    common.splits("d", ".c", "10")
  (tmp_path / "x.csv").write_text("")
  with pytest.raises(ValueError, match=r"x.csv: a file ends in .conllu.gz, .conllu"):
    common.splits(f"{tmp_path}/x.csv", common.TAGS)


@pytest.mark.parametrize(
  "dev, test", [("0%", "test"), ("x%", "test"), ("60%", "40%"), ("100%", "a"), ("a", "100%")]
)
def test_a_share_that_leaves_nothing_is_reported(dev, test):
  with pytest.raises(ValueError, match="percentage that leaves some of train"):
    common.splits("d", ".c", dev, test)


@pytest.mark.parametrize("split", [*scan.SPLITS, "length,cutoff=26"])
def test_every_split_of_scan_is_there(split):
  data = resolve.load(f"{ROOT}/configs/scan.py:split={split}").task.data
  name, _, cutoff = split.partition(",cutoff=")
  more = dict(cutoff=int(cutoff)) if cutoff else {}
  expected = scan.split_pairs(name, "train", 500, **more)
  source = sources.open_split(data.to_dict(), "train")
  ends = [tuple(source[index].values()) for index in (0, len(source) - 1)]
  assert ends == [expected[0], expected[-1]]
  assert len(source) == len(expected)


def data_of(text):
  return resolve.load(f"{ROOT}/configs/{text}").task.data.to_dict()


def test_a_folder_is_read_as_ever():
  data = data_of("classify.py:data=DIR")
  assert data["splits"] == {x: f"DIR/{y}.tsv" for x, y in SPLITS.items()}
  assert data["columns"] == ("text", "label")
  data = data_of("multi30k.py:data=DIR")
  assert data["splits"]["train"] == dict(source="DIR/train.en.gz", target="DIR/train.de.gz")
  assert set(data["splits"]) == {"train", "validation", "test", "test_2017", "mscoco"}


SPLITS = dict(train="train", validation="dev", test="test")


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".tsv.gz"])
def test_a_folder_may_hold_other_tables_and_names_of_labels(tmp_path, ending):
  for name in ("train" + ending, "labels.txt"):
    (tmp_path / name).touch()
  data = data_of(f"classify.py:data={tmp_path},dev=20%")
  assert data["splits"] == dict(
    train=f"{tmp_path}/train{ending}[:80%]",
    validation=f"{tmp_path}/train{ending}[80%:]",
    test=f"{tmp_path}/test{ending}",
  )
  assert data["label_names"] == f"{tmp_path}/labels.txt"
  assert "label_names" not in data_of(f"classify.py:data={tmp_path},regression")


def test_tags_and_questions_may_be_in_one_file_or_files_of_another_ending(tmp_path):
  assert data_of("tag.py:data=DIR")["splits"]["train"] == "DIR/train.conllu.gz"
  for text in ("tag.py:", "text2text.py:task=tag,"):
    data = data_of(f"{text}data=a/x.conll")
    assert data.get("of", data)["splits"] == dict(
      train="a/x.conll[:80%]", validation="a/x.conll[80%:90%]", test="a/x.conll[90%:]"
    )
  (tmp_path / "train.bio").touch()
  assert data_of(f"tag.py:data={tmp_path}")["splits"]["test"] == f"{tmp_path}/test.bio"
  squad = data_of("text2text.py:task=qa,data=a/x.jsonl.gz,test=b.json")["of"]["splits"]
  assert squad == dict(train="a/x.jsonl.gz[:90%]", validation="a/x.jsonl.gz[90%:]", test="b.json")


@pytest.mark.parametrize("text", ["classify.py:", "text2text.py:task=classify,"])
def test_one_table_is_cut_into_train_validation_and_test(text):
  data = data_of(f"{text}data=a/x.csv,columns=review+stars,test=5%")
  data = data.get("of", data)
  assert data["columns"] == dict(text="review", label="stars")
  assert data["splits"] == dict(
    train="a/x.csv[:85%]", validation="a/x.csv[85%:95%]", test="a/x.csv[95%:]"
  )


def test_every_fine_tuning_holds_out_a_share():
  assert data_of("qa.py:train=a.json,dev=20%")["splits"] == dict(
    train="a.json[:80%]", validation="a.json[80%:]", test="data/squad/dev.json"
  )
  squad = data_of("text2text.py:task=qa,data=DIR,dev=10%,test=10%")["of"]["splits"]
  assert squad["validation"] == "DIR/train.json[80%:90%]"


def test_parallel_text_is_a_table_two_files_or_a_folder():
  data = data_of("multi30k.py:data=x.csv,source=en,target=fr")
  assert data["columns"] == dict(source="en", target="fr")
  assert data["splits"]["test"] == "x.csv[90%:]"
  splits = data_of("multi30k.py:source=a/x.en,target=a/x.fr,dev=5%,test=5%")["splits"]
  assert splits["train"] == dict(source="a/x.en[:90%]", target="a/x.fr[:90%]")
  assert splits["validation"] == dict(source="a/x.en[90%:95%]", target="a/x.fr[90%:95%]")
  splits = data_of("multi30k.py:data=DIR,source=de,target=cs,dev=10%")["splits"]
  assert splits["validation"]["target"] == "DIR/train.cs.gz[90%:]"
  assert splits["test"]["source"] == "DIR/test_2016_flickr.de.gz"


def test_large_texts_are_a_dataset_files_or_prepared(tmp_path):
  data = data_of("c4.py:data_dir=D")
  assert (data["name"], data["dataset"], data["data_dir"]) == ("tfds", "c4/en", "D")
  assert data["limit"] == {"validation": 5000}
  data = data_of("c4.py:data=D/c4-train.*.json.gz")
  assert (data["name"], data["splits"]["validation"]) == ("text", "D/c4-validation.*.json.gz")
  data = data_of("c4.py:data=D/train-*.parquet")
  assert (data["name"], data["splits"]["validation"]) == ("parquet", "D/validation-*.parquet")
  data = data_of("wikipedia.py:data=D/train-*.parquet")
  assert data["splits"]["validation"] == "D/train-*.parquet[99%:]"
  data = data_of("wikipedia.py:")
  assert data["splits"] == dict(train="train[:99%]", validation="train[99%:]")
  parts = resolve.load(f"{ROOT}/configs/c4.py:style=ul2").task.parts
  assert {part.data.dataset for part in parts.values()} == {"c4/en"}
  expected = {("[R]", "spans", 0.15, 3.0), ("[R]", "spans", 0.15, 8.0)}
  expected |= {("[S]", "suffix", 0.25, 1.0), ("[X]", "spans", 0.5, 3.0), ("[X]", "spans", 0.5, 8.0)}
  expected |= {("[X]", "spans", 0.15, 64.0), ("[X]", "spans", 0.5, 64.0)}
  assert {(x.mode, x.style, x.rate, x.mean_span) for x in parts.values()} == expected
  (tmp_path / "manifest.json").touch()  # of train.prepare
  assert corpora.read(types.SimpleNamespace(data=str(tmp_path)), "c4/en") == {}


@pytest.mark.parametrize("size, row", [("mini", 128), ("base", 512)])
def test_a_denoisers_window_is_the_longest_that_rows_hold(size, row):
  cfg = resolve.load(f"{ROOT}/configs/span.py:style=ul2,size={size}")
  task = cfg.task
  assert (task.source_len, task.target_len) == (row, row)
  for part in task.parts.values():
    made = corruption.Corruption(part.style, part.rate, part.mean_span)
    fits = [
      source + 2 <= row and target + 1 <= row  # the mode and eos; eos
      for source, target in map(made.max_lengths, range(2, 2 * row))
    ]
    assert part.length == 2 + fits.index(False) - 1
    assert made.number_of_spans(part.length) <= task.tokenizer.sentinels


def test_every_pair_of_opus100_has_both_directions(corpus):
  task = resolve.load(f"{ROOT}/configs/opus100.py:temperature=2").task
  assert len(task.parts) == 2 * 99
  assert task.alpha == 0.5
  assert set(task.tokenizer.special) == {f"<2{part.target_lang}>" for part in task.parts.values()}
  parts = resolve.load(f"{ROOT}/configs/opus100.py:data={corpus},languages=de+fr").task.parts
  splits = parts["en-de"].data.splits.to_dict()
  assert splits["validation"] == dict(
    source=f"{corpus}/de-en/opus.de-en-dev.en", target=f"{corpus}/de-en/opus.de-en-dev.de"
  )
  assert set(parts["fr-en"].data.splits) == {"train"}  # the others are not there


def test_directions_are_folders_rows_or_reversed():
  data = data_of("nllb.py:data=D,directions=de-en+fr-en,dev=10%")["of"]
  assert data["fr-en"]["of"]["splits"]["train"] == dict(
    source="D/fr-en/train.fr[:90%]", target="D/fr-en/train.en[:90%]"
  )
  assert data["fr-en"]["of"]["splits"]["test_fr-en"]["target"] == "D/fr-en/test.en"
  assert (data["de-en"]["source_lang"], data["de-en"]["target_lang"]) == ("de", "en")
  data = data_of("nllb.py:data=a.csv,source=x,target=y,directions=rows,both")["of"]
  assert data["rows"]["of"]["columns"]["source_lang"] == "source_lang"
  assert data["reverse"]["source"] == "{target}"
  assert data["reverse"]["source_lang"] == "{target_lang}"
  data = data_of("nllb.py:data=a.csv,source=x,target=y")
  assert data["columns"] == dict(source="x", target="y")


def test_summaries_are_scored_by_rouge():
  task = resolve.load(f"{ROOT}/configs/text2text.py:task=summarize,data=a.csv").task
  assert task.kind == "summaries"
  assert task.data.of.columns == ("text", "summary")


@pytest.mark.parametrize(
  "text, message",
  [
    ("classify.py:columns=a", r"columns=a: give 2 with \+ between: text\+label"),
    ("classify.py:multi_label,regression", "exclude each other"),
    ("classify.py:targets=a+b,class_weights=x:2", "a regression has no classes"),
    ("classify.py:dev=100%", "validation is 100%"),
    ("classify.py:dev=x%", "validation is x%"),
    ("classify.py:data=a.csv,dev=60%,test=60%", "validation is 60%"),
    ("text2text.py:task=qa,columns=a+b", "columns=a.b is for tables"),
    ("multi30k.py:source=a/x.en", "give two files"),
    ("nllb.py:directions=a", "directions=a: write SOURCE-TARGET"),
    ("nllb.py:directions=a-b,source_lang=a", "directions= names the languages"),
    ("nllb.py:directions=a-b+b-a,both", "the reverse of .* is among the directions"),
    ("nllb.py:directions=rows", "directions=rows is for a table"),
    ("multi30k.py:data=x.csv,source=en", "name both columns"),
    ("multi30k.py:source=a.en,target=a.de,dev=b.en", "dev and test are shares"),
    ("span.py:style=ul2,rate=0.5", "leave out rate and mean_span"),
    ("opus100.py:temperature=0.5", "temperature=0.5: 1 or more"),
  ],
)
def test_arguments_that_name_no_data_are_refused(text, message):
  with pytest.raises(UserError, match=message):
    data_of(text)


def test_the_readme_lists_every_config_with_its_arguments():
  """`python -m configs` writes the list."""
  readme = listing.README.read_text(encoding="utf-8")
  assert readme == listing.updated(readme)
  assert f"\n### {listing.names()[-1]}.py\n" in readme


@pytest.mark.parametrize("name", listing.names())
def test_every_config_says_its_command_and_every_argument_its_meaning(name):
  text = (ROOT / "configs" / f"{name}.py").read_text(encoding="utf-8")
  assert re.match(rf'"""python -m train\.main --config configs/{name}\.py', text)
  module = __import__(f"configs.{name}", fromlist=["get_config"])
  assert all(meaning for _, meaning in listing.arguments(module))
