"""Measures what reading photos costs the host, beside plain libjpeg-turbo.

    python benchmarks/input_rate.py --photos=FOLDER

Four paths over the same JPEG files, interleaved in rounds, in CPU milliseconds of this
process an image, which other load on the machine changes little; images a second of
wall time stand beside them. "x" is relative to plain decoding.

  decode    libjpeg-turbo (simplejpeg) on bytes in memory
  strict    read the file, check it, decode (`data/images.py`)
  batch     the same, laid on source canvases of a batch
  stream    plan, threads, tf.data and prefetch: what training waits for
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg

from pixel_bert_jax.data import images
from pixel_bert_jax.data.geometry import parse_canvas, source_sizes
from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.pipeline import Stream
from pixel_bert_jax.data.plan import TrainPlan
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.data.text import SPECIAL_TOKENS, WordPiece

CANVASES = ("1088x800", "1216x800", "1344x800", "800x1088", "800x1344")
SOURCE_CANVASES = (640, 1344)


def main() -> int:
    """Prints the table; returns 2 if there is nothing to read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, help="folder of JPEG files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", type=int, default=8, help="photos a batch")
    parser.add_argument("--workers", type=int, default=2, help="threads of the stream")
    arguments = parser.parse_args()
    folder = Path(arguments.photos)
    files = sorted(folder.glob("*.jpg"))
    if len(files) < arguments.groups:
        print(
            f"error: expected at least {arguments.groups} .jpg files in {folder}, "
            f"received {len(files)}",
            file=sys.stderr,
        )
        return 2
    content = [file.read_bytes() for file in files]
    with tempfile.TemporaryDirectory() as work:
        plan, index = plan_of(folder, files, Path(work), arguments.groups)
        paths: dict[str, Callable[[], int]] = {
            "decode": lambda: decode(content),
            "strict": lambda: strict(files),
            "batch": lambda: batch(files, arguments.groups),
            "stream": lambda: stream(plan, index, arguments.workers),
        }
        measured = measure(paths, arguments.rounds)
    print(f"{len(files)} photos, {arguments.rounds} rounds, medians (least to most)")
    print(f"{'path':<8} {'CPU ms an image':<24} {'x':>5} {'images/s':>9}")
    base = statistics.median(cpu for cpu, _ in measured["decode"])
    for name, rounds in measured.items():
        cpu, wall = ([r[n] * 1e3 for r in rounds] for n in (0, 1))
        middle = statistics.median(cpu)
        spread = f"{middle:.2f} ({min(cpu):.2f} to {max(cpu):.2f})"
        rate = 1e3 / statistics.median(wall)
        print(f"{name:<8} {spread:<24} {middle / base / 1e3:>5.2f} {rate:>9.0f}")
    return 0


def measure(
    paths: dict[str, Callable[[], int]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Runs all paths once unmeasured, then in turn.

    Returns:
      For each path and round the CPU and the wall seconds an image.
    """
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
    for number in range(rounds + 1):
        for name, path in paths.items():
            cpu, wall = time.process_time(), time.perf_counter()
            count = path()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if number:
                measured[name].append((cpu / count, wall / count))
    return measured


def decode(content: list[bytes]) -> int:
    """Decodes files that lie in memory."""
    for data in content:
        simplejpeg.decode_jpeg(data, colorspace="RGB", strict=False)
    return len(content)


def strict(files: list[Path]) -> int:
    """Reads and decodes as training does."""
    for file in files:
        images.decode(file.read_bytes())
    return len(files)


def batch(files: list[Path], groups: int) -> int:
    """Reads, decodes and lays out batch by batch."""
    for start in range(0, len(files), groups):
        part = [images.decode(file.read_bytes()) for file in files[start:][:groups]]
        sizes = np.array([image.shape[:2] for image in part])
        shrunk = source_sizes(sizes[:, None], SOURCE_CANVASES)
        side = next(s for s in SOURCE_CANVASES if s >= shrunk.max())
        canvases = np.zeros((groups, 1, side, side, 3), np.uint8)
        for image, canvas in zip(part, canvases, strict=False):
            images.lay(image, canvas[0])
    return len(files)


def stream(plan: TrainPlan, index: object, workers: int) -> int:
    """Runs one epoch of the real input pipeline."""
    with Stream(plan, index, stop=plan.steps_per_epoch, workers=workers) as batches:
        return sum(int(step.batch["example_mask"].any(1).sum()) for step in batches)


def plan_of(
    folder: Path, files: list[Path], work: Path, groups: int
) -> tuple[TrainPlan, object]:
    """Builds an index with one caption a photo and plans its epochs."""
    lines = [json.dumps({"image": file.name, "texts": ["a photo"]}) for file in files]
    (work / "photos.jsonl").write_text("\n".join(lines))
    corpus = {"source": "jsonl", "name": "photos", "annotations": "photos.jsonl"}
    source = SOURCES["jsonl"](corpus | {"images": str(folder.resolve())}, "train", work)
    tokenizer = WordPiece((*SPECIAL_TOKENS, "a", "photo"))
    index = build_or_open([source], tokenizer, 8, work / "index")
    plan = TrainPlan(
        [index.plan_corpus(0)],
        index.sizes,
        seed=0,
        groups=groups,
        texts_per_group=1,
        short=800,
        long=1333,
        canvases=[parse_canvas(c) for c in CANVASES],
        source_canvases=list(SOURCE_CANVASES),
    )
    return plan, index


if __name__ == "__main__":
    sys.exit(main())
