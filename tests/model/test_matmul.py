"""A layer's product and its written-out gradients, beside autodiff's."""

import functools
import re

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import numpy as np
import pytest

from model import layers, matmul
from tests.platforms import compute_as

ROWS, IN, OUT = (4, 8), (6,), (10,)


def arrays(rows, inputs, outs, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = (*rows, *inputs), (*inputs, *outs), (*rows, *outs)
  return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes)]


def numbers(rows, inputs):
  n, count = len(rows), len(inputs)
  return (tuple(range(n, n + count)), tuple(range(count))), ((), ())


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize(
  "rows, inputs, outs",
  [(ROWS, IN, OUT), (ROWS, IN, (3, 5)), (ROWS, (3, 5), OUT), ((4,), IN, OUT), ((2, 3, 4), IN, OUT)],
  ids=["dense", "to heads", "from heads", "one token", "three axes"],
)
def test_gradients_are_autodiffs(rows, inputs, outs, dtype, tolerance, platform, monkeypatch):
  compute_as(platform, monkeypatch)
  x, weight, cotangent = arrays(rows, inputs, outs, dtype)
  dims = numbers(rows, inputs)
  ours, ours_back = jax.vjp(lambda *args: matmul.product(*args, dims), x, weight)
  theirs, theirs_back = jax.vjp(lambda *args: jax.lax.dot_general(*args, dims), x, weight)
  np.testing.assert_array_equal(ours, theirs)
  for one, other in zip(ours_back(cotangent), theirs_back(cotangent), strict=True):
    assert one.dtype == other.dtype
    scale = np.abs(np.asarray(other, np.float32)).max()
    np.testing.assert_allclose(
      np.asarray(one, np.float32), np.asarray(other, np.float32), atol=tolerance * scale
    )


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("rows, outs", [(ROWS, (3, 5)), (ROWS, OUT), ((4,), (3, 5))])
def test_gradients_of_a_bias_are_sums(rows, outs, dtype, tolerance, platform, monkeypatch):
  compute_as(platform, monkeypatch)
  *_, y = arrays(rows, IN, outs, dtype)
  bias = jnp.full(outs, 0.5, dtype)
  result, back = jax.vjp(matmul.add_bias, y, bias)
  np.testing.assert_array_equal(result, y + bias)
  y_gradient, bias_gradient = back(y)
  np.testing.assert_array_equal(y_gradient, y)
  assert bias_gradient.dtype == y.dtype
  total = np.asarray(y, np.float64).reshape(-1, *outs).sum(0)
  scale = np.abs(total).max()
  np.testing.assert_allclose(np.asarray(bias_gradient, np.float64), total, atol=tolerance * scale)


def test_a_tpu_contracts_all_axes_of_rows_and_others_one():
  """Programs are lowered for platforms that are not here, without their compilers."""

  def gradient(x, weight, cotangent):
    return jax.vjp(lambda w: matmul.product(x, w, numbers(ROWS, IN)), weight)[1](cotangent)

  traced = jax.jit(gradient).trace(*arrays(ROWS, IN, OUT))
  for platform, axes in (("tpu", "[0, 1] x [0, 1]"), ("cpu", "[0] x [0]"), ("cuda", "[0] x [0]")):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    products = re.findall(r"dot_general .*contracting_dims = (\[.*?\] x \[.*?\])", text)
    assert products == [axes]


def transposed(function, size):
  """Names of instructions that write an array of `size` elements in another order."""
  x, weight, cotangent = arrays(ROWS, IN, OUT)

  def backward(x, weight, cotangent):
    return jax.vjp(lambda *args: function(*args, numbers(ROWS, IN)), x, weight)[1](cotangent)

  text = jax.jit(backward).lower(x, weight, cotangent).compile().as_text()
  found = re.findall(r"f32\[([\d,]+)\]\S* transpose\(", text)
  return [shape for shape in found if np.prod([int(n) for n in shape.split(",")]) == size]


def test_no_array_of_all_rows_is_transposed():
  """That took a third of a step; autodiff's dot_general does it, so the test sees it."""
  size = int(np.prod(ROWS + OUT))
  assert transposed(jax.lax.dot_general, size)
  assert not transposed(matmul.product, size)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_what_computes_layers_again_can_keep_products(remat, capsys):
  x, weight, _ = arrays(ROWS, IN, OUT)

  def layer(x, weight):
    return jnp.sin(matmul.product(jnp.sin(x), weight, numbers(ROWS, IN))).sum()

  policy = layers.REMAT[remat]
  jax.ad_checkpoint.print_saved_residuals(jax.checkpoint(layer, policy=policy), x, weight)
  assert ("f32[4,8,10] named 'product'" in capsys.readouterr().out) == (remat == "dots")


@pytest.mark.parametrize(
  "dims",
  [(((0,), (0,)), ((), ())), (((2,), (1,)), ((), ())), (((2,), (1,)), ((0,), (0,)))],
  ids=["first axis", "last of the weight", "batches"],
)
def test_what_is_no_layers_product_is_refused(dims):
  with pytest.raises(ValueError, match="not a layer's product"):
    jax.eval_shape(
      functools.partial(matmul.product, dimension_numbers=dims), *arrays(ROWS, IN, OUT)[:2]
    )
