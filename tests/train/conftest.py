"""Fixtures of the tests of training."""

import os

import pytest

from tests import buckets as servers


@pytest.fixture(scope="session")
def batch():
  """Returns a batch of packed rows of very different weight; nobody changes it."""
  from tests.train import helpers  # it imports jax, which the data room does without

  return helpers.uneven_batch()


def start(kind, package, *needs):
  for name in (package, *needs):
    pytest.importorskip(name, reason="requirements-dev.txt has it")
  server = kind()
  os.environ.update(server.environment)
  return server


@pytest.fixture(scope="session")
def google():
  """Returns a server with an empty bucket; TensorStore reads its address once a process."""
  server = start(servers.Google, "gcp_storage_emulator", "gcsfs")
  yield server
  server.close()


@pytest.fixture(scope="session")
def amazon():
  server = start(servers.Amazon, "moto", "s3fs", "boto3")
  yield server
  server.close()
