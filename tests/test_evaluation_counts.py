"""Full evaluation counts every example once, whatever the batch and the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import nlvr2, retrieval, vqa
from pixel_bert_jax import evaluate, tasks
from pixel_bert_jax.evaluators.nlvr2_scores import LABELS
from pixel_bert_jax.evaluators.vqa_accuracy import accuracy
from pixel_bert_jax.experiment import Experiment

CONFIGS = {"vqa": vqa, "nlvr2": nlvr2, "retrieval": retrieval}


def answer(task, variables, batch):
    """An answer that depends on the question's row alone: 28 classes."""
    row = batch["example_id"][..., 1].astype(jnp.int32)
    return {"answer": row % 28, "confidence": jnp.ones(row.shape)}


def judge(task, variables, batch):
    row = batch["example_id"][..., 1].astype(jnp.int32)
    return {"log_odds": jnp.where(row % 3 == 0, 1.0, -1.0)}


def pixels(task, variables, batch):
    """The image's number, which is the scene's, as its only feature."""
    number = batch["image_id"].astype(jnp.float32)
    return {"features": number[..., None], "pixel_mask": jnp.ones(number.shape, bool)}


def score(task, variables, batch):
    """Any number, but the same for the same image and text."""
    place = jnp.arange(batch["text_ids"].shape[-1])
    text = (batch["text_ids"] * place).sum(-1).astype(jnp.float32)
    return {"score": jnp.sin(text * (1 + batch["features"][:, 0]))}


PREDICTIONS = {
    "answer": answer,
    "judge": judge,
    "pixels": pixels,
    "score_retrieval": score,
}
FIELDS = {
    "vqa": {"evaluate_scenes": 9},
    "nlvr2": {"evaluate_scenes": 16},
    "retrieval": {"evaluate_scenes": 9},
}


@pytest.fixture(autouse=True)
def known_predictions(monkeypatch):
    for name, function in PREDICTIONS.items():
        monkeypatch.setitem(tasks.PREDICTIONS, name, function)


def metrics(task, devices, groups):
    config = CONFIGS[task].get_config("tiny").to_dict()
    (corpus,) = config["data"]["corpora"]
    config["data"]["corpora"] = [corpus | FIELDS[task]]
    config["eval"] |= {"groups": groups, "texts": 13}
    run = Experiment(config, devices=jax.devices()[:devices])
    (one,) = evaluate.evaluations(run, oracle=False)
    found = one.run(evaluate.functions(run), {"params": {}})
    assert all(map(one.gives, found))
    return run, found


def expected(task, run):
    """The metrics by plain counting over the index."""
    index = run.corpora.index("evaluate")
    rows = range(index.num_texts(0))
    notes = [index.annotation(0, row) for row in rows] if task != "retrieval" else []
    if task == "vqa":
        found = {
            note["question_id"]: run.answers.answers[row % 28]
            for row, note in zip(rows, notes, strict=True)
        }
        return {"questions": len(rows), "accuracy": accuracy(found, notes).overall}
    if task == "nlvr2":
        right = [
            LABELS[int(row % 3 == 0)] == note["label"]
            for row, note in zip(rows, notes, strict=True)
        ]
        return {"statements": len(rows), "accuracy": np.mean(right)}
    return {"images": 9, "texts": 45}


@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize(
    "devices", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3, 5, 7)), 8]
)
def test_every_example_counts_once(task, devices):
    first = None
    for groups in range(1, 8):
        run, found = metrics(task, devices, groups)
        first = first or found
        np.testing.assert_equal(found, first, f"{groups} groups")  # NaN is NaN
    for name, value in expected(task, run).items():
        assert found[f"scenes/{name}"] == pytest.approx(value), name
    # Something is right and something is wrong, so that a missing example would show.
    if task != "retrieval":
        assert 0 < found["scenes/accuracy"] < found[next(iter(found))]
