"""Opens buckets (gs://, s3://) by fsspec, and repeats requests while they cannot be reached."""

import asyncio
import functools
import importlib
import os
import re
import time

from absl import logging

from train.common.errors import UserError

# scheme -> package, its class of file systems, and the method that sends each request
SCHEMES = {
  "gs": ("gcsfs", "GCSFileSystem", "_call"),
  "s3": ("s3fs", "S3FileSystem", "_call_s3"),
}
PREFIXES = tuple(f"{scheme}://" for scheme in SCHEMES)
# Seconds in which a request is repeated before the run ends.
PATIENCE = float(os.environ.get("SCRIPTORIUM_BUCKET_SECONDS") or 600)
LONGEST_PAUSE = 30  # seconds between two tries
LIBRARIES = ("gcsfs", "s3fs", "aiohttp", "requests", "google", "botocore", "aiobotocore", "fsspec")
DENIED = re.compile(
  r"Forbidden|PERMISSION_?DENIED|AccessDenied|Access Denied|UNAUTHENTICATED|Anonymous caller"
  r"|Invalid Credentials|(Unable to locate|could not automatically determine|default) credentials"
  r"|\b40[13]\b",
  re.IGNORECASE,
)
ABSENT = re.compile(r"bucket does not exist|NoSuchBucket|notFound.*bucket", re.IGNORECASE)
UNREACHABLE = re.compile(
  r"(gs|s3)://.*(UNAVAILABLE|DEADLINE_EXCEEDED|CURL error|Failed to connect|HTTP response code: 5)",
  re.DOTALL,
)


class BucketError(Exception):
  """A failure of a bucket; the message names it and what to do. It is no OSError: nobody may take
  a file that could not be read for one that is missing or damaged."""


@functools.cache
def file_system(scheme: str):
  """Returns the fsspec file system of a scheme; raises UserError where its package is missing.

  Orbax's paths use it too. It keeps no listings, as other processes write into the same folders.
  """
  import fsspec

  package, name, method = SCHEMES[scheme]
  os.environ.setdefault("EPATH_USE_TF", "false")  # else Orbax imports TensorFlow where it is
  # Else gcsfs asks by gRPC for the kind of each bucket, and waits a minute where it may not.
  os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  try:
    base = getattr(importlib.import_module(package), name)
  except ImportError as error:
    raise UserError(
      f"{scheme}:// needs the Python package {package} ({error}): pip install -r"
      " requirements-buckets.txt"
    ) from error
  patient = _patient(base, method)
  for protocol in [base.protocol] if isinstance(base.protocol, str) else base.protocol:
    fsspec.register_implementation(protocol, patient, clobber=True)
    fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
  return fsspec.filesystem(scheme)


def register(text: str) -> None:
  """Makes fsspec know the schemes that `text` has, for code that asks fsspec itself."""
  for scheme, prefix in zip(SCHEMES, PREFIXES):
    if prefix in text:
      file_system(scheme)


def _patient(base: type, method: str) -> type:
  """Returns a class of file systems that sends a request again while the bucket cannot be reached.

  The base class tries again for half a minute, silently.
  """
  call = getattr(base, method)

  async def patient_call(self, *args, **kwargs):
    began, pause = time.monotonic(), 1
    while True:
      try:
        return await call(self, *args, **kwargs)
      except Exception as error:
        if isinstance(error, FileNotFoundError | FileExistsError) and not ABSENT.search(str(error)):
          raise
        if not is_unreachable(error) or time.monotonic() - began > PATIENCE:
          raise BucketError(trouble(error) or first_line(error)) from error
        logging.warning(
          "the bucket cannot be reached (%s): trying again for %.0f s",
          first_line(error),
          began + PATIENCE - time.monotonic(),
        )
      await asyncio.sleep(pause)
      pause = min(2 * pause, LONGEST_PAUSE)

  return type(base.__name__, (base,), {method: patient_call})


def is_unreachable(error: BaseException) -> bool:
  """Returns whether an error of a bucket's library may be gone in a while."""
  if isinstance(error, FileNotFoundError | FileExistsError | PermissionError):
    return False
  library = type(error).__module__.partition(".")[0]
  is_theirs = library in LIBRARIES or isinstance(error, OSError | TimeoutError)
  return is_theirs and not DENIED.search(str(error)) and not ABSENT.search(str(error))


def trouble(error: BaseException) -> str | None:
  """Returns what is wrong, and what to do, where a bucket caused `error`, else None."""
  if isinstance(error, BucketError):
    return str(error)
  text, library = str(error), type(error).__module__.partition(".")[0]
  is_theirs = library in LIBRARIES or "://" in text or "/b/" in text or "Forbidden" in text
  if is_theirs and ABSENT.search(text):
    return f"there is no such bucket ({first_line(error)}): create it, or correct its name"
  if is_theirs and (DENIED.search(text) or isinstance(error, PermissionError)):
    return (
      f"no permission ({first_line(error)}): log in (gcloud auth application-default login, aws"
      " configure), and let the account list, read, write and delete objects of the bucket"
    )
  if UNREACHABLE.search(text) or (library in LIBRARIES and is_unreachable(error)):
    return f"the bucket could not be reached for {PATIENCE:.0f} s ({first_line(error)})"
  return None


def first_line(error: BaseException) -> str:
  """Returns the beginning of an error's message, or its kind where it has none."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return ": ".join(lines[:2])[:200] or type(error).__name__
