"""Virtual streams: one order for any number of workers and processes, resumable anywhere."""

import collections
import dataclasses
import json
import os
import signal

import numpy as np
import pytest

from tests.train.data.helpers import WORDS, Texts, assert_same_batches, pairs, take
from train.common.errors import UserError
from train.data import documents, packing
from train.data.batches import Batches, Layout
from train.data.mixed_items import MixedItems
from train.data.source import Block
from train.data.streamed_batches import StreamedBatches, open_batches
from train.data.tokenizer_training import train_tokenizer

LAYOUT = Layout(8, 24, 16)
MASKED = train_tokenizer(
  {"name": "word", "special": ["<mask>"]}, [Texts(400)[i]["source"] for i in range(400)]
)


@dataclasses.dataclass(frozen=True)
class Cut:
  """Sentences as shards of some blocks; some blocks are empty, and one record of 50 is bad."""

  n: int = 300
  size: int = 7
  fingerprint: str = "cut"
  num_bytes: int = 1000
  with_bad: bool = False

  @property
  def num_shards(self):
    return -(-self.n // (3 * self.size))

  def blocks(self, shard, first=0):
    start = shard * 3 * self.size
    for block in range(first, 4):
      numbers = range(start + block * self.size, min(start + (block + 1) * self.size, self.n))
      numbers = [i for i in numbers if i < start + 3 * self.size]
      bad = [f"sentence {i}" for i in numbers if self.with_bad and i % 50 == 49]
      kept = [i for i in numbers if not self.with_bad or i % 50 != 49]
      yield Block([Texts(self.n)[i] | {"text": Texts(self.n)[i]["source"]} for i in kept], bad)


class Killer(Cut):
  """Shard 3 ends the worker that reads it for the first time."""

  def blocks(self, shard, first=0):
    if shard == 3 and os.environ.get("SCRIPTORIUM_TEST_KILL"):
      mark = os.environ["SCRIPTORIUM_TEST_KILL"]
      if not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return super().blocks(shard, first)


def windows(source=None, objective=None, **options):
  tokens = documents.Tokens(source or Cut(), MASKED)
  objective = objective or documents.MaskedLm(MASKED.roles, MASKED.words, 0.3)
  return documents.Windows(tokens, 9, objective, **options)


ITEMS = {
  "pairs": (pairs(Cut()), LAYOUT),
  "mlm": (windows(), Layout(8, 24, 0, most_hidden=7)),
  "causal": (
    windows(objective=documents.NextToken(WORDS.roles), cross_documents=True),
    Layout(8, 0, 16),
  ),
  "mixed": (
    MixedItems(
      {"a": pairs(Cut()), "b": pairs(Texts(40)), "c": pairs(Cut(50, fingerprint="c"))},
      {"a": 3, "b": 1, "c": 1},
      {"c": 1.5},
    ),
    LAYOUT,
  ),
}


def batches(kind="pairs", source=None, **options):
  items, layout = ITEMS[kind]
  items = pairs(source) if source else items
  changes = {
    key: options.pop(key) for key in ("process_index", "process_count", "pack") if key in options
  }
  layout = dataclasses.replace(layout, **changes)
  return StreamedBatches(items, layout, **{"seed": 0, "count": 4} | options)


def sentences(batch):
  """Returns the number of each example in the batch, in order."""
  rows, columns = np.nonzero((batch["positions"] == 0) & (batch["segments"] > 0))
  return [int(WORDS.decode([i])) for i in batch["labels"][rows, columns]]


def sentences_of(batches):
  return [number for batch in batches for number in sentences(batch)]


def saved(stream):
  return json.loads(json.dumps(stream.get_state()))


@pytest.mark.parametrize("n", [1, 2, 5, packing.SMALL, 5000, 17_000])
def test_shards_are_shuffled_anew_every_epoch(n):
  order = packing.permuted(n, 3)
  epochs = [[order(epoch * n + i) for i in range(n)] for epoch in range(2)]
  assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
  if n > 5:
    assert epochs[0] != epochs[1]
    assert epochs[0] != [packing.permuted(n, 4)(i) for i in range(n)]
    follows = np.mean(np.diff(epochs[0]) == 1)
    assert follows < 10 / n


@pytest.mark.parametrize("kind", ITEMS)
@pytest.mark.parametrize("cut", [0, 1, 6, 31])
def test_a_resumed_stream_is_uninterrupted(kind, cut):
  with batches(kind) as whole, batches(kind) as before, batches(kind) as after:
    expected = take(whole, 45)
    assert whole.counts()["epoch"] >= 1
    actual, state = take(before, cut), saved(before)
    take(after, 3)
    after.set_state(state)
    assert saved(after) == state
    actual += take(after, 45 - cut)
    assert_same_batches(actual, expected)
    assert after.counts() == whole.counts()
    assert saved(after) == saved(whole)


@pytest.mark.parametrize("kind", ITEMS)
def test_workers_change_nothing(kind):
  with batches(kind) as alone:
    expected, end = take(alone, 12), saved(alone)
  with batches(kind, workers=1) as one:
    assert_same_batches(take(one, 5), expected[:5])
    state = saved(one)
  with batches(kind, workers=3, lookahead=2) as three:
    three.set_state(state)
    assert_same_batches(take(three, 7), expected[5:])
    assert saved(three) == end


@pytest.mark.parametrize("kind", ITEMS)
def test_any_number_of_processes_makes_the_same_batches(kind):
  """A run goes on from 1 to 2, 4 and again 1 process."""
  with batches(kind) as whole:
    expected, end = take(whole, 24), saved(whole)
  actual, state = [], None
  for count in (1, 2, 4, 1):
    parts = [batches(kind, process_index=i, process_count=count) for i in range(count)]
    if state:
      for part in parts:
        part.set_state(state)
    taken = [take(part, 6) for part in parts]
    for rows in zip(*taken):
      actual.append({key: np.concatenate([row[key] for row in rows]) for key in rows[0]})
    gathered = [part.get_state() for part in parts]
    state = gathered[0] | {"states": {k: x for g in gathered for k, x in g["states"].items()}}
    state = json.loads(json.dumps(state))
    for part in parts:
      part.__exit__()
  assert_same_batches(actual, expected)
  assert state == end


def test_a_process_reads_its_own_shards_alone(monkeypatch):
  read = collections.defaultdict(set)

  class Watched(Cut):
    process = 0

    def blocks(self, shard, first=0):
      read[Watched.process].add(shard)
      return super().blocks(shard, first)

  for Watched.process in range(4):
    options = dict(process_index=Watched.process, process_count=4)
    with batches(source=Watched(9000), **options) as part:
      take(part, 5)
  owners = collections.Counter(shard for shards in read.values() for shard in shards)
  assert max(owners.values()) == 1
  assert len(read) == 4


@pytest.mark.parametrize("pack", [True, False])
def test_every_example_comes_once_an_epoch(pack):
  seen = collections.Counter()
  with batches(pack=pack) as stream:
    while stream.counts()["epoch"] < 2:
      seen.update(sentences(next(stream)))
    state = stream.get_state()
  assert sorted(seen) == list(range(300))
  pending = sum(len(x["pending"]) for x in state["states"].values())
  examples = sum(x["counts"]["examples"] for x in state["states"].values())
  # what was read and is neither delivered nor carried is the rest of each stream's block
  assert 0 <= examples - seen.total() - pending <= 4 * 7
  assert min(seen.values()) >= 1
  assert max(seen.values()) <= 4


def test_shards_of_other_seeds_and_epochs_come_in_another_order():
  def order(seed):
    with batches(pack=False, seed=seed) as stream:
      return [sentences(batch) for batch in take(stream, 80)]

  assert order(0) == order(0)
  assert order(0) != order(1)
  assert order(0)[:37] != order(0)[37:74]


def test_masks_depend_on_the_place_in_the_stream_unless_they_are_fixed():
  def masks(fixed, epochs=3):
    items = windows(Cut(28, 7), fixed_masks=fixed)
    found = collections.defaultdict(set)
    with StreamedBatches(items, Layout(4, 11, 0, pack=False, most_hidden=3), seed=0, count=1) as x:
      while x.counts()["epoch"] < epochs:
        batch = next(x)
        for labels, source, weights in zip(batch["labels"], batch["source"], batch["weights"]):
          whole = np.where(weights > 0, labels, source)
          found[tuple(whole.tolist())].add(tuple(np.flatnonzero(weights).tolist()))
    return found

  assert all(len(places) == 1 for places in masks(True).values())
  assert any(len(places) > 1 for places in masks(False).values())


def test_tokens_and_padding_are_counted():
  with batches() as stream:
    delivered = take(stream, 20)
    counts = stream.counts()
  tokens = sum(batch["weights"].sum() for batch in delivered)
  assert counts["tokens"] == tokens
  assert counts["padding"] == pytest.approx(1 - tokens / (20 * 8 * 16))


@pytest.mark.parametrize("rows", [1, 4])
def test_rows_of_a_stream_have_little_padding(rows):
  rng = np.random.default_rng(0)
  texts = [" ".join(["x"] * n) for n in rng.geometric(0.02, 3000)]

  class Long(Cut):
    num_shards = 100

    def blocks(self, shard, first=0):
      yield from [Block([{"text": text} for text in texts[shard::100]])][first:]

  items = documents.Windows(
    documents.Tokens(Long(), WORDS), 128, documents.NextToken(WORDS.roles), False
  )
  with StreamedBatches(items, Layout(8 * rows, 0, 128), seed=0, count=8) as stream:
    take(stream, 60)
    assert stream.counts()["padding"] < 0.06


def test_a_mixture_keeps_its_rates_and_its_caps():
  items = MixedItems(
    {"a": pairs(Cut()), "b": pairs(Cut(60, fingerprint="b"))}, {"a": 1, "b": 1}, {"b": 2}
  )
  with StreamedBatches(items, LAYOUT, seed=0, count=4) as stream:
    take(stream, 4)
    early = stream.get_state()["states"]
    take(stream, 200)
    late = stream.get_state()["states"]
  for state in early.values():
    names = collections.Counter(place[0] for place in state["pending"])
    assert set(names) <= {"a", "b"}
  ends = [state["supply"]["parts"]["b"]["shard"] for state in late.values()]
  assert sum(ends) == 2 * Cut(60).num_shards  # each shard twice, and no more


def test_caps_are_for_streams():
  items = MixedItems({"a": pairs(Texts(40)), "b": pairs(Texts(60))}, {"a": 1, "b": 1}, {"b": 2})
  with pytest.raises(UserError, match=r"parts\.b\.max_epochs .*--config\.streams=8"):
    open_batches(items, LAYOUT, seed=0, workers=0)
  with open_batches(items, LAYOUT, seed=0, workers=0, count=2) as stream:
    seen = collections.Counter(sentences_of(take(stream, 60)))
  # those of b alone are 40 to 59, those of both come from a for ever
  assert [seen[i] for i in range(40, 60)] == [2] * 20


def test_parts_on_the_same_data_read_them_in_orders_of_their_own():
  items = MixedItems({"a": pairs(Cut()), "b": pairs(Cut())}, {"a": 1, "b": 1})
  with StreamedBatches(items, LAYOUT, seed=0, count=1) as stream:
    counts = collections.Counter(sentences_of(take(stream, 12)))
  assert counts.total() > 100
  assert np.mean([count == 1 for count in counts.values()]) > 0.5


def test_a_small_part_does_not_limit_the_streams():
  items = MixedItems({"a": pairs(Cut()), "b": pairs(Cut(5, fingerprint="b"))}, {"a": 1, "b": 1})
  with open_batches(items, LAYOUT, seed=0, workers=0) as stream:
    assert stream.streams == 8


def test_a_position_at_other_rates_is_refused():
  def opened(**rates):
    parts = {name: pairs(Cut()) for name in rates}
    return StreamedBatches(MixedItems(parts, rates), LAYOUT, seed=0, count=2)

  with opened(a=1, b=1) as stream, opened(a=1, b=2) as other, opened(a=1, b=2, c=1) as more:
    take(stream, 2)
    with pytest.raises(UserError, match="rates"):
      other.set_state(saved(stream))
    more.set_state(saved(stream))


def test_a_source_is_added_at_a_restart():
  two, three = {"a": pairs(Cut()), "b": pairs(Texts(40))}, {"c": pairs(Cut(50, fingerprint="c"))}
  rates = {"a": 1, "b": 1, "c": 1}

  def opened(parts):
    return StreamedBatches(MixedItems(parts, {x: rates[x] for x in parts}), LAYOUT, seed=0, count=4)

  with opened(two) as stream:
    take(stream, 5)
    state = saved(stream)
  with opened(two | three) as more:
    more.set_state(state)
    expected = take(more, 10)
    assert saved(more)["data"] == {"a": "cut", "b": "texts-40", "c": "c"}
    middle = saved(more)
    rest = take(more, 5)
  with opened(two | three) as again:
    again.set_state(state)
    assert_same_batches(take(again, 10), expected)
    again.set_state(middle)
    assert_same_batches(take(again, 5), rest)
  with opened({"a": two["a"]}) as fewer, pytest.raises(UserError, match=r"\bb\b"):
    fewer.set_state(state)
  with opened(two | {"b": pairs(Texts(41))}) as other, pytest.raises(UserError, match="texts-41"):
    other.set_state(state)


def test_a_dead_worker_is_replaced(tmp_path, monkeypatch):
  with batches(source=Killer()) as alone:
    expected = take(alone, 30)
  monkeypatch.setenv("SCRIPTORIUM_TEST_KILL", str(tmp_path / "killed"))
  with batches(source=Killer(), workers=2) as stream:
    assert_same_batches(take(stream, 30), expected)
  assert (tmp_path / "killed").exists()


def test_bad_records_are_counted_as_they_come(monkeypatch):
  refused = pytest.raises(UserError, match=r"data: 101 of 10,000 records cannot be read")
  with batches(source=Cut(3000, with_bad=True)) as stream, refused:
    take(stream, 400)
  with batches(source=Cut(200, with_bad=True)) as stream:
    take(stream, 3)
    counts = stream.counts()
    assert 0 < counts["skipped_records"] <= 5


def test_what_cannot_be_shared_is_refused():
  with pytest.raises(UserError, match="batch_size=8"):
    batches(count=3)
  with pytest.raises(UserError, match="streams=4 must be a multiple of the 8 processes"):
    batches(process_count=8)
  few = open_batches(pairs(Cut(40)), LAYOUT, seed=0, workers=0)  # two shards
  assert few.get_state()["streams"] == 2


def test_positions_of_other_data_are_refused():
  with batches() as stream, batches(seed=1) as other:
    take(stream, 2)
    with pytest.raises(UserError, match="seed"):
      other.set_state(stream.get_state())
  with Batches(pairs(Texts(40)), LAYOUT, seed=0) as listed:
    take(listed, 1)
    with pytest.raises(UserError, match="stream=False"):
      stream.set_state(listed.get_state())
    with pytest.raises(UserError, match="streamed"):
      listed.set_state(saved(stream))


def test_small_data_are_streamed_where_streams_are_demanded():
  seen = collections.Counter()
  with open_batches(pairs(Texts(60)), LAYOUT, seed=0, workers=0, count=2) as stream:
    assert isinstance(stream, StreamedBatches)
    for batch in take(stream, 40):
      seen.update(sentences(batch))
  assert len(seen) == 60
  assert max(seen.values()) <= min(seen.values()) + 2


@pytest.mark.parametrize("count", [1, 2])
def test_shards_without_items_are_passed_over(count):
  class Sparse(Cut):
    """Every third shard has examples."""

    num_shards = 3

    def blocks(self, shard, first=0):
      return super().blocks(shard, first) if shard == 1 else iter(())

  with batches(source=Sparse(), count=count) as stream:
    seen = {number for batch in take(stream, 200) for number in sentences(batch)}
  assert seen == set(range(21, 42))


def test_data_without_any_item_are_refused():
  class Empty(Cut):
    num_shards = 3

    def blocks(self, shard, first=0):
      return iter(())

  with batches(source=Empty(), count=1) as stream, pytest.raises(UserError, match="have no item"):
    next(stream)
