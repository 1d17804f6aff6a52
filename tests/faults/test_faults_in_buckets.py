"""A run in a bucket, hurt in every way, is the run on a disk that nobody touched."""

import collections

import pytest

from tests import buckets
from tests.faults import soak


@pytest.fixture
def google(monkeypatch):
  for package in ("gcp_storage_emulator", "gcsfs"):
    pytest.importorskip(package, reason="requirements-dev.txt has it")
  server = buckets.Google()
  for name, value in server.environment.items():
    monkeypatch.setenv(name, value)
  yield server
  server.close()


@pytest.mark.slow
@pytest.mark.parametrize(
  "ways",
  [
    ("kill", "kill", "terminate", "lose_network", "kill"),
    ("kill_evaluating", "kill_sealing", "flip", "start_twice", "kill_worker"),
  ],
)
def test_hurt_in_a_bucket_it_is_the_same_run(google, tmp_path, ways):
  runs = soak.endure(tmp_path, collections.Counter(ways), seed=3, bucket=google)
  assert sum(len(steps) for run in runs for steps in run.lost.values()) >= len(ways)
