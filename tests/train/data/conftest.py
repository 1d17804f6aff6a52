"""Fixtures of the data room: a cache for each test, and the warnings that are logged."""

import pytest
from absl import logging


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  """Gives each test a cache of its own."""
  monkeypatch.setenv("SCRIPTORIUM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def warnings(monkeypatch):
  """Returns the list that logged warnings are added to."""
  lines = []

  def warning(message, *values):
    lines.append(message % values if values else message)

  monkeypatch.setattr(logging, "warning", warning)
  return lines
