"""Builds the index of a made-up Visual Genome of full size, and opens it again.

    python benchmarks/visual_genome.py

Writes `image_data.json` and `region_descriptions.json` of 108,077 photos and 5.4
million regions (about 0.9 GB) and small photos that as many names point to, below a
temporary folder; then three fresh processes build the index, open it again, and resume
at step 50,000. Prints every figure beside its bound and exits with 1 if one is missed.
Needs 3 GB of disk and about eight minutes of two cores.

Phrases are drawn from 2,000 words with 2 to 9 words each (the real ones have 5.4 on
average), regions normal(50, 13) a photo.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES, REGIONS = 108_077, 5_406_232
LATE_STEP = 50_000
LENGTH = 32
CORPUS = {
    "source": "visual_genome",
    "name": "visual_genome",
    "annotations": "region_descriptions.json",
    "sizes": "image_data.json",
    "images": ".",
}
SIZES = ((600, 800), (768, 1024), (375, 500), (333, 500), (500, 375))  # height, width


def main() -> int:
    """Prints the figures; returns 1 if one misses its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="", help="keep the files in this folder")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--step", choices=("build", "open", "resume"))
    arguments = parser.parse_args()
    if arguments.step:
        return one(arguments.step, Path(arguments.root))
    if arguments.root:
        return measure(Path(arguments.root), arguments.images)
    with tempfile.TemporaryDirectory() as root:
        return measure(Path(root), arguments.images)


def measure(root: Path, images: int) -> int:
    """Writes the files, runs the three processes and compares with the bounds."""
    began = time.perf_counter()
    regions = write(root, images)
    size = (root / CORPUS["annotations"]).stat().st_size
    seconds = time.perf_counter() - began
    print(
        f"{images:,} photos, {regions:,} regions, {size / 1e9:.2f} GB: {seconds:.0f} s"
    )
    bounds = {"build": (600.0, 4.0), "open": (3.0, 4.0), "resume": (2.0, 4.0)}
    missed = False
    for step, (most_seconds, most_memory) in bounds.items():
        command = [sys.executable, __file__, f"--root={root}", f"--step={step}"]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            print(process.stderr, file=sys.stderr)
            return process.returncode
        seconds, memory, note = json.loads(process.stdout.splitlines()[-1])
        fine = seconds < most_seconds and memory < most_memory
        missed |= not fine
        print(
            f"{step:<7}{seconds:>8.2f} s < {most_seconds:g} s  {memory:.2f} GB < "
            f"{most_memory:g} GB  {'ok' if fine else 'MISSED'}  {note}",
            flush=True,
        )
    return int(missed)


def one(step: str, root: Path) -> int:
    """Does one thing in this process and prints [seconds, peak GB, note]."""
    from pixel_bert_jax.data.geometry import parse_canvas
    from pixel_bert_jax.data.index import build_or_open
    from pixel_bert_jax.data.plan import TrainPlan
    from pixel_bert_jax.data.sources import SOURCES
    from pixel_bert_jax.data.text import SPECIAL_TOKENS, WordPiece

    tokenizer = WordPiece((*SPECIAL_TOKENS, *words()))
    began = time.perf_counter()
    source = SOURCES["visual_genome"](CORPUS, "train", root)
    index = build_or_open([source], tokenizer, LENGTH, root / "index")
    note = f"{index.num_texts(0):,} texts of {len(index.sizes):,} photos"
    if step == "resume":
        canvases = ("1088x800", "1216x800", "1344x800", "800x1088", "800x1344")
        plan = TrainPlan(
            [index.plan_corpus(0)],
            index.sizes,
            seed=0,
            groups=min(832, len(index.sizes) // 8),
            texts_per_group=5,
            short=800,
            long=1333,
            canvases=[parse_canvas(c) for c in canvases],
            source_canvases=[640, 1344],
        )
        rows = plan.batch(LATE_STEP).texts
        index.texts(0, rows.reshape(-1))
        note = f"the texts of step {LATE_STEP:,}: {(rows >= 0).sum():,}"
    seconds = time.perf_counter() - began
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([seconds, kilobytes / 2**20, note]))
    return 0


def write(root: Path, images: int) -> int:
    """Writes annotations and photos; returns the number of regions."""
    random = np.random.default_rng(0)
    counts = np.clip(random.normal(50, 13, images).round().astype(int), 1, None)
    if images == IMAGES:  # the exact total
        difference = REGIONS - int(counts.sum())
        counts[: abs(difference)] += np.sign(difference)
    kinds = random.integers(0, len(SIZES), images)
    for folder in ("VG_100K", "VG_100K_2", "kinds"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for kind, (height, width) in enumerate(SIZES):
        file = io.BytesIO()
        Image.new("RGB", (width, height)).save(file, "JPEG")
        (root / "kinds" / f"{kind}.jpg").write_bytes(file.getvalue())
    records, vocabulary, number = [], words(), 0
    with (root / CORPUS["annotations"]).open("w") as file:
        for n in range(images):
            height, width = SIZES[kinds[n]]
            key = f"VG_100K{'_2' * (n % 2)}/{n + 1}.jpg"
            link = root / key
            if not link.exists():
                link.symlink_to(f"../kinds/{kinds[n]}.jpg")
            url = f"https://cs.stanford.edu/people/rak248/{key}"
            records.append(
                {
                    "width": width,
                    "url": url,
                    "height": height,
                    "image_id": n + 1,
                    "coco_id": None,
                    "flickr_id": None,
                }
            )
            lengths = random.integers(2, 10, counts[n])
            drawn = random.integers(0, len(vocabulary), (counts[n], 9))
            regions = []
            for length, row in zip(lengths, drawn, strict=True):
                number += 1
                regions.append(
                    {
                        "region_id": number,
                        "width": 40,
                        "height": 30,
                        "image_id": n + 1,
                        "phrase": " ".join(vocabulary[w] for w in row[:length]),
                        "y": 10,
                        "x": 20,
                    }
                )
            record = json.dumps({"regions": regions, "id": n + 1})
            file.write(f"{'[' if n == 0 else ', '}{record}")
        file.write("]")
    (root / CORPUS["sizes"]).write_text(json.dumps(records))
    return number


def words() -> list[str]:
    """Returns 2,000 different words of two to four syllables."""
    syllables = [c + v for c in "bdfgklmnprst" for v in "aeiou"]
    random = np.random.default_rng(1)
    found: dict[str, None] = {}
    while len(found) < 2000:
        found["".join(random.choice(syllables, random.integers(2, 5)))] = None
    return list(found)


if __name__ == "__main__":
    sys.exit(main())
