"""Rates of a mixture by share, size and temperature."""

import pytest
from ml_collections import ConfigDict

from train import schema, tasks
from train.common.errors import UserError
from train.data.streamed_batches import open_batches

SIZES = {"a": 1000, "b": 250, "c": 40}


def mixture(folder, parts=(), **settings):
  """Returns the complete section of a mixture of lines."""
  section = dict(name="mixture", main="a", tokenizer=dict(name="byte"), target_len=24)
  for name, size in SIZES.items():
    (folder / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(size)))
    splits = dict.fromkeys(("train", "validation"), f"{folder}/{name}.txt")
    part = dict(name="causal", data=dict(name="text", splits=splits, unit="line"))
    section.setdefault("parts", {})[name] = part | dict(parts).get(name, {})
  cfg = ConfigDict(section | settings)
  schema.fill(cfg, schema.task_defaults(cfg))
  return cfg


def rates(folder, **settings):
  return tasks.build(mixture(folder, **settings), folder).items("train").block_rates()


@pytest.mark.parametrize(
  "settings, weights",
  [
    ({}, (1, 1, 1)),
    (dict(parts=dict(b=dict(share=2.5))), (1, 2.5, 1)),
    (dict(alpha=1.0), (1000, 250, 40)),
    (dict(alpha=1.0, size_cap=250), (250, 250, 40)),
    (dict(alpha=0.5), (1000**0.5, 250**0.5, 40**0.5)),
    (dict(alpha=0.5, parts=dict(c=dict(share=3))), (1000**0.5, 250**0.5, 3 * 40**0.5)),
    (dict(alpha=1.0, parts=dict(a=dict(data=dict(limit=dict(train=250))))), (250, 250, 40)),
  ],
)
def test_rates_are_shares_times_sizes_to_the_power_of_alpha(settings, weights, tmp_path):
  settings = {**settings}
  if "data" in (part := settings.get("parts", {}).get("a", {})):
    whole = mixture(tmp_path).parts.a.data.to_dict()
    settings["parts"] = dict(a=dict(data=whole | part["data"]))
  expected = [weight / sum(weights) for weight in weights]
  found = rates(tmp_path, **settings)
  assert list(found.values()) == pytest.approx(expected, abs=1e-3)
  assert sum(found.values()) == pytest.approx(1)
  assert rates(tmp_path, **settings) == found


def test_rates_of_streamed_parts_are_those_of_listed_ones_nearly(tmp_path, caplog):
  listed = rates(tmp_path, alpha=1.0)
  parts = {"a": dict(data=mixture(tmp_path).parts.a.data.to_dict() | dict(stream=True))}
  with caplog.at_level("INFO"):
    streamed = rates(tmp_path, alpha=1.0, parts=parts)
  assert streamed == pytest.approx(listed, rel=0.2)
  assert "a 7" in caplog.text
  assert "(about 1" in caplog.text
  assert "(250 examples)" in caplog.text


def test_evaluation_takes_the_shares(tmp_path):
  task = tasks.build(mixture(tmp_path, alpha=1.0), tmp_path)
  assert task.items("validation").rates == dict.fromkeys(SIZES, 1.0)


def test_caps_of_the_config_reach_the_stream(tmp_path):
  cfg = mixture(tmp_path, parts=dict(c=dict(max_epochs=2)))
  task = tasks.build(cfg, tmp_path)
  assert task.items("train").epochs == {"c": 2}
  assert not task.items("validation").epochs
  with pytest.raises(UserError, match=r"c\.max_epochs"):
    open_batches(task.items("train"), tasks.layout(task, 4), seed=0, workers=0)
