"""The examples of docs/extending.md, each a new file and a line, run as users would."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

DOCUMENT = "docs/extending.md"
MODULES = {"queue_contrast": "QueueContrast", "word_pixels": "WordPixels"}
# A third of the time to compile; what is tested runs for milliseconds.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
SMALL = (
    "--config.groups=4",
    "--config.total=2 steps",
    "--config.log.every=1",
    "--config.optim.warmup=1 steps",
    "--config.data.scenes.train_scenes=16",
    "--config.data.scenes.evaluate_scenes=8",
    "--config.data.canvases=('112x112',)",
    "--config.eval.every=0 steps",
)


def examples(repository):
    """Returns {path: content} of all files that the document shows."""
    text = (repository / DOCUMENT).read_text()
    found = re.findall(r"`([\w./]+\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert len(found) == 5
    return dict(found)


@pytest.fixture
def extended(repository, tmp_path):
    """A copy of the project with the files of the document and the lines in tables."""
    for name in ("pixel_bert_jax", "configs", "checkpoints"):
        shutil.copytree(repository / name, tmp_path / name)
    for path, content in examples(repository).items():
        assert not (tmp_path / path).exists(), f"{path} is not new"
        (tmp_path / path).write_text(content)
    table = tmp_path / "pixel_bert_jax/objectives/__init__.py"
    lines = table.read_text()
    for module, name in MODULES.items():
        line = f'    "{module}": {name},'
        assert line.strip() in (repository / DOCUMENT).read_text()
        start = "OBJECTIVES: dict[str, type[Objective]] = {\n"
        assert start in lines
        added = f"from pixel_bert_jax.objectives.{module} import {name}\n"
        lines = lines.replace(start, f"{start}{line}\n")
        lines = lines.replace(
            "from pixel_bert_jax.types", f"{added}from pixel_bert_jax.types", 1
        )
    table.write_text(lines)
    return tmp_path


def run(folder, *words, **environment):
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train(folder, name, *flags, **environment):
    workdir = folder / "run"
    command = ["-m", "pixel_bert_jax.main", f"--config=configs/{name}.py"]
    run(
        folder,
        *command,
        f"--workdir={workdir}",
        f"--config.data.index_dir={folder}",
        *flags,
    )
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return workdir, [json.loads(line) for line in lines]


def test_examples_are_short(repository):
    for path, content in examples(repository).items():
        assert len(content.splitlines()) <= 80, path


@pytest.mark.runs
@pytest.mark.parametrize("name", MODULES)
def test_examples_train(extended, name):
    # `retrieval.tiny` has scenes of its own in its corpora.
    flags = SMALL
    if name == "queue_contrast":
        corpus = {"source": "scenes", "name": "scenes", "weight": 1.0}
        flags = (*SMALL, f"--config.data.corpora=({corpus},)")
    _, lines = train(extended, name, *flags, XLA_FLAGS=QUICK)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line[f"{name}/loss"] is not None for line in lines)
    if name == "queue_contrast":
        # 4 images of 5 texts: a loss above zero, and never that of a single pair.
        assert all(0.01 < line["queue_contrast/loss"] < 10 for line in lines)


@pytest.mark.runs
def test_contrast_is_refused_where_a_batch_is_split(extended):
    code = (
        "from pixel_bert_jax.config import load\n"
        "from pixel_bert_jax.dry_run import Planned\n"
        "Planned(load('configs/queue_contrast.py', {'optim.accumulate': 2})).task"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=extended, capture_output=True, text=True
    )
    assert "optim.accumulate has to be 1, received 2" in done.stderr


@pytest.mark.slow
def test_contrast_finds_scenes(extended):
    workdir, _ = train(extended, "queue_contrast")
    out = run(extended, "recall_by_cosine.py", str(workdir))
    found = {name: float(value) for name, value in map(str.split, out.splitlines())}
    assert found["text_r1"] > 40 and found["image_r1"] > 40, out
