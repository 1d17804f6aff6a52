"""Names the places in a model at which the code that compiles it may choose a layout.

`constrain(x, name)` marks an activation, as logical axis names do in T5X and Flax. No decision
changes the function that a model computes, and by default none is made. train/sharding.py decides
for the devices of a run:

| name             | shape          | what it marks                                                |
|------------------|----------------|--------------------------------------------------------------|
| `residual`       | [B, T, D]      | the residual stream                                          |
| `sublayer_input` | [B, T, D]      | states that a sublayer or the output layer reads             |
| `heads`          | [B, T, H, K]   | queries, keys, values, and the result of attention           |
| `hidden`         | [B, T, F]      | hidden units of a feed-forward network                       |
| `table`          | [V, D]         | vectors to look up                                           |
"""

import contextlib
import contextvars


class Placement:
  """The default placement, which leaves every array as it is."""

  gathers = False  # whether `gather` does anything

  def constrain(self, x, name: str):
    """Returns the activation `x` in the layout decided for `name`."""
    del name
    return x

  def gather(self, weight, name: str):
    """Returns the weight whose path ends in `name`, laid out for its product."""
    del name
    return weight

  def spread(self, kernel):
    """Returns `kernel` for arrays in any layout; the compiler cannot lay out arrays for a kernel.

    The arrays lead with rows; of those with four axes the second is heads.
    """
    return kernel


NOTHING = Placement()
_CURRENT = contextvars.ContextVar("placement", default=NOTHING)


def current() -> Placement:
  """Returns the placement in use."""
  return _CURRENT.get()


def constrain(x, name: str):
  """Returns the activation `x`, laid out as the placement in use decides for `name`."""
  return _CURRENT.get().constrain(x, name)


def use(placement: Placement):
  """Uses `placement` until the block ends."""
  return bind(_CURRENT, placement)


@contextlib.contextmanager
def bind(variable: contextvars.ContextVar, value):
  """Sets a context variable for the block."""
  token = variable.set(value)
  try:
    yield
  finally:
    variable.reset(token)
