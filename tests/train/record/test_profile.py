"""--profile_steps: which steps, and what is refused."""

import re

import jax
import jax.numpy as jnp
import pytest

from train.common.errors import UserError
from train.record.profile import Profile, parse_steps


def test_the_steps_are_read():
  assert parse_steps("10:15", 20) == range(10, 16)
  assert parse_steps("20:20", 20) == range(20, 21)


@pytest.mark.parametrize("text", ["3", "a:b", "5:4", "0:4", "4:21", "3:4:5", "-1:4"])
def test_other_ranges_are_refused(text):
  with pytest.raises(UserError, match=f"--profile_steps {text}:"):
    parse_steps(text, 20)


def test_steps_that_are_done_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"--profile_steps 5:6: .* after step 5"):
    Profile(tmp_path, range(5, 7), start=5)
  Profile(tmp_path, range(6, 7), start=5)
  Profile(tmp_path, range(0), start=5)


def traces(folder):
  return list(folder.glob("profile/plugins/profile/*/*.xplane.pb"))


def numbers(file):
  """The step numbers in a trace: (annotation, number) of the host's timeline."""
  (host,) = (p for p in jax.profiler.ProfileData.from_file(str(file)).planes if "CPU" in p.name)
  events = [event for line in host.lines for event in line.events if event.name == "train"]
  return sorted(dict(event.stats)["step_num"] for event in events)


def test_exactly_these_steps_are_traced(tmp_path):
  with Profile(tmp_path, range(5, 7), start=3) as profile:
    step = profile.watch(jax.jit(lambda state, batch: (state + batch, state)))
    state = jnp.float32(0)
    for _ in range(5):
      state, _ = step(state, 1.0)
  assert state == 5
  (file,) = traces(tmp_path)
  assert numbers(file) == [5, 6]


def test_a_trace_that_is_cut_short_is_written(tmp_path):
  with Profile(tmp_path, range(1, 9), start=0) as profile:
    profile.watch(lambda state, batch: (state, batch))(jnp.ones(3), {})
  (file,) = traces(tmp_path)
  assert re.search(rb"train", file.read_bytes())
  with Profile(tmp_path / "again", range(1, 2), start=0) as profile:  # the first is closed
    profile.watch(lambda state, batch: (state, batch))(jnp.ones(3), {})
  assert traces(tmp_path / "again")
