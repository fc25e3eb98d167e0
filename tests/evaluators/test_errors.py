"""Standard errors: closed forms, and one for every mean of every evaluator."""

import types

import numpy as np
import pytest

from pixel_bert_jax.commands.evaluate import table
from pixel_bert_jax.config import Eval
from pixel_bert_jax.data.vqa_answers import AnswerVocabulary
from pixel_bert_jax.evaluators import errors, recall
from pixel_bert_jax.evaluators.base import Settings
from pixel_bert_jax.evaluators.errors import Values, clustered_mean
from pixel_bert_jax.evaluators.nlvr2 import Nlvr2Evaluator
from pixel_bert_jax.evaluators.vqa import VqaEvaluator
from pixel_bert_jax.types import InputError


def test_standard_error_of_independent_values_is_the_usual_one():
    values = np.random.default_rng(1).normal(size=50)
    mean, error = clustered_mean(values, np.arange(50))
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(50))


def test_standard_error_counts_copies_of_one_value_once():
    values = np.random.default_rng(2).normal(size=20)
    clusters = np.repeat(np.arange(20), 5)
    _, error = clustered_mean(np.repeat(values, 5), clusters)
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(20))


def test_standard_error_of_one_cluster_is_unknown():
    mean, error = clustered_mean(np.array([0.0, 1.0]), np.zeros(2))
    assert mean == 0.5 and np.isnan(error)


def test_values_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "values.jsonl"
    values = Values([7, 8, 9], np.array([1, 1, 2]), np.array([0.0, 1.0, 0.1]))
    errors.write(path, {"vqa/accuracy": values})
    read = errors.read(path)["vqa/accuracy"]
    assert read.examples == ["7", "8", "9"]
    np.testing.assert_array_equal(read.clusters, values.clusters)
    np.testing.assert_array_equal(read.values, values.values)
    with path.open("a") as file:
        file.write('{"metric": "x"}\n')
    with pytest.raises(InputError, match=r"values.jsonl:4: expected an object with"):
        errors.read(path)
    with pytest.raises(InputError, match="cannot be read"):
        errors.read(tmp_path / "nothing")


def evaluated(evaluator, index, annotations, predictions):
    """Returns the metrics of predictions, which are given."""
    fake = types.SimpleNamespace(
        corpora=("toy",),
        sources=(types.SimpleNamespace(files=lambda: ["questions.json"]),),
        num_texts=lambda c: len(annotations),
        annotation=lambda c, row: annotations[row],
        **index,
    )
    evaluator.predictions = lambda *unused: [predictions]
    return dict(evaluator.run(None, {}, [], fake))


def test_errors_of_vqa_are_clustered_by_image():
    answers = [[{"answer": a, "answer_id": n} for n in range(10)] for a in "xxyxyx"]
    kinds = ["number", "other"] * 3
    annotations = [
        dict(question_id=n, question_type="what", answer_type=kind, answers=given)
        for n, (kind, given) in enumerate(zip(kinds, answers, strict=True))
    ]
    images = np.array([3, 3, 4, 4, 5, 5])
    settings = Settings(None, AnswerVocabulary(("x", "y")), Eval(), ("answers",))
    evaluator = VqaEvaluator(settings)
    index = {"text_image": lambda c: images}
    found = evaluated(evaluator, index, annotations, dict.fromkeys(range(6), "x"))
    right = np.array([100.0, 100, 0, 100, 0, 100])
    assert found["toy/accuracy"] == 66.67  # two decimals, as officially
    assert found["toy/accuracy_se"] == clustered_mean(right, images)[1]
    numbers = right[::2], images[::2]
    assert found["toy/accuracy_number_se"] == clustered_mean(*numbers)[1]
    assert evaluator.examples["toy/accuracy_number"].examples == [0, 2, 4]


def test_errors_of_nlvr2_are_clustered_by_set():
    names = [
        f"dev-{s}-{pair}-{n}" for s in (5, 6, 7) for pair in (0, 1) for n in (0, 1)
    ]
    annotations = [dict(identifier=name, label="True") for name in names]
    wrong = ("dev-5-0-0", "dev-6-1-0", "dev-6-1-1")
    judged = {name: str(name not in wrong) for name in names}
    evaluator = Nlvr2Evaluator(Settings(None, None, Eval(), ("truth",)))
    found = evaluated(evaluator, {}, annotations, judged)
    hits = np.array([name not in wrong for name in names], float)
    assert found["toy/accuracy"] == 0.75
    assert found["toy/accuracy_se"] == clustered_mean(hits, np.repeat([5, 6, 7], 4))[1]
    assert found["toy/consistency"] == 0.5
    consistent = np.array([0.0, 1, 0, 0, 1, 1])
    error = clustered_mean(consistent, np.repeat([5, 6, 7], 2))[1]
    assert found["toy/consistency_se"] == error


def test_a_statement_is_judged_true_if_its_log_odds_are_positive():
    evaluator = Nlvr2Evaluator(Settings(None, None, Eval(), ("truth",)))
    batch = {
        "example_mask": np.array([[True, True], [True, False]]),
        "corpus": np.array([0, 0]),
        "example_id": np.array([[[0, 0], [0, 1]], [[0, 2], [0, 3]]]),
    }
    odds = np.array([[0.5, -0.5], [2.0, 3.0]])
    index = types.SimpleNamespace(
        corpora=("toy",), annotation=lambda c, row: {"identifier": f"dev-0-{row}-0"}
    )
    stream = [types.SimpleNamespace(batch=batch)]
    predict = lambda name, variables, step: {"log_odds": odds}  # noqa: E731
    (found,) = evaluator.predictions(predict, {}, stream, index)
    wanted = {"dev-0-0-0": "True", "dev-0-1-0": "False", "dev-0-2-0": "True"}
    assert found == wanted  # and nothing of the empty slot


def test_errors_of_retrieval_are_clustered_by_image():
    text_image = np.repeat(np.arange(12), 5)
    scores = np.random.default_rng(0).random((12, 60))
    scores[text_image, np.arange(60)] += 0.5
    ranks = recall.ranks(scores, text_image)
    values, metrics = recall.values(ranks, text_image), recall.metrics(ranks)
    for name, one in values.items():
        assert metrics[name] == pytest.approx(one.mean()[0])
    hits = 100.0 * (ranks.images < 5)
    assert values["image_r5"].mean()[1] == clustered_mean(hits, text_image)[1]
    # Independent queries: the usual error of a share.
    share = np.mean(ranks.texts < 1)
    error = 100 * np.sqrt(share * (1 - share) / 11)
    assert values["text_r1"].mean()[1] == pytest.approx(error)


def test_the_table_shows_errors_beside_their_metrics():
    lines = table({"a/match": 0.5, "a/match_se": 0.25, "a/texts@missing": 8.0})
    assert lines == "  a/match          0.5000 ± 0.2500\n  a/texts@missing  8.0000"
    # Only the end of a name says that it is an error.
    set_of = {"my_set/match": 0.5, "my_set/match_se": 0.25}
    assert table(set_of) == "  my_set/match  0.5000 ± 0.2500"
    marked = {"a/match@missing": 0.5, "a/match_se@missing": 0.25}
    assert table(marked) == "  a/match@missing  0.5000 ± 0.2500"
