"""The cache, and what the system refuses."""

import errno
import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from train.common import files

HERE = "from train.common import files; print(files.cache_dir('a'), files.cache_dir('b').parent)"


@pytest.mark.parametrize("wrong", [dict(SCRIPTORIUM_CACHE="/dev/null/x"), dict(HOME="/dev/null")])
def test_without_a_usable_cache_a_temporary_one_goes_with_the_process(wrong):
  environment = {key: x for key, x in os.environ.items() if key != "SCRIPTORIUM_CACHE"} | wrong
  result = subprocess.run(
    [sys.executable, "-c", HERE], cwd=ROOT, env=environment, capture_output=True, text=True
  )
  first, parent = result.stdout.split()
  assert first == f"{parent}/a"
  assert not os.path.exists(parent)
  assert result.stderr.count("can't be used") == 1
  assert "set SCRIPTORIUM_CACHE" in result.stderr


def test_a_usable_cache_is_used(tmp_path, monkeypatch):
  monkeypatch.setenv("SCRIPTORIUM_CACHE", str(tmp_path / "new"))
  assert files.cache_dir("a", "b") == tmp_path / "new/a/b"
  assert (tmp_path / "new/a/b").is_dir()


@pytest.mark.parametrize("number, limit", [(errno.EMFILE, "ulimit -n"), (errno.EFBIG, "ulimit -f")])
def test_a_limit_of_the_system_is_named(number, limit):
  assert f"{os.strerror(number)} ({limit}): x" == files.disk_trouble(OSError(number, "?", "x"))
  wrapped = ValueError(f"RESOURCE_EXHAUSTED: writing: {os.strerror(number)} [os_error_code]")
  assert f"{os.strerror(number)} ({limit})" == files.disk_trouble(wrapped)
