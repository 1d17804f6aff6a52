"""Sets up eight CPU devices before jax starts, a cache folder of the session, and the data that
configs read."""

import gc
import importlib.metadata
import importlib.util
import os
import tempfile

# Compiles 7 times faster than XLA's defaults and runs half as fast: tests mostly compile. jaxlib
# 0.11 no longer has the second flag, and stops at it, as does libtpu, where it is installed.
fast = ["--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false"]
if importlib.util.find_spec("libtpu"):
  fast = []
elif not importlib.metadata.version("jaxlib").startswith("0.10."):
  fast.pop()
os.environ["SCRIPTORIUM_TEST_XLA_FLAGS"] = " ".join(fast)
os.environ["XLA_FLAGS"] = (
  f"--xla_force_host_platform_device_count=8 {os.environ['SCRIPTORIUM_TEST_XLA_FLAGS']}"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("SCRIPTORIUM_CACHE", tempfile.mkdtemp(prefix="scriptorium-test-cache-"))
# Runs of one test compile the same programs: the second reads them. Workers do not share a folder,
# as jax writes its files in place.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(
  os.environ["SCRIPTORIUM_CACHE"], os.environ.get("PYTEST_XDIST_WORKER", "alone")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# Tracing makes many objects, few of them in cycles: by Python's thresholds a twentieth of the time
# of tests/train/test_step.py went into looking for those.
gc.set_threshold(50_000, 50, 100)

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from tests import slow_list  # noqa: E402

hypothesis.settings.register_profile("busy", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("busy")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
  """Returns a folder with the files that configs read, of made-up text; nobody writes into it."""
  from tests import helpers  # it imports jax, which a test without this fixture may not need

  folder = tmp_path_factory.mktemp("corpus")
  helpers.write_data(folder)
  return folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Marks the tests of slow.txt as slow, before those are left out."""
  slow = set(slow_list.read())
  for item in items:
    if item.nodeid in slow:
      item.add_marker(pytest.mark.slow)
