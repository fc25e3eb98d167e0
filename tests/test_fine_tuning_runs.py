"""VQA, NLVR2 and retrieval through the real program: train, evaluate, predict."""

import json
import re
import sys

import numpy as np
import pytest

from pixel_bert_jax.convert.pretrained import from_pretrained
from pixel_bert_jax.data.sources.scenes.questions import ANSWERS
from tests import runs

pytestmark = pytest.mark.runs

CORPORA = {
    "vqa": {"source": "scenes_vqa", "questions_per_scene": 2},
    "nlvr2": {"source": "scenes_nlvr2", "statements_per_set": 2},
    "retrieval": {"source": "scenes"},
}
FIGURES = {
    "vqa": ("questions", "accuracy"),
    "nlvr2": ("statements", "accuracy"),
    "retrieval": ("texts", "image_r5"),
}
# 16 scenes with two questions each; two sets of four pairs and two sentences; 16 scenes
# of five captions.
NUMBERS = {"vqa": 32, "nlvr2": 16, "retrieval": 80}
SLOW = ("nlvr2", "retrieval")


class Runs:
    """Launches of one task in one workdir."""

    def __init__(self, task, folder):
        self.task, self.folder = task, folder
        self.workdir = folder / "run"
        corpus = CORPORA[task] | {"name": "scenes", "weight": 1.0}
        corpus |= {"train_scenes": 64, "evaluate_scenes": 16}
        self.flags = [
            # One canvas, which holds everything, is one program to compile.
            f"--config=configs/{task}.py:tiny,total=4 steps,groups=8,log.every=1,"
            "data.canvases=('112x112',)",
            f"--config.data.corpora=({corpus!r},)",
            f"--config.data.index_dir={folder / 'index'}",
            "--config.checkpoint.every=2 steps",
            f"--workdir={self.workdir}",
        ]

    def launch(self, *flags):
        """Runs the program with further flags."""
        program = [sys.executable, "-m", "pixel_bert_jax.main"]
        return runs.Process([*program, *self.flags, *flags]).finish()


@pytest.fixture(
    scope="module",
    params=["vqa", *(pytest.param(t, marks=pytest.mark.slow) for t in SLOW)],
)
def trained(request, tmp_path_factory):
    """A run of four steps of each task."""
    made = Runs(request.param, tmp_path_factory.mktemp(request.param))
    outcome = made.launch()
    assert outcome.code == 0, outcome.output
    made.output = outcome.output
    return made


def test_it_starts_from_the_published_model(trained):
    report = re.search(r"starting from the model in (\S+): (.*)", trained.output)
    assert report[1] == "checkpoints/scenes_tiny_long"
    # The heads of pre-training are left out, the task's own starts anew; but for
    # retrieval's, which is made of another one.
    new = {"vqa": 6, "nlvr2": 6, "retrieval": 0}[trained.task]
    assert re.match(
        rf"\d\d+ tensors loaded, 0 cut, {new} start anew, \d+ not used", report[2]
    )
    assert "unused: params/heads/" in trained.output
    if new:
        head = {"vqa": "answers", "nlvr2": "truth"}[trained.task]
        assert f"missing: params/heads/{head}/classifier/" in trained.output
    assert len(runs.log(trained.workdir)) >= 4


def test_it_evaluates_every_example_once(trained):
    outcome = trained.launch("--mode=evaluate")
    assert outcome.code == 0, outcome.output
    found = dict(re.findall(r"^  scenes/(\w+) +(-?[\d.]+)", outcome.output, re.M))
    number, accuracy = FIGURES[trained.task]
    assert float(found[number]) == NUMBERS[trained.task]
    assert 0 <= float(found[accuracy]) <= 100
    logged = [x for x in runs.log(trained.workdir) if "evaluation" in x][-1]
    assert logged["evaluation"][f"scenes/{accuracy}"] == pytest.approx(
        float(found[accuracy]), abs=1e-4
    )


def test_it_writes_the_official_file(trained, tmp_path):
    path = tmp_path / "predictions.npz"
    outcome = trained.launch("--mode=predict", f"--output={path}")
    assert outcome.code == 0, outcome.output
    if trained.task == "vqa":
        records = json.loads(path.read_text())
        assert len({r["question_id"] for r in records}) == len(records) == 32
        assert {r["answer"] for r in records} <= set(ANSWERS)
    elif trained.task == "retrieval":
        with np.load(path) as file:
            assert file["scores"].shape == (16, 80)
            assert np.isfinite(file["scores"]).all()
    else:
        lines = path.read_text().splitlines()
        assert len(lines) == 16
        assert all(re.fullmatch(r"dev-\d-\d-\d,(True|False)", x) for x in lines)
    outcome = trained.launch("--mode=predict")
    assert outcome.code == 2 and "needs --output" in outcome.output
    outcome = trained.launch("--mode=predict", "--split=predict", f"--output={path}")
    assert outcome.code == 2 and "no split 'predict'" in outcome.output


def test_it_leaves_as_a_folder_with_its_answers(trained, tmp_path):
    program = [sys.executable, "-m", "pixel_bert_jax.convert", "export"]
    folder = tmp_path / "model"
    outcome = runs.Process(
        [*program, str(trained.workdir), f"--output={folder}"]
    ).finish()
    assert outcome.code == 0, outcome.output
    found = from_pretrained(folder)
    if trained.task == "vqa":
        assert found.answers.answers == ANSWERS
    else:
        assert found.answers is None
    evaluated = trained.launch("--mode=evaluate", f"--config.init.model={folder}")
    own = trained.launch("--mode=evaluate")
    assert evaluated.code == own.code == 0, evaluated.output
    lines = re.findall(r"^  scenes/.*$", own.output, re.M)
    assert lines and lines == re.findall(r"^  scenes/.*$", evaluated.output, re.M)


def test_other_answers_are_refused(trained, tmp_path):
    if trained.task != "vqa":
        pytest.skip("statements have no answers")
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(ANSWERS[::-1]))
    for mode in ("train", "evaluate"):
        outcome = trained.launch(f"--mode={mode}", f"--config.data.answers={path}")
        assert outcome.code == 2, outcome.output
        assert "answers" in outcome.output
    # Nor does a new run take the classes of a model for others.
    outcome = trained.launch(
        f"--config.data.answers={path}",
        f"--config.init.model={trained.workdir}",
        f"--workdir={tmp_path / 'new'}",
    )
    assert outcome.code == 2, outcome.output
    assert "has other answers, or another order of them" in outcome.output
