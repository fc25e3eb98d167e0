"""Times loading starting weights beside reading the same files with safetensors alone.

    python benchmarks/load_weights.py

Makes files of BERT-base's and ResNet-50's size and names in a temporary folder (0.55
GB), then loads them in turn, each time in a fresh process: safetensors' `load_file`,
and `convert/starting.py`, which checks, transposes and folds. Prints seconds and what
loading adds to the process' peak memory, and their ratios; exits with 1 if one is above
its bound.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from pixel_bert_jax import dry_run, trees
from pixel_bert_jax.config import Init, load
from pixel_bert_jax.convert import bert, resnet, starting

PRESET = "configs/pretrain.py:r50"
BOUNDS = {"seconds": 1.5, "memory": 1.2}
NAMES = ("text.safetensors", "cnn.safetensors")


def main() -> int:
    """Prints the table; returns 1 if a ratio is above its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=("write", "plain", "ours"))
    parser.add_argument("--folder", default="")
    arguments = parser.parse_args()
    if arguments.one:
        return one(arguments.one, Path(arguments.folder))
    rounds: dict[str, list[list[float]]] = {"plain": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        # A child's peak memory starts at its parent's, which so stays small.
        start("write", folder)
        for _ in range(arguments.rounds):
            for name, results in rounds.items():
                results.append(json.loads(start(name, folder).splitlines()[-1]))
    missed = False
    for column, (what, bound) in enumerate(BOUNDS.items()):
        plain, ours = (
            statistics.median(result[column] for result in rounds[name])
            for name in ("plain", "ours")
        )
        missed |= ours / plain > bound
        print(
            f"{what:<8} load_file {plain:.2f}, ours {ours:.2f}, x {ours / plain:.2f}, "
            f"at most {bound}"
        )
    return int(missed)


def start(name: str, folder: str) -> str:
    """Does one thing in a process of its own and returns what it printed."""
    command = [sys.executable, __file__, f"--one={name}", f"--folder={folder}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def shapes() -> dict[str, object]:
    """Returns the model's variables as shapes, nested."""
    return dry_run.Planned(load(PRESET)).variable_shapes


def write(folder: Path) -> None:
    """Makes the two files, of random numbers."""
    random = np.random.default_rng(0)
    arrays = {
        path: random.standard_normal(leaf.shape, np.float32)
        for path, leaf in trees.flatten(shapes()).items()
    }
    params = {path.removeprefix("params/"): x for path, x in arrays.items()}
    save_file(bert.export_bert(params), folder / NAMES[0])
    save_file(resnet.export_torchvision(arrays), folder / NAMES[1])


def one(name: str, folder: Path) -> int:
    """Loads once; prints [seconds, GB that this added to the process' peak]."""
    if name == "write":
        write(folder)
        return 0
    text, cnn = (folder / file for file in NAMES)
    wanted, model = shapes(), load(PRESET).model
    before, began = peak(), time.perf_counter()
    if name == "plain":
        loaded: object = (load_file(text), load_file(cnn))
    else:
        init = Init(text=str(text), cnn=str(cnn))
        loaded = starting.load(init, model, wanted, vocabulary=())
    print(json.dumps([time.perf_counter() - began, peak() - before]))
    del loaded
    return 0


def peak() -> float:
    """Returns the process' peak memory in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    sys.exit(main())
