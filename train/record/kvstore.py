"""Lets Orbax write into buckets of S3 as it does into Google's, and retry as long as all else."""

import os

from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from train.common import buckets, paths

LONGEST_PAUSE = 32  # seconds between two tries of TensorStore's, which double from 1


def spec(path: str) -> dict:
  """Returns the store of TensorStore that holds a path in a bucket."""
  scheme, _, rest = os.fspath(path).partition("://")
  bucket, _, name = rest.partition("/")
  tries = waited = 0
  while waited < buckets.PATIENCE:
    waited += min(2**tries, LONGEST_PAUSE)
    tries += 1
  retries, store = {"max_retries": tries}, dict(bucket=bucket, path=name)
  if scheme == "gs":
    driver = os.environ.get("TENSORSTORE_GCS_BACKEND", "gcs")
    return dict(driver=driver, gcs_request_retries=retries, **store)
  region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
  endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
  more = dict(aws_region=region, endpoint=endpoint)
  return dict(driver="s3", s3_request_retries=retries, **store) | {
    key: value for key, value in more.items() if value
  }


def install() -> None:
  """Puts `spec` in the place of Orbax's own, which knows no S3 (orbax issue 359)."""
  tensorstore_utils._use_gcs_driver = paths.is_bucket
  tensorstore_utils._normalize_path = _normalize
  gcs_utils.get_kvstore_for_gcs = spec


def _normalize(path: str) -> str:
  """Returns a path without "." and ".."."""
  prefix = next((prefix for prefix in buckets.PREFIXES if path.startswith(prefix)), "")
  return prefix + os.path.normpath(path.removeprefix(prefix))
