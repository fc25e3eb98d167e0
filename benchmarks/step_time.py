"""Times training steps of a preset on this machine's devices, on random photos.

    python benchmarks/step_time.py --config=configs/pretrain.py:tiny
    python benchmarks/step_time.py --config=configs/pretrain.py:r50 --groups=8

Several configs, separated by semicolons, are timed in turn within one process, so that
their ratio holds on a shared machine. No data is needed: photos are noise on the whole
of the largest canvas, texts are full. Prints the median of the steps, photos and pairs
a second, and the memory of the compiled step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np

from pixel_bert_jax import dry_run
from pixel_bert_jax.config import Config, load, replace


def main() -> int:
    """Prints a line for each config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="FILE:PRESET,...; several by ;")
    parser.add_argument("--groups", type=int, default=0, help="instead of the config's")
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    runs = {}
    for name in arguments.config.split(";"):
        config = load(name)
        if arguments.groups:
            config = replace(config, {"groups": arguments.groups})
        runs[name] = Run(config)
        print(f"{name}: compiled in {runs[name].compile_seconds:.0f} s", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.steps):
        for name, run in runs.items():
            seconds[name].append(run.step())
    device = jax.devices()[0].device_kind
    print(f"{len(jax.devices())} x {device}, {arguments.steps} steps in turn, medians")
    first = None
    for name, run in runs.items():
        middle = statistics.median(seconds[name])
        first = first or middle
        print(
            f"{name}: {middle * 1e3:.1f} ms a step ({min(seconds[name]) * 1e3:.1f} to "
            f"{max(seconds[name]) * 1e3:.1f}), {run.photos / middle:.1f} photos/s, "
            f"{run.pairs / middle:.1f} pairs/s, x {middle / first:.2f}, "
            f"temporaries {run.temporaries / 2**30:.2f} GiB"
        )
    return 0


class Run:
    """One config's compiled step with its state and a batch."""

    def __init__(self, config: Config):
        """Compiles the step of the config's largest canvas over all devices."""
        planned = dry_run.Planned(config, devices=jax.devices())
        began = time.perf_counter()
        self.compiled = planned.lower_step(config.groups).compile()
        self.compile_seconds = time.perf_counter() - began
        self.state = planned.create_state()
        self.temporaries = self.compiled.memory_analysis().temp_size_in_bytes
        self.photos = config.groups
        self.pairs = self.photos * config.texts_per_group
        random = np.random.default_rng(0)
        self.batch = {
            name: jax.device_put(fill(name, shape, random), shape.sharding)
            for name, shape in planned.batch(config.groups).items()
        }

    def step(self) -> float:
        """Takes a step and returns its seconds."""
        began = time.perf_counter()
        self.state, sums = self.compiled(self.state, self.batch)
        jax.block_until_ready(sums)
        return time.perf_counter() - began


def fill(name: str, shape: Any, random: np.random.Generator) -> np.ndarray:
    """Makes one leaf of a batch: full canvases, full texts, all different pictures."""
    if name == "image":
        return random.normal(0, 1, shape.shape).astype(np.float32)
    if name == "text_ids":
        return random.integers(5, 200, shape.shape).astype(np.int32)
    if name in ("text_mask", "example_mask"):
        return np.ones(shape.shape, bool)
    if name in ("example_id", "image_id"):
        count = np.arange(np.prod(shape.shape)).reshape(shape.shape)
        return count.astype(shape.dtype)
    if name == "image_size":
        return np.full(shape.shape, 10**6, np.int32)  # beyond the canvas: all of it
    return np.zeros(shape.shape, shape.dtype)


if __name__ == "__main__":
    sys.exit(main())
