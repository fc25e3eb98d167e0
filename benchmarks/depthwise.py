"""Times depthwise convolutions on CPUs: XLA's own against a sum of shifted products.

    python benchmarks/depthwise.py

One row for each kind of layer of EfficientNet-Lite0 at 224 x 224, 16 images: forward,
and forward with backward, both forms in turn.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
from jax import Array, lax

from pixel_bert_jax.ops.depthwise import NHWC, depthwise

IMAGES, ROUNDS = 16, 5
LAYERS = (  # side, channels, kernel
    (112, 32, 3),
    (56, 144, 3),
    (28, 240, 5),
    (14, 480, 3),
    (14, 672, 5),
    (7, 1152, 5),
)


def plain(x: Array, kernel: Array, strides: object, padding: object) -> Array:
    """Convolves as `flax.linen.Conv` does by default."""
    groups = x.shape[-1]
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=NHWC, feature_group_count=groups
    )


def functions(form: Callable[..., Array], around: object) -> tuple[Any, Any]:
    """Returns a form of the convolution, and it with its gradient, compiled."""

    def forward(x: Array, kernel: Array) -> Array:
        return form(x, kernel, (1, 1), around)

    def total(x: Array, kernel: Array) -> Array:
        return jnp.sum(forward(x, kernel) ** 2)

    return jax.jit(forward), jax.jit(jax.grad(total, (0, 1)))


def seconds(function: Callable[..., object], *inputs: Array) -> float:
    """Returns the time of one call."""
    start = time.perf_counter()
    jax.block_until_ready(function(*inputs))
    return time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    print(f"{jax.devices()[0].device_kind}, {IMAGES} images, medians of {ROUNDS}")
    print(
        "| side | channels | kernel | XLA, ms | shifted, ms | ratio | with gradient |"
    )
    print("|---|---|---|---|---|---|---|")
    for side, channels, width in LAYERS:
        keys = jax.random.split(jax.random.key(0))
        x = jax.random.normal(keys[0], (IMAGES, side, side, channels))
        kernel = jax.random.normal(keys[1], (width, width, 1, channels))
        around = [(width // 2,) * 2] * 2
        forms = {
            "xla": functions(plain, around),
            "shifted": functions(depthwise, around),
        }
        times: dict[tuple[str, int], list[float]] = {}
        for _ in range(ROUNDS + 1):  # the first compiles
            for name, both in forms.items():
                for number, function in enumerate(both):
                    found = times.setdefault((name, number), [])
                    found.append(seconds(function, x, kernel))
        median = {key: statistics.median(found[1:]) for key, found in times.items()}
        ratios = [median["xla", n] / median["shifted", n] for n in (0, 1)]
        print(
            f"| {side} | {channels} | {width} | {1e3 * median['xla', 0]:.1f} "
            f"| {1e3 * median['shifted', 0]:.1f} | {ratios[0]:.1f} | {ratios[1]:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
