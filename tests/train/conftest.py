"""Fixtures of the tests of training."""

import pytest


@pytest.fixture(scope="session")
def batch():
  """Returns a batch of packed rows of very different weight; nobody changes it."""
  from tests.train import helpers  # it imports jax, which the data room does without

  return helpers.uneven_batch()
