"""No mutated file crashes its parser: it is read, or refused by a UserError. `python -m tests.fuzz`
tries more."""

import hypothesis
import pytest

from tests.fuzz import trying
from tests.fuzz.targets import TARGETS

# 20 s together on one core
EXAMPLES = dict.fromkeys(TARGETS, 150) | {"hf whole": 30}


@pytest.mark.parametrize("name", TARGETS)
def test_a_nearly_valid_file_is_read_or_refused(name):
  @hypothesis.settings(
    max_examples=EXAMPLES[name],
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(trying.inputs(name))
  def try_input(drawn):
    outcome = trying.attempt(name, *drawn)
    assert outcome == "accepted" or len(outcome) > len("refused: ")

  try_input()


@pytest.mark.parametrize("name", TARGETS)
def test_valid_files_are_read(name):
  """Makes sure that the test above gets beyond the first error."""
  for number, (files, changed) in enumerate(trying.seeds(name)):
    assert trying.attempt(name, number, files[changed]) == "accepted", (number, changed)
