"""Eight CPU devices for every test, set before jax starts; caches go to a folder of the session."""

import importlib.metadata
import os
import tempfile

# Compiles 7 times faster than XLA's defaults and runs half as fast: tests mostly compile. jaxlib
# 0.11 no longer has the second flag, and stops at it.
os.environ["SCRIPTORIUM_TEST_XLA_FLAGS"] = " ".join(
  ["--xla_backend_optimization_level=0"]
  + ["--xla_cpu_use_fusion_emitters=false"]
  * importlib.metadata.version("jaxlib").startswith("0.10.")
)
os.environ["XLA_FLAGS"] = (
  f"--xla_force_host_platform_device_count=8 {os.environ['SCRIPTORIUM_TEST_XLA_FLAGS']}"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("SCRIPTORIUM_CACHE", tempfile.mkdtemp(prefix="scriptorium-test-cache-"))

import hypothesis

hypothesis.settings.register_profile("busy", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("busy")
