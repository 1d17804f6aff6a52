"""Sets up Orbax for a folder of checkpoints, on a disk or in a bucket, of Amazon's too."""

import os

from orbax.checkpoint import v1 as ocp
from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from train.common import buckets, paths

LONGEST_PAUSE = 32  # seconds between two tries of TensorStore's, which double from 1


def make(folder: paths.Path) -> ocp.Context:
  """Returns the context in which checkpoints are saved in a folder and loaded from it."""
  registry = ocp.handlers.local_registry()
  registry.add(ocp.handlers.JsonHandler, checkpointable_name="data")
  context = ocp.Context()
  context.checkpointables.registry = registry
  # Replicas write slices of a weight side by side. XLA compiles a program for each shape, which
  # takes longer than to write a small weight whole.
  context.array.saving.min_slice_bytes_for_replica_parallel = 2**20
  if paths.is_bucket(folder):
    context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    context.file_options.skip_sync_file_validations = True  # requests that hold the step
    # Orbax knows Google's buckets alone (orbax issue 359); TensorStore, which writes, knows both.
    tensorstore_utils._use_gcs_driver = paths.is_bucket
    tensorstore_utils._normalize_path = _normalize
    gcs_utils.get_kvstore_for_gcs = store
  return context


def store(path: str) -> dict:
  """Returns TensorStore's description of the store that holds a path in a bucket."""
  scheme, _, rest = os.fspath(path).partition("://")
  bucket, _, name = rest.partition("/")
  tries = waited = 0
  while waited < buckets.PATIENCE:
    waited += min(2**tries, LONGEST_PAUSE)
    tries += 1
  retries, place = {"max_retries": tries}, dict(bucket=bucket, path=name)
  if scheme == "gs":
    driver = os.environ.get("TENSORSTORE_GCS_BACKEND", "gcs")
    return dict(driver=driver, gcs_request_retries=retries, **place)
  region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
  endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
  more = dict(aws_region=region, endpoint=endpoint)
  if "AWS_ACCESS_KEY_ID" in os.environ:  # else it logs an error for each other place that is empty
    more["aws_credentials"] = dict(type="environment")
  return dict(driver="s3", s3_request_retries=retries, **place) | {
    key: value for key, value in more.items() if value
  }


def _normalize(path: str) -> str:
  """Returns a path without "." and ".."."""
  prefix = next((prefix for prefix in buckets.PREFIXES if path.startswith(prefix)), "")
  return prefix + os.path.normpath(path.removeprefix(prefix))
