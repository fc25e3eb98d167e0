"""Depthwise convolution: the form for CPUs is the convolution of `lax`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pixel_bert_jax.ops.depthwise import NHWC, depthwise


@pytest.mark.parametrize(
    ("size", "side", "stride", "padding"),
    [
        ((7, 8), 3, 1, "half"),
        ((1, 3), 5, 1, "half"),
        ((7, 8), 5, 2, "VALID"),
        ((8, 7), 3, 2, "one side"),
        ((1, 3), 5, 2, "one side"),
    ],
)
def test_it_is_the_convolution_of_lax(size, side, stride, padding):
    around = {"VALID": "VALID", "half": [(side // 2,) * 2] * 2}.get(
        padding, [(0, side), (side - 1, 0)]
    )
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 6)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(side, side, 1, 6)), jnp.float32)
    strides = (stride, stride)

    def wanted(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            around,
            dimension_numbers=NHWC,
            feature_group_count=6,
        )

    def found(x, kernel):
        return depthwise(x, kernel, strides, around)

    def both(function):
        def total(x, kernel):
            out = function(x, kernel)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, kernel)

    for got, want in zip(
        *map(jax.tree.leaves, map(both, (found, wanted))), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_other_machines_convolve():
    x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 1, 4))
    function = jax.jit(lambda *a: depthwise(*a, (1, 1), [(1, 1), (1, 1)]))
    for platform, number in (("tpu", 1), ("cuda", 1), ("cpu", 0)):
        traced = function.trace(x, kernel)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == number, platform
