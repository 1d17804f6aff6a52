"""Reports: our numbers beside a paper's, RESULTS.md, and records of measured tables."""

import base64
import dataclasses
import html
import html.parser
import json
import pathlib
import re
import shutil
import subprocess
import types
import xml.etree.ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import run
from experiments.tools import runs
from experiments.tools.launch import results
from experiments.tools.launch.results import Outcome
from experiments.tools.report import blocks, check, measured, plots, report, tables
from experiments.tools.runs import Experiment, Order, Run, Value, seeds
from train.common.errors import UserError

HOSTILE = 'a|b <script>alert("x")</script> & `code`'
DOC = f"""python -m experiments.run experiments/mine.py

What {HOSTILE} is.
"""
RUNS = [one for name in ("big", "little") for one in seeds(Run(name, "configs/scan.py"))]
RUNS += [Run("alone", "configs/scan.py", {"seed": 7})]


def outcome(one, value, **more):
  steps = (10, 20)
  metrics = [
    dict(step=step, split="validation", time=1.0, loss=3.0 - step / 10, accuracy=value + step)
    for step in steps
  ]
  metrics += [
    dict(step=step, split="train", time=1.0, loss=1.0, tokens_per_second=100.0 * step)
    for step in (*steps, 30)
  ]
  record = dict(asked=results.request(one), results={"test": {"accuracy": value}}, steps=20)
  record |= dict(seconds=60.0, parameters=1000, date="2026-11-26", commit="c" * 40)
  record |= dict(versions={"jax": "0.10.2"}, devices=["cpu:0"], starts=1) | more
  return Outcome(one, record, metrics, "finished")


def all_outcomes():
  values = [80.0, 82.0, 84.0, 70.0, 71.0, 72.0]
  done = [outcome(one, value) for one, value in zip(RUNS, values)]
  return [*done, Outcome(RUNS[-1], None, [], "step 5 of 20")]


def verdict(one):
  return check.verdicts([one], all_outcomes())[0]


@pytest.mark.parametrize(
  "expected, missed, words",
  [
    (Value("v", r"big-seed\d", "test/accuracy", 81.0, tolerance=1.0), False, "holds, +1.00"),
    (Value("v", r"big-seed\d", "test/accuracy", 83.5, tolerance=1.0), True, "MISSED, -1.50"),
    (Value("v", r"big-seed\d", "test/accuracy", 0.0), False, "not checked"),
    (Value("v", r"big.*", "test/f1", 0, tolerance=9), True, "UNKNOWN: no run reports test/f1"),
    (Value("v", "alone", "test/f1", 0, tolerance=9), True, "UNFINISHED: alone (step 5 of 20)"),
    (Value("v", r"big.*", "train/tokens_per_second", 2500, tolerance=0), False, "holds, +0.00"),
    (Value("v", r"big.*", "parameters", 1000, tolerance=0), False, "holds, +0.00"),
    (Order("o", r"big.*", r"little.*", "test/accuracy"), False, "holds, +11.00"),
    (Order("o", r"big.*", r"little.*", "test/accuracy", by=11.0), True, "MISSED, +11.00"),
    (Order("o", r"little.*", r"big.*", "test/accuracy"), True, "MISSED, -11.00"),
    (Order("o", r"big.*", r"little.*", "test/accuracy", times=1.1), False, "holds, 1.15 times"),
    (Order("o", r"big.*", r"little.*", "test/accuracy", times=1.2), True, "MISSED, 1.15 times"),
    (Order("o", r"big.*", r"little.*", "test/accuracy", spread=True), False, "holds, +11.00"),
    (Order("o", r"big.*", r"big-seed0", "test/accuracy", spread=True), True, "MISSED, +2.00"),
    (Order("o", r"big.*", "alone", "test/accuracy"), True, "UNFINISHED: alone (step 5 of 20)"),
  ],
)  # fmt: skip
def test_what_holds_and_what_is_missed(expected, missed, words):
  assert (verdict(expected).missed, verdict(expected).text) == (missed, words)


@pytest.mark.parametrize(
  "expected",
  [
    Value("v", "big-seed0", "test/accuracy", 81.0, tolerance=1.0),
    Order("o", "big-seed0", "little-seed0", "test/accuracy"),
    Order("o", "little-seed0", "big-seed0", "test/accuracy"),
  ],
)
def test_what_is_no_number_is_missed(expected):
  several = [outcome(RUNS[0], float("nan")), *all_outcomes()[1:]]
  (judged,) = check.verdicts([expected], several)
  assert (judged.missed, judged.text) == (True, "MISSED, +nan")


def test_a_step_takes_what_passes_without_evaluations_and_starts():
  kinds = ("step", "time", "split", "compiles")
  lines = [
    (10, 100.0, "train", 3),
    (20, 101.0, "train", 3),  # 100 ms a step
    (20, 150.0, "validation", 3),
    (30, 151.0, "train", 4),
    (40, 154.0, "train", 4),  # 300 ms
    (50, 999.0, "train", 1),  # started again between
    (70, 1001.0, "train", 1),  # 100 ms
  ]
  assert results.step_milliseconds([dict(zip(kinds, line)) for line in lines]) == 100.0
  assert results.step_milliseconds([dict(zip(kinds, lines[0]))]) is None


EXPECTED = (
  Value("big", r"big-seed\d", "test/accuracy", 81.0, "table 1", tolerance=1.0),
  Value("little", r"little-seed\d", "test/accuracy", 90.0, "table 1", tolerance=1.0, why="small"),
  Order("big over little", r"big-seed\d", r"little-seed\d", "test/accuracy", "table 2"),
)


def test_tables_point_to_their_notes():
  (values, orders), notes = check.tabulate(check.verdicts(EXPECTED, all_outcomes()))
  assert values[1] == [
    *("big [1]", "holds, +1.00", "81 ± 1", "82.00", "80.00 to 84.00", "3", "big-seed*")
  ]
  assert values[2][1] == "MISSED, -19.00 [2]"
  assert orders[1][:4] == ["big over little [3]", "holds, +11.00", "82.00", "80.00 to 84.00"]
  assert notes == ["table 1", "small", "table 2"]


@pytest.fixture
def experiment(tmp_path):
  (tmp_path / "mine.py").write_text("def runs(scale): return ()")
  (tmp_path / "README.md").write_text("[mine.py](mine.py)")
  experiment = Experiment(
    "mine", "small", types.SimpleNamespace(__doc__=DOC), tuple(RUNS), EXPECTED, tmp_path
  )
  experiment.copies.mkdir(parents=True)
  (experiment.copies / "NOTES.md").write_text("- one\n- two `<b>`")
  (tmp_path / "root").mkdir()
  return experiment


def write(experiment, outcomes):
  """Copies the results and writes the reports; report.md and report.html."""
  results.save_copies(experiment, outcomes)
  report.write(experiment, outcomes, experiment.folder / "root")
  return experiment.copies / "report.md", experiment.folder / "root" / "report.html"


class Page(html.parser.HTMLParser):
  """What a page has, and whether its tags close."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.words = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in ("meta", "img", "br", "link", "input"):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.words.append(data)


def test_a_page_needs_nothing_but_itself(experiment):
  page = Page(write(experiment, all_outcomes())[1].read_text(encoding="utf-8"))
  assert page.open == []
  names = [tag for tag, _ in page.tags]
  assert not {"script", "link", "b"} & set(names)
  for tag, attributes in page.tags:
    assert "href" not in attributes
    assert tag == "img" or "src" not in attributes
  images = [attributes for tag, attributes in page.tags if tag == "img"]
  assert len(images) == 1
  for image in images:
    assert image["alt"]
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/svg+xml;base64"
    drawn = xml.etree.ElementTree.fromstring(base64.b64decode(data))
    assert drawn.tag.endswith("svg")
  words = "".join(page.words)
  assert '<script>alert("x")</script>' in words  # as words
  assert "UNFINISHED: 6 of 7 runs are finished. Left: alone (step 5 of 20)." in words
  assert "--config.seed=7" in words
  assert "two <b>" in words


def test_without_the_runs_folder_there_is_no_page(experiment, tmp_path):
  results.save_copies(experiment, all_outcomes())
  files = report.write(experiment, all_outcomes(), tmp_path / "nowhere")
  assert [file.name for file in files] == ["report.md", "RESULTS.md"]
  assert not (tmp_path / "nowhere").exists()


def test_links_of_a_report_resolve(experiment, tmp_path):
  text_file, _ = write(experiment, all_outcomes())
  text = text_file.read_text(encoding="utf-8")
  links = re.findall(r"!?\[[^\]]*\]\(([^)]+)\)", text)
  assert links == ["curves.svg"]
  for link in links:
    xml.etree.ElementTree.parse(text_file.parent / link)
  assert str(tmp_path) not in text


def test_what_is_drawn_is_what_was_found():
  drawn = plots.draw_curves(all_outcomes()).decode()
  for name in ("big", "little", "loss", "accuracy"):
    assert f">{name}<" in drawn
  assert drawn == plots.draw_curves(all_outcomes()).decode()  # the same bytes again
  assert plots.draw_curves([all_outcomes()[-1]]) is None


def test_what_was_evaluated_once_has_no_curve(experiment):
  several = all_outcomes()
  once = [dataclasses.replace(one, metrics=one.metrics[:1]) for one in several]
  drawn = plots.draw_curves([*once[:3], *several[3:]]).decode()
  assert ">little<" in drawn
  assert ">big<" not in drawn
  assert plots.draw_curves(once) is None
  assert "curves.svg" in write(experiment, several)[0].read_text()
  page, _ = write(experiment, once)
  assert "curves.svg" not in page.read_text()
  assert not (page.parent / "curves.svg").exists()


def test_what_is_drawn_of_unfinished_runs_says_so():
  begun = dataclasses.replace(outcome(RUNS[-1], 50.0), record=None, state="step 5 of 20")
  several = [*all_outcomes()[:-1], begun]
  drawn = plots.draw_curves(several).decode()
  assert ">alone (unfinished)<" in drawn
  assert ">big<" in drawn


def test_copies_count_where_the_folders_are_gone(experiment, tmp_path):
  there = all_outcomes()
  kept = results.save_copies(experiment, there)
  again = results.collect(experiment, None)
  assert [one.metrics for one in again] == [one.metrics for one in kept]
  assert [one.state for one in again] == ["finished"] * 6 + [results.NOT_BEGUN]
  assert again[0].record == there[0].record
  assert again[0].metrics == [dict(line, time=1) for line in there[0].metrics]
  other = dataclasses.replace(RUNS[0], changes={"seed": 0, "steps": 9})
  changed = dataclasses.replace(experiment, runs=(other, *RUNS[1:]))
  assert results.collect(changed, None)[0].state == results.NOT_BEGUN
  results.save_copies(changed, results.collect(changed, None))
  assert not (experiment.copies / "big-seed0.jsonl").exists()


FILE = '''"""python -m experiments.run experiments/mine.py

Mine.
"""
from experiments.tools.runs import Run, Value
def runs(scale):
  yield Run("a", "configs/scan.py")
EXPECTED = [Value("a", "a", "test/accuracy", {paper}, "table 1", tolerance=1.0)]
'''


@pytest.mark.parametrize("paper, status", [(50.0, 0), (60.0, 1)])
def test_check_exits_1_outside_of_a_tolerance(tmp_path, capsys, paper, status):
  (tmp_path / "mine.py").write_text(FILE.format(paper=paper))
  (one,) = runs.load(str(tmp_path / "mine.py")).runs
  folder = tmp_path / "mine" / "small" / "a"
  folder.mkdir(parents=True)
  words = [str(tmp_path / "mine.py"), "--root", str(tmp_path), "--check"]
  assert run.main(words) == 1  # not run
  assert "UNFINISHED: a (not begun)" in capsys.readouterr().out
  (folder / results.RECORD).write_text(json.dumps(outcome(one, 50.5).record))
  assert run.main(words) == status
  told = capsys.readouterr()
  assert ("outside the tolerance, or not run: a" in told.err) == bool(status)
  assert "| a [1] |" in told.out


def test_results_of_no_experiment_are_told(experiment, tmp_path):
  results.save_copies(experiment, all_outcomes())
  (tmp_path / "mine.py").unlink()
  with pytest.raises(UserError, match="results/mine: belongs to no experiment"):
    report.with_results(tmp_path)


FOLDER = pathlib.Path(report.__file__).parents[2]
KEPT = sorted(FOLDER.glob("results/*/*/records.json"))


def test_results_md_is_what_the_copies_say():
  text = (FOLDER / "RESULTS.md").read_text(encoding="utf-8")
  assert text == report.overview(FOLDER)
  links = re.findall(r"\[[^\]]*\]\(([^)]+)\)", text)
  assert len(links) >= len(KEPT)
  for link in links:
    assert (FOLDER / link).is_file(), link


@pytest.mark.parametrize("file", KEPT, ids=lambda file: "/".join(file.parts[-3:-1]))
def test_a_report_is_what_its_copies_say(file):
  name, scale = file.parts[-3:-1]
  experiment = runs.load(str(FOLDER / f"{name}.py"), scale)
  there = results.collect(experiment, None)
  curves = plots.draw_curves(there) is not None
  parts = report.summary(experiment, there, experiment.copies) + report.details(
    experiment, there, curves, pathlib.Path("runs", name, scale)
  )
  assert (file.parent / "report.md").read_text(encoding="utf-8") == blocks.join(parts)


@pytest.mark.parametrize("file", KEPT, ids=lambda file: "/".join(file.parts[-3:-1]))
def test_what_is_missed_is_explained(file):
  name, scale = file.parts[-3:-1]
  experiment = runs.load(str(FOLDER / f"{name}.py"), scale)
  for one in check.verdicts(experiment.expected, results.collect(experiment, None)):
    assert not one.missed or one.expected.why, one.name


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MEASURE = """<!doctype html><title>measures</title>
<iframe width="{width}" height="800" srcdoc="{page}"></iframe>
<script>const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {{
  const inside = frame.contentDocument, seen = inside.scrollingElement;
  const broken = [...inside.images].filter(one => !one.naturalWidth).length;
  const tables = [...inside.querySelectorAll("table")];
  const gaps = tables.slice(1).map((x, i) =>
    x.getBoundingClientRect().top - tables[i].getBoundingClientRect().bottom);
  const looks = frame.contentWindow.getComputedStyle(tables[0]);
  const hinted = tables.filter(x => x.scrollWidth > x.clientWidth).length;
  const attachment = looks.backgroundAttachment.replaceAll(", ", "-");
  document.title = [seen.scrollWidth, seen.clientWidth, inside.images.length, broken,
    Math.round(Math.min(...gaps)), hinted, attachment].join(" ");
}})</script>"""  # a window cannot be as small as a phone, a frame can


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to render pages with")
@pytest.mark.parametrize("width", [1280, 390, 360])
def test_a_browser_shows_a_page_without_scrolling_it_sideways(experiment, tmp_path, width):
  page = write(experiment, all_outcomes())[1].read_text(encoding="utf-8")
  file = tmp_path / "measured.html"
  file.write_text(MEASURE.format(width=width, page=html.escape(page)), encoding="utf-8")
  options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"]
  options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000"]
  command = [CHROMIUM, *options, "--dump-dom", file.as_uri()]
  told = subprocess.run(command, capture_output=True, text=True, timeout=120)
  title = re.search(r"<title>(\d+) (\d+) (\d+) (\d+) (-?\d+) (\d+) ([a-z-]+)</title>", told.stdout)
  assert title, told.stderr[-2000:]
  wide, inner, images, broken, gap, scrolled = map(int, title.groups()[:-1])
  assert gap >= 10
  assert (scrolled > 0) == (width < 500)
  assert title[7] == "local-local-scroll-scroll-scroll"  # a shadow where a wide table goes on
  assert width - 20 <= inner <= width  # less a scroll bar
  assert wide <= inner
  assert (images, broken) == (1, 0)


def test_columns_of_numbers_and_their_headings_are_aligned_to_the_right():
  rows = [["run", "mean", "span", "state", "version", "none"]]
  rows += [["a", "1,234.50", "1.00 to 2.50", "6 of 7", "0.10.2", ""], ["b", "", "", "", "", ""]]
  rows += [["c", "-2.0e-05", "81 ± 1", "3", "3", ""]]
  text = tables.markdown(rows)
  assert text.splitlines()[1] == "|---|---:|---:|---|---|---|"
  page = blocks.to_html(f"# t\n\n{text}", {})
  right = re.findall(r'<(t[hd]) style="text-align:right">([^<]*)<', page)
  assert right[:4] == [("th", "mean"), ("th", "span"), ("td", "1,234.50"), ("td", "1.00 to 2.50")]
  assert tables.markdown([["a", "b"]]).splitlines()[1] == "|---|---|"


RAW = (
  "a <script>alert(1)</script> <img src=x onerror=y> </p> <!-- c --> <?php ?> 1 < 2 <http://a.b>"
)


def has_tags(text):
  return blocks._has_html(text)


@pytest.mark.parametrize(
  "text, escaped",
  [
    ("1 < 2 and <https://a.b>", "1 < 2 and <https://a.b>"),
    ("`<b>` <b>", "`<b>` &lt;b>"),
    ("``a`<b>`` <i>", "``a`<b>`` &lt;i>"),
    ("```\n<b>\n```\n<b>", "```\n<b>\n```\n&lt;b>"),
    ("\\`<script>\\`", "\\`&lt;script>\\`"),
    ("`a\n\n<script>`", "`a\n\n&lt;script>`"),
  ],
)
def test_tags_become_text_and_those_in_code_stay(text, escaped):
  assert blocks.escape(text) == escaped


@settings(deadline=None, max_examples=300)
@given(
  st.lists(st.sampled_from(["<b>", "</p", "<!-- ", "`", "```", "~~~", "\\", "\n", " ", "|", "a"]))
)
def test_nothing_escaped_is_html(parts):
  assert not has_tags(blocks.escape("".join(parts)))


def test_no_text_of_a_run_is_html(experiment):
  (experiment.copies / "NOTES.md").write_text(f"{RAW}\n\n<script>\nalert(2)\n</script>\n")
  record = dict(commit="<script>c</script>", devices=["<script>d</script>"])
  several = [*all_outcomes()[:-1], outcome(RUNS[-1], 1.0, **record)]
  claims = [Value("<b>v", "alone", RAW, 3.0, RAW, tolerance=1.0, why=RAW)]
  changed = dataclasses.replace(experiment, expected=claims)
  text_file, page_file = write(changed, several)
  text = text_file.read_text(encoding="utf-8")
  kept = re.sub(r"<details><summary>\d+ commands</summary>|</details>", "", text)
  assert not has_tags(kept)
  assert not has_tags(report.overview(experiment.folder))
  page = Page(page_file.read_text(encoding="utf-8"))
  assert not {"script", "b"} & {tag for tag, _ in page.tags}
  words = "".join(page.words)
  for part in ("<script>alert(1)", "<script>c", "<script>d", "<b>v", "1 < 2"):
    assert part in words
  code = blocks.code(["```", "<script>"])
  assert not has_tags(code)


def test_an_experiment_without_a_docstring_has_no_empty_block(experiment):
  bare = dataclasses.replace(experiment, module=types.SimpleNamespace(__doc__=None))
  parts = report.summary(bare, all_outcomes(), bare.copies)
  assert not any(re.fullmatch(r"`+\s*`+", part) for part in parts)
  assert re.search(r"scale\n\nUNFINISHED", blocks.join(parts))


def test_a_private_experiment_writes_into_the_folder_of_its_runs_alone(tmp_path, capsys):
  """A user's own file in the folder experiments that README.md does not list, or elsewhere."""
  (tmp_path / "README.md").write_text("[other.py](other.py)")
  (tmp_path / "mine.py").write_text(FILE.format(paper=50.0))
  (one,) = runs.load(str(tmp_path / "mine.py")).runs
  folder = tmp_path / "runs" / "mine" / "small"
  (folder / "a").mkdir(parents=True)
  (folder / "a" / results.RECORD).write_text(json.dumps(outcome(one, 50.5).record))
  (folder / "NOTES.md").write_text("My notes.")
  before = sorted(tmp_path.iterdir())
  run.main([str(tmp_path / "mine.py"), "--root", str(tmp_path / "runs"), "--report"])
  assert sorted(tmp_path.iterdir()) == before
  assert {"report.md", "report.html"} < {file.name for file in folder.iterdir()}
  assert "My notes." in (folder / "report.html").read_text()
  assert f"--workdir {folder / 'a'} " in (folder / "report.md").read_text()
  assert "RESULTS" not in capsys.readouterr().out


def test_losses_of_other_vocabularies_have_other_axes():
  texts = dict(
    big="configs/causal.py:data={data}/prose",
    little="configs/causal.py:data={data}/prose,vocab_size=100",
    other="configs/causal.py:data={data}/code",
    changed="configs/causal.py:data={data}/prose",
    tuned="configs/causal.py:data={data}/trec,init={root}/little",
    classes="configs/classify.py:data={data}/trec,init={root}/little",
  )
  changes = {"changed": {"task.tokenizer.vocab_size": 100}}
  several = [outcome(Run(x, text, changes.get(x, {})), 1.0) for x, text in texts.items()]
  scales = {x.run.name: plots.scale(x.run, several) for x in several}
  panels = [sorted(names) for names in plots._panels(scales).values()]
  assert panels == [["big"], ["changed", "little", "tuned"], ["other"], ["classes"]]
  drawn = plots.draw_curves(several).decode()
  assert len(re.findall(r">[^<>]*\bloss<", drawn)) == 4
  assert drawn.count(">accuracy<") == 1
  assert plots.draw_curves(several[:1]).decode().count(">loss<") == 1


def test_a_cell_with_a_bar_stays_one_cell():
  assert tables.markdown([["a"], ["x|y\nz"]]).splitlines()[-1] == r"| x\|y z |"


def test_a_measured_table_is_shown_with_its_origin(experiment, tmp_path, capsys):
  folder = tmp_path / "results" / measured.FOLDER
  folder.mkdir()
  rows = [["way", "ms"], ["slow", "2"]]
  fields = dict(title="Ways", section="Speed", commands=["python -m ways"])
  measured.report(rows, folder / "ways.json", **fields)
  assert "| slow | 2 |" in capsys.readouterr().out
  (record,) = measured.read(tmp_path / "results")
  text = report.overview(tmp_path)
  for part in (
    "## Speed",
    "### Ways",
    "| slow | 2 |",
    "python -m ways",
    record.machine,
    record.date,
  ):
    assert part in text
  assert re.fullmatch(r"\d+ cores.*", record.machine)
  (folder / "other.json").write_text('{"title": "x"}')
  with pytest.raises(UserError, match=r"other\.json: is no record .*section"):
    report.overview(tmp_path)


def test_results_md_alone(monkeypatch, tmp_path, capsys):
  written = []
  monkeypatch.setattr(report, "write_overview", lambda folder: written.append(folder) or "it")
  assert run.main(["--report"]) == 0
  assert written == [FOLDER]
  with pytest.raises(SystemExit):
    run.main([])
  assert "an experiment file is missing" in capsys.readouterr().err
