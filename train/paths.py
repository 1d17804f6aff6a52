"""Where things that outlive a run are kept."""

import os
import pathlib


def cache_dir(*parts: str) -> pathlib.Path:
  """A folder under $SCRIPTORIUM_CACHE (else ~/.cache/scriptorium), made if it is not there."""
  root = os.environ.get("SCRIPTORIUM_CACHE") or pathlib.Path.home() / ".cache" / "scriptorium"
  path = pathlib.Path(root, *parts)
  path.mkdir(parents=True, exist_ok=True)
  return path
