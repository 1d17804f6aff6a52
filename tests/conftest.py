"""Eight CPU devices for every test, set before jax starts; caches go to a folder of the session."""

import os
import tempfile

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("SCRIPTORIUM_CACHE", tempfile.mkdtemp(prefix="scriptorium-test-cache-"))
