"""Figures equal to the last digit to those that the official files give.

`golden/` holds generated cases and the values of GT-Vision-Lab/VQA's vqaEval.py,
lil-lab/nlvr's metrics.py and SCAN's evaluation.py on them.
"""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from pixel_bert_jax.data.vqa_answers import normalise
from pixel_bert_jax.evaluators import nlvr2_scores, recall, vqa_accuracy
from pixel_bert_jax.types import InputError

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    data = (GOLDEN / name).read_bytes()
    return json.loads(gzip.decompress(data) if name.endswith(".gz") else data)


@pytest.fixture(scope="module")
def vqa():
    found = golden("vqa.json.gz")
    annotations, predictions = [], {}
    for number, question_type, answer_type, answers, prediction, *_ in found[
        "annotations"
    ]:
        fields = ("answer", "answer_confidence", "answer_id")
        annotations.append(
            {
                "question_id": number,
                "question_type": question_type,
                "answer_type": answer_type,
                "answers": [dict(zip(fields, a, strict=True)) for a in answers],
            }
        )
        predictions[number] = prediction
    return found, annotations, predictions


def test_vqa_accuracy_is_the_official_one(vqa):
    found, annotations, predictions = vqa
    assert len(annotations) >= 2000
    ours = vqa_accuracy.accuracy(predictions, annotations)
    for number, *_, score in found["annotations"]:
        assert ours.by_question[number] == score, number
    assert ours.overall == found["overall"]
    assert ours.by_answer_type == found["by_answer_type"]
    assert ours.by_question_type == found["by_question_type"]
    # Every score that ten answers allow, and two of a record that is there twice.
    assert {0.0, 30.0, 60.0, 90.0, 100.0} < set(ours.by_question.values())


def test_answers_are_normalised_as_officially(vqa):
    for *_, prediction, normalised, _ in vqa[0]["annotations"]:
        assert normalise(prediction) == normalised, repr(prediction)
    rules = golden("vqa_normalised.json.gz")
    assert len(rules) > 500
    for text, normalised in rules:
        assert normalise(text) == normalised, repr(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, a: p.pop(a[3]["question_id"]), r"1 questions without.*\[24\]"),
        (lambda p, a: p.update({5: "x"}), r"1 predictions of other questions: \[5\]"),
        (lambda p, a: (p.clear(), a.clear()), "no questions"),
    ],
)
def test_vqa_predictions_have_to_be_complete(vqa, change, message):
    _, annotations, predictions = vqa
    annotations, predictions = list(annotations), dict(predictions)
    change(predictions, annotations)
    with pytest.raises(InputError, match=message):
        vqa_accuracy.accuracy(predictions, annotations)


def nlvr2_cases():
    for case in golden("nlvr2.json.gz"):
        examples = [{"identifier": i, "label": x} for i, x, _ in case["examples"]]
        yield examples, {i: p for i, _, p in case["examples"]}, case["scores"]


def test_nlvr2_scores_are_the_official_ones(tmp_path):
    total = 0
    for examples, predictions, wanted in nlvr2_cases():
        path = tmp_path / "predictions.csv"
        nlvr2_scores.write_csv(path, predictions)
        found = nlvr2_scores.scores(nlvr2_scores.read_csv(path), examples)
        assert [found.accuracy, found.consistency] == wanted
        total += len(examples)
    assert total >= 2000


@pytest.mark.parametrize("split", ["dev", "test1", "test2"])
@pytest.mark.parametrize("seed", [0, 1])
def test_nlvr2_scores_on_the_official_files(real_data, split, seed):
    path = real_data / "nlvr2" / "data" / f"{split}.json.gz"
    with gzip.open(path, "rt") as lines:
        examples = [json.loads(line) for line in lines]
    draw = random.Random(seed)
    predictions = {
        x["identifier"]: x["label"]
        if draw.random() < 0.7
        else str(x["label"] != "True")
        for x in examples
    }
    found = nlvr2_scores.scores(predictions, examples)
    both = [found.accuracy, found.consistency]
    assert both == golden("nlvr2_official.json")[f"{split}/{seed}"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, e: p.pop(e[0]["identifier"]), "1 examples without a prediction"),
        (lambda p, e: p.update({"dev-1-1-9": "True"}), "1 predictions of other"),
        (lambda p, e: p.update({e[0]["identifier"]: "yes"}), "neither True nor False"),
        (lambda p, e: e.append(e[0]), "identifiers given more than once"),
        (lambda p, e: (p.clear(), e.clear()), "no examples"),
    ],
)
def test_nlvr2_predictions_have_to_be_complete(change, message):
    examples, predictions, _ = next(nlvr2_cases())
    change(predictions, examples)
    with pytest.raises(InputError, match=message):
        nlvr2_scores.scores(predictions, examples)


def test_a_broken_nlvr2_file_is_refused(tmp_path):
    path = tmp_path / "predictions.csv"
    for text in ("dev-1-0-0,True\ndev-1-0-1\n", "dev-1-0-0,True\ndev-1-0-0,True\n"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"predictions\.csv:2: expected"):
            nlvr2_scores.read_csv(path)


def matrix(case):
    """The scores of a golden case: random, with the right pairs lifted."""
    count = case["images"]
    scores = np.random.default_rng(case["seed"]).random((count, 5 * count))
    text_image = np.repeat(np.arange(count), 5)
    scores[text_image, np.arange(5 * count)] += case["lift"]
    return scores, text_image


@pytest.mark.parametrize("case", golden("retrieval.json"), ids=lambda c: c["seed"])
def test_recalls_are_scans(case):
    found = recall.metrics(recall.ranks(*matrix(case)))
    for name in ("text", "image"):
        ours = [found[f"{name}_{f}"] for f in ("r1", "r5", "r10")]
        ours += [found[f"{name}_{f}_rank"] for f in ("median", "mean")]
        assert ours == case[name]


def test_ties_find_nothing():
    scores, text_image = np.zeros((20, 100)), np.repeat(np.arange(20), 5)
    found = recall.ranks(scores, text_image)
    assert (found.images == 19).all()  # behind all other images
    assert (found.texts == 95).all()  # behind the texts of all others
    metrics = recall.metrics(found)
    assert metrics["text_r10"] == 0
    assert (metrics["text_ties"], metrics["image_ties"]) == (20, 100)
    # One level above all others is no tie; an image's own texts may tie.
    scores[text_image, np.arange(100)] = 1
    found = recall.ranks(scores, text_image)
    assert not found.images.any() and not found.texts.any()
    assert not found.images_tied.any() and not found.texts_tied.any()
    scores[0, 99] = 1  # a text of the last image suits the first as well
    found = recall.ranks(scores, text_image)
    assert found.texts_tied.nonzero()[0].tolist() == [0]
    assert found.images_tied.nonzero()[0].tolist() == [99]


def test_order_of_texts_does_not_matter():
    scores, text_image = matrix({"images": 30, "seed": 3, "lift": 0.3})
    order = np.random.default_rng(0).permutation(150)
    before = recall.metrics(recall.ranks(scores, text_image))
    after = recall.metrics(recall.ranks(scores[:, order], text_image[order]))
    assert after == pytest.approx(before)


def test_folds_are_means_of_their_parts():
    scores, text_image = matrix({"images": 40, "seed": 4, "lift": 0.3})
    ranks = recall.fold_ranks(scores, text_image, fold=8)
    found = recall.fold_metrics(ranks, text_image, fold=8)
    parts = [
        recall.metrics(
            recall.ranks(scores[n : n + 8, 5 * n : 5 * n + 40], np.repeat(range(8), 5))
        )
        for n in range(0, 40, 8)
    ]
    for name, value in found.items():
        assert value == pytest.approx(np.mean([p[name] for p in parts]))
    values = recall.values(ranks, text_image)["text_r1"]
    assert values.mean()[0] == pytest.approx(found["text_r1"])
    whole = recall.metrics(recall.ranks(scores, text_image))
    assert found["text_r1"] > whole["text_r1"]
    with pytest.raises(InputError, match="a multiple of 7 images, received 40"):
        recall.fold_ranks(scores, text_image, fold=7)


@pytest.mark.parametrize(
    ("scores", "text_image", "message"),
    [
        (np.zeros((2, 3)), [0, 1], "received"),
        (np.zeros((2, 2)), [0, 0], "texts of every image"),
        (np.full((2, 2), np.nan), [0, 1], "4 of 4 scores are not finite"),
    ],
)
def test_scores_that_cannot_be_ranked(scores, text_image, message):
    with pytest.raises(InputError, match=message):
        recall.ranks(scores, np.array(text_image))
