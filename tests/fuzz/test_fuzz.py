"""No file crashes its parser: it is read, or refused by a UserError. `python -m tests.fuzz` tries
more."""

import hypothesis
import pytest

from tests.fuzz import trying
from tests.fuzz.targets import TARGETS

# 20 s together on one core
EXAMPLES = dict.fromkeys(TARGETS, 150) | {"hf whole": 30}


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_nearly_right_is_read_or_refused(name):
  @hypothesis.settings(
    max_examples=EXAMPLES[name],
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(trying.inputs(name))
  def every(drawn):
    told = trying.attempt(name, *drawn)
    assert told == "accepted" or len(told) > len("refused: ")

  every()


@pytest.mark.parametrize("name", TARGETS)
def test_the_valid_files_are_read(name):
  """Else the test above sees nothing but the first error."""
  for number, (files, changed) in enumerate(trying.seeds(name)):
    assert trying.attempt(name, number, files[changed]) == "accepted", (number, changed)
