"""Fixtures of the tests of tasks."""

import pytest

from tests.train.tasks import helpers


@pytest.fixture(scope="session")
def data(tmp_path_factory):
  """Returns a folder with made-up files of each kind; nobody writes into it."""
  folder = tmp_path_factory.mktemp("data")
  helpers.write_data(folder)
  return folder
