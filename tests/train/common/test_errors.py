"""What a library raises of somebody's file is told, and nothing else is swallowed."""

import pytest

from train.common.errors import NoSplit, UserError, as_user_error


class PanicException(BaseException):
  """As Rust's is called, which no module gives."""


@pytest.mark.parametrize(
  "error", [KeyError("x"), MemoryError(), RecursionError("x"), PanicException("x")]
)
def test_an_error_or_a_panic_is_told(error):
  with (
    pytest.raises(UserError, match=f"a.json: .*({type(error).__name__}|x)"),
    as_user_error("a.json"),
  ):
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, NoSplit("x")])
def test_the_end_of_the_program_is_not_and_a_user_error_stays_what_it_is(error):
  with pytest.raises(type(error) if isinstance(error, NoSplit) else error), as_user_error("a.json"):
    raise error


def test_only_the_errors_that_are_expected_lose_their_traceback():
  with pytest.raises(UserError, match="model: size"), as_user_error("model", TypeError, ValueError):
    raise ValueError("size")
  for error in (KeyError("x"), PanicException("x"), NoSplit("x")):
    with pytest.raises(type(error)), as_user_error("model", TypeError, ValueError):
      raise error
