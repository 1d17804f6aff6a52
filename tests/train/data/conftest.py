"""Fixtures of the data room: a cache for each test, and the warnings that are logged."""

import pytest
from absl import logging

from train.data.bad_records import log_once


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  """Gives each test a cache of its own, and nothing that was logged before."""
  monkeypatch.setenv("SCRIPTORIUM_CACHE", str(tmp_path / "cache"))
  log_once.cache_clear()


@pytest.fixture
def warnings(monkeypatch):
  """Returns the list that logged warnings are added to."""
  lines = []

  def warning(message, *values):
    lines.append(message % values if values else message)

  monkeypatch.setattr(logging, "warning", warning)
  return lines
