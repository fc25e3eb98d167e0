"""Other modes of the real program, on the checkpoint of the straight run."""

import json
import re
import shlex
import sys

import numpy as np
import pytest
from PIL import Image

from pixel_bert_jax import trained, trees
from pixel_bert_jax.convert.pretrained import from_pretrained
from tests import runs

pytestmark = pytest.mark.runs


def launch(straight, *flags, **changes):
    """Runs a mode on the straight run's index; changes as of `runs.argument`."""
    config = runs.FILE + runs.argument(**changes)
    where = f"--config.data.index_dir={straight.index_dir}"
    return runs.Process(runs.command(where, *flags, config=config)).finish()


def convert(*arguments):
    """Runs `python -m pixel_bert_jax.convert`."""
    program = [sys.executable, "-m", "pixel_bert_jax.convert"]
    return runs.Process([*program, *map(str, arguments)]).finish()


def figures(output):
    """Returns the printed metrics, with their standard errors as NAME_se."""
    number = r"(-?[\d.]+|nan)"
    lines = re.findall(rf"^  (scenes/\w+) +{number}(?: ± {number})?$", output, re.M)
    values = {name: float(value) for name, value, _ in lines}
    return values | {f"{name}_se": float(error) for name, _, error in lines if error}


def test_dry_run_opens_no_data(tmp_path):
    outcome = runs.run("--dry_run", f"--workdir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.output
    for part in ("all parameters", "text/word", "plan of 10,000 images", "not TPU"):
        assert part in outcome.output
    assert not (tmp_path / "run").exists()


def test_export_evaluate_and_train_on(straight, tmp_path):
    folder, picture = tmp_path / "model", tmp_path / "scenes.png"
    workdir = f"--workdir={straight.workdir}"
    outcome = convert("export", straight.workdir, f"--output={folder}")
    assert outcome.code == 0, outcome.output
    record = json.loads((folder / "provenance.json").read_text())
    assert record["seed"] == 0
    held = from_pretrained(folder)
    assert record["variables_sha256"] == trees.digest(held.variables)
    words = shlex.split(record["command"])
    start = "python -m pixel_bert_jax.main --config=configs/micro.py:micro"
    assert words[:4] == start.split()
    assert {
        "--config.texts_per_group=2",
        "--config.data.canvases=('112x112',)",
        "--config.total=12 steps",
    } <= set(words)
    assert "sharding" not in record["command"]  # as in the preset
    assert str(tmp_path) not in record["command"]
    assert held.config["total"] == "12 steps"
    assert str(tmp_path.parent) not in (folder / "config.json").read_text()
    assert held.model.config.layers == held.config["model"]["layers"]

    own = launch(straight, workdir, "--mode=evaluate")
    assert own.code == 0, own.output
    assert record["sha256"] == own.digest
    exported = launch(
        straight,
        "--mode=evaluate",
        f"--config.init.model={folder}",
        f"--figure={picture}",
        masking__warmup_steps=7,  # how it was trained may differ
    )
    assert exported.code == 0, exported.output
    # The error of a single example is not a number.
    assert figures(exported.output) == pytest.approx(figures(own.output), nan_ok=True)
    assert len(figures(own.output)) > 10
    assert np.asarray(Image.open(picture).convert("L")).std() > 10

    trained = launch(
        straight,
        f"--workdir={tmp_path / 'more'}",
        f"--config.init.model={folder}",
        total="2 steps",
    )
    assert trained.code == 0, trained.output
    assert f"starting from the model in {folder}" in trained.output
    assert len(runs.log(tmp_path / "more")) == 3

    # A workdir is a model as well, and a text half can be had alone.
    known = {n: v for n, v in record["figures"].items() if v is not None}
    assert len(known) > 10
    measured = figures(own.output)
    assert {n: measured[n] for n in known} == pytest.approx(known, abs=1e-4)
    text = convert("export", straight.workdir, "--part=text", f"--output={folder}_text")
    assert text.code == 0, text.output
    names = {p.name for p in (tmp_path / "model_text").iterdir()}
    assert names >= {"config.json", "model.safetensors", "vocab.txt"}


def test_what_cannot_be_exported(straight, tmp_path):
    outcome = convert("export", tmp_path / "none", f"--output={tmp_path / 'model'}")
    assert outcome.code == 2
    assert "neither a file nor a folder" in outcome.output
    cnn = ("--part=cnn", "--layout=torchvision", f"--output={tmp_path / 'cnn'}")
    outcome = convert("export", straight.workdir, *cnn)
    assert outcome.code == 2
    assert "torchvision has no such CNN: model.backbone.stem is 'conv3'" in (
        outcome.output
    )
    assert not (tmp_path / "cnn").exists()
    outcome = convert("export", straight.workdir, f"--output={straight.workdir}")
    assert outcome.code == 2
    assert "not empty" in outcome.output


def test_evaluation_leaves_a_running_jobs_files_alone(straight):
    unfinished = straight.workdir / "checkpoints" / "latest" / "99.orbax-checkpoint-tmp"
    unfinished.mkdir()
    try:
        config = runs.config(data__index_dir=str(straight.index_dir))
        _, state, _ = trained.from_workdir(config, straight.workdir)
        assert unfinished.is_dir()
        assert int(state.step) in (6, 12)
    finally:
        unfinished.rmdir()


def test_another_model_or_vocabulary_is_refused(straight, tmp_path):
    outcome = launch(
        straight,
        f"--workdir={straight.workdir}",
        "--mode=evaluate",
        model__layers=2,
    )
    assert outcome.code == 2
    assert "model.layers is 1, expected 2" in outcome.output
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    outcome = launch(
        straight,
        f"--workdir={straight.workdir}",
        "--mode=evaluate",
        f"--config.data.tokenizer={tmp_path / 'vocab.txt'}",
    )
    assert outcome.code == 2
    assert re.search(
        r"another vocabulary \(\d+ words, \w{12}\) than .* \(\d+ words, \w{12}\)",
        outcome.output,
    )
