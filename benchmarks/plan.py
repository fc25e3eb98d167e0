"""Measures the data plan on a set as large as COCO + Visual Genome captions.

    python benchmarks/plan.py

Builds a synthetic set of 113,287 photos with 566,762 captions and 108,077 photos with
5,406,232 regions, no files needed, and prints every figure beside the bound that the
project sets. Exits with 1 if one is missed. Takes about 15 seconds of one core.

The sizes are an assumption: drawn so that the shares of the five canvases are those
measured on COCO val2017 (0.363, 0.322, 0.069 wide, 0.127, 0.119 tall); regions are
normal(50, 13) a photo.
"""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pixel_bert_jax.data.geometry import format_canvas, parse_canvas
from pixel_bert_jax.data.plan import Corpus, PlanBatch, TrainPlan

GROUPS = 832  # x K = 5 is the paper's batch of 4,096, rounded up to what 64 chips split
LATE_STEP = 50_000
CANVASES = ("1088x800", "1216x800", "1344x800", "800x1088", "800x1344")
COCO_IMAGES, COCO_TEXTS = 113_287, 566_762
REGION_IMAGES, REGION_TEXTS = 108_077, 5_406_232

# share, commonest (height, width), and the range of its shorter side for the rest:
# beside a longer side of 640 they need the canvas on the same line of CANVASES
SIZES = (
    (0.363, (480, 640), (471, 641)),
    (0.322, (427, 640), (422, 471)),
    (0.069, (360, 640), (300, 422)),
    (0.127, (640, 480), (471, 640)),
    (0.119, (640, 427), (300, 471)),
)
COMMON = 0.8  # share of the commonest size on each line
REGION_SCALES = (1.0, 1.25, 1.6)  # Visual Genome: 640, 800 and 1024 pixels wide


def main() -> int:
    """Prints the figures; returns 1 if one misses its bound."""
    if len(sys.argv) == 3 and sys.argv[1] == "fresh":
        return first_batch_of_fresh_process(Path(sys.argv[2]))
    checks = []

    def report(name: str, value: float, bound: float, image_set: str, note: str = ""):
        checks.append(value < bound)
        verdict = "ok" if checks[-1] else "MISSED"
        print(f"{name:<34}{value:>10.3f} {image_set:<4} < {bound:g}  {verdict}  {note}")

    arrays = synthetic_set()
    begin = time.perf_counter()
    plan = make_plan(arrays)
    print(f"plan object, once: {time.perf_counter() - begin:.3f} s")
    statistics = plan.statistics()
    for line in statistics.buckets:
        canvas = format_canvas(line.bucket.canvas)
        waste = line.canvas_area / line.resized_area - 1
        print(
            f"  {canvas:>9} from {line.bucket.source:>4}: {line.groups:>7} groups in "
            f"{line.batches:>4} batches, padding {waste:.2%}"
        )
    use = ", ".join(f"{n} {u:.3f}" for n, u in statistics.corpus_slot_use.items())
    print(
        f"{statistics.groups} groups, {plan.steps_per_epoch} steps per epoch, slots "
        f"used {statistics.slot_use:.3f} ({use}), empty {statistics.padding_share:.3%}"
    )

    builds = [
        timed(lambda epoch=epoch: plan.batch(epoch * plan.steps_per_epoch))
        for epoch in range(1, 6)
    ]
    note = f"median {np.median(builds):.3f}, slowest {max(builds):.3f}"
    report("epoch, fastest of 5", min(builds), 2, "s", note)
    median, fastest = lookup_seconds(plan)
    note = f"fastest {fastest * 1e6:.1f}"
    report(f"batch(step), G = {GROUPS}, median", median * 1e6, 100, "us", note)
    report("padding", statistics.waste * 100, 7, "%")
    report("captions not shown exactly once", misshown(plan, epoch=1), 1, "")
    with tempfile.TemporaryDirectory() as folder:
        for name, array in arrays.items():
            np.save(Path(folder) / f"{name}.npy", array)
        command = [sys.executable, __file__, "fresh", folder]
        output = subprocess.run(command, check=True, capture_output=True, text=True)
    fresh, digest = output.stdout.split()
    note = "arrays mapped, from their opening to the batch"
    report(f"fresh process, step {LATE_STEP}", float(fresh), 2, "s", note)
    same = batch_digest(plan.batch(LATE_STEP)) == digest
    report("fresh process' batch differs", not same, 1, "")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report("peak resident memory", peak, 500, "MB")
    return 0 if all(checks) else 1


def make_plan(arrays: dict[str, np.ndarray]) -> TrainPlan:
    """Returns the plan of both corpora under the project's 800/1333 geometry."""
    images = np.split(arrays["set_images"], [COCO_IMAGES])
    corpora = [
        Corpus(name, 1.0, rows, arrays[name], np.arange(len(rows)))
        for name, rows in zip(("coco", "regions"), images, strict=True)
    ]
    return TrainPlan(
        corpora,
        arrays["sizes"],
        seed=0,
        groups=GROUPS,
        texts_per_group=5,
        short=800,
        long=1333,
        canvases=[parse_canvas(canvas) for canvas in CANVASES],
        source_canvases=(640, 1344),
    )


def synthetic_set() -> dict[str, np.ndarray]:
    """Returns sizes, image rows and image sets of texts; int32, in order of images."""
    generator = np.random.default_rng(0)
    captions = np.full(COCO_IMAGES, 5)
    captions[:16], captions[16:311] = 7, 6  # a few photos have six or seven
    generator.shuffle(captions)
    regions = generator.normal(50, 13, REGION_IMAGES).round().clip(1).astype(int)
    missing = REGION_TEXTS - regions.sum()
    while missing:  # spread what the draw is off by, keeping each at least 1
        rows = generator.permutation(REGION_IMAGES)[: abs(missing)]
        rows = rows[regions[rows] + np.sign(missing) > 0]
        regions[rows] += np.sign(missing)
        missing = REGION_TEXTS - regions.sum()
    scales = generator.choice(REGION_SCALES, REGION_IMAGES, p=(0.4, 0.3, 0.3))
    sizes = [
        draw_sizes(generator, COCO_IMAGES),
        draw_sizes(generator, REGION_IMAGES) * scales[:, None],
    ]
    images = COCO_IMAGES + REGION_IMAGES
    return {
        "sizes": np.concatenate(sizes).round().astype(np.int32),
        "set_images": np.arange(images, dtype=np.int32)[:, None],
        "coco": np.repeat(np.arange(COCO_IMAGES, dtype=np.int32), captions),
        "regions": np.repeat(np.arange(REGION_IMAGES, dtype=np.int32), regions),
    }


def draw_sizes(generator: np.random.Generator, count: int) -> np.ndarray:
    """Returns (height, width) of photos resembling COCO's, int [count, 2]."""
    shares = np.array([share for share, _, _ in SIZES])
    line = generator.choice(len(SIZES), count, p=shares / shares.sum())
    sizes = np.array([common for _, common, _ in SIZES])[line]
    low, high = np.array([bounds for _, _, bounds in SIZES])[line].T
    rare = np.flatnonzero(generator.random(count) > COMMON)
    shorter = sizes[rare].argmin(axis=1)
    sizes[rare, shorter] = generator.integers(low[rare], high[rare])
    return sizes


def misshown(plan: TrainPlan, epoch: int) -> int:
    """Returns how many texts an epoch shows never or more than once, or misplaced."""
    shown = [np.zeros(len(corpus.text_set), np.uint8) for corpus in plan.corpora]
    wrong = 0
    for step in range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch):
        batch = plan.batch(step)
        for c, corpus in enumerate(plan.corpora):
            group, slot = np.nonzero((batch.texts >= 0) & (batch.corpus == c)[:, None])
            rows = batch.texts[group, slot]
            np.add.at(shown[c], rows, 1)
            image = corpus.set_images[corpus.text_set[rows], 0]
            wrong += int((image != batch.images[group, 0]).sum())
    return wrong + sum(int((counts != 1).sum()) for counts in shown)


def first_batch_of_fresh_process(folder: Path) -> int:
    """Prints the seconds to the batch of a late step, and the batch's digest."""
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    begin = time.perf_counter()
    batch = make_plan(arrays).batch(LATE_STEP)
    print(time.perf_counter() - begin, batch_digest(batch))
    return 0


def batch_digest(batch: PlanBatch) -> str:
    """Returns a short name of a batch's content."""
    return hashlib.sha256(batch.texts.tobytes() + batch.images.tobytes()).hexdigest()


def lookup_seconds(plan: TrainPlan) -> tuple[float, float]:
    """Returns the median and the least time of `batch(step)` in a built epoch."""
    plan.batch(0)
    seconds = [timed(lambda step=step: plan.batch(step)) for step in range(500)]
    return float(np.median(seconds)), min(seconds)


def timed(call: Callable[[], object]) -> float:
    """Returns the seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
