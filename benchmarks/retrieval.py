"""Times the scoring of images with captions: each image encoded once, or once a pair.

    python benchmarks/retrieval.py --config=configs/retrieval.py:r50,model.dtype=float32
    python benchmarks/retrieval.py --config=configs/retrieval.py:tiny --images=64

Three things are timed in turn, so that their ratios hold on a shared machine: encoding
all images; scoring all pairs of encoded images; and both for every pair anew, of which
only a share is done (`--anew` captions an image). No pair can be scored in less time
than the fusion takes, so the gain is bounded by (CNN + fusion) / fusion. No data is
needed: photos are noise on the largest canvas, captions are as long as they may be.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pixel_bert_jax import dry_run
from pixel_bert_jax.config import Config, load
from pixel_bert_jax.data.pipeline import Step
from pixel_bert_jax.evaluate import functions
from pixel_bert_jax.evaluators.pair_scores import PairScorer


def main() -> int:
    """Prints the times and what they say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="FILE:PRESET,...")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--captions", type=int, default=40)
    parser.add_argument("--texts", type=int, default=8, help="scored at once an image")
    parser.add_argument("--anew", type=int, default=2, help="captions encoded anew")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    bench = Bench(load(arguments.config), arguments)
    parts: dict[str, Callable[[], Any]] = {
        "cnn": bench.encode,
        "fusion": bench.fuse,
        "once": bench.once,
        "anew": bench.anew,
    }
    bench.compile()
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(arguments.rounds):
        for name, part in parts.items():
            bench.passes, began = 0, time.perf_counter()
            part()
            seconds[name].append(time.perf_counter() - began)
            if name == "once":
                counted = bench.passes
    pairs = arguments.images * arguments.captions
    redone = arguments.images * arguments.anew
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    cnn, fusion = middle["cnn"] / arguments.images, middle["fusion"] / pairs
    once, anew = middle["once"] / pairs, middle["anew"] / redone
    bound, gain = (cnn + fusion) / fusion, anew / once
    device = jax.devices()[0].device_kind
    print(f"{len(jax.devices())} x {device}, {arguments.rounds} rounds, medians")
    for name, values in seconds.items():
        print(f"{name}: {min(values):.2f} to {max(values):.2f} s")
    print(
        f"{arguments.images} images x {arguments.captions} captions at {bench.canvas}: "
        f"CNN {cnn * 1e3:.1f} ms an image, fusion {fusion * 1e3:.1f} ms a pair\n"
        f"each pair anew {anew * 1e3:.1f} ms, each image once {once * 1e3:.1f} ms a "
        f"pair: {gain:.2f} times as quick; bound {bound:.2f}, reached "
        f"{gain / bound:.1%}\n"
        f"images through the CNN in one round: {counted}"
    )
    return 0


class Bench:
    """A task on all devices with noise to be scored."""

    def __init__(self, config: Config, arguments: argparse.Namespace):
        """Makes variables, photos and captions; compiles nothing."""
        planned = dry_run.Planned(config, devices=jax.devices())
        self.variables = jax.jit(planned.task.init)(jax.random.key(0))
        self.canvas = planned.canvas
        self.arguments = arguments
        self.passes = 0
        random = np.random.default_rng(0)
        images, captions = arguments.images, arguments.captions
        source = max(self.canvas)
        data = config.data
        size = np.full((images, 1, 2), (data.short_side, data.long_side))
        size = np.minimum(size, self.canvas).astype(np.int32)
        batch = {
            "image": random.integers(
                0, 256, (images, 1, source, source, 3), dtype=np.uint8
            ),
            "source_size": size,
            "image_size": size,
        }
        self.step = Step(0, self.canvas, batch)
        shape = captions, data.max_text_length
        ids = random.integers(5, planned.text.vocab_size, shape).astype(np.int32)
        mask = np.ones(shape, bool)
        index = types.SimpleNamespace(
            texts=lambda c, rows: (ids[rows], mask[rows] & (rows >= 0)[:, None])
        )
        predict = functions(planned)
        gallery = types.SimpleNamespace(index=index)
        self.scorer, self.single = (
            PairScorer(predict, self.variables, gallery, head="retrieval", texts=number)
            for number in (arguments.texts, 1)
        )
        self.visual = self.encode()
        rows = np.arange(captions)
        self.rows = np.broadcast_to(rows, (images, captions))

    def compile(self) -> None:
        """Runs every program once."""
        self.scorer.score(self.visual, self.rows[:, : self.arguments.texts])
        self.single.score(self.visual, self.rows[:, :1])

    def encode(self) -> Any:
        """Encodes all images once."""
        self.passes += self.arguments.images
        return jax.block_until_ready(self.scorer.encode(self.step))

    def fuse(self) -> None:
        """Scores all pairs of images that are encoded."""
        self.scorer.score(self.visual, self.rows)

    def once(self) -> None:
        """Encodes all images and scores all pairs."""
        self.scorer.score(self.encode(), self.rows)

    def anew(self) -> None:
        """Encodes the image of every pair anew, for a share of the pairs."""
        for text in range(self.arguments.anew):
            self.single.score(self.encode(), self.rows[:, text : text + 1])


if __name__ == "__main__":
    sys.exit(main())
