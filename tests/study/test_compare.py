"""Two evaluations of the same examples: the paired bootstrap against closed forms."""

import sys

import numpy as np
import pytest

from pixel_bert_jax.evaluators import errors
from pixel_bert_jax.evaluators.errors import Values, clustered_mean
from pixel_bert_jax.study import compare
from pixel_bert_jax.study.compare import difference
from pixel_bert_jax.types import InputError


def pair(gain, count=400, texts=1):
    """Values of two models, of which the second is better by `gain` on average."""
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(count), texts)
    first = generator.normal(size=count * texts)
    second = first + np.repeat(generator.normal(gain, 1.0, count), texts)
    names = [str(n) for n in range(count * texts)]
    return Values(names, clusters, first), Values(names, clusters, second)


@pytest.mark.parametrize("texts", [1, 5])
def test_the_interval_is_that_of_the_clustered_error(texts):
    first, second = pair(0.2, texts=texts)
    found = difference(first, second)
    gains = second.values - first.values
    _, error = clustered_mean(gains, first.clusters)
    middle = gains.mean()
    assert found.second - found.first == pytest.approx(middle)
    assert found.low == pytest.approx(middle - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(middle + 1.96 * error, abs=0.15 * error)
    assert (found.examples, found.clusters) == (400 * texts, 400)


def test_pairs_are_matched_by_name():
    first, second = pair(0.2)
    order = np.random.default_rng(1).permutation(400)
    names = [second.examples[n] for n in order]
    shuffled = Values(names, second.clusters[order], second.values[order])
    assert difference(first, shuffled) == pytest.approx(difference(first, second))
    same = difference(first, first)
    assert same.low == same.high == 0
    other = Values([*second.examples[:-1], "x"], second.clusters, second.values)
    with pytest.raises(InputError, match="2 examples are in one evaluation alone"):
        difference(first, other)


def test_the_program_marks_what_differs(tmp_path, monkeypatch, capsys):
    better, same = pair(0.5), pair(0.0)
    for n, name in enumerate("ab"):
        found = {"vqa/accuracy": better[n], "vqa/other": same[0]}
        errors.write(tmp_path / name, found | {f"only_{name}": same[0]})

    def run(*files):
        words = ["compare", *(str(tmp_path / name) for name in files)]
        monkeypatch.setattr(sys, "argv", words)
        return compare.main(), capsys.readouterr()

    code, output = run("a", "b")
    first, second, note = output.out.splitlines()
    assert code == 0
    assert first.startswith("vqa/accuracy: ") and first.endswith("400 clusters)  *")
    assert "+0.0000 [+0.0000, +0.0000]" in second and not second.endswith("*")
    assert note.startswith("* the 95% interval")
    errors.write(tmp_path / "c", {"nlvr2/accuracy": same[0]})
    code, output = run("a", "c")
    assert code == 2 and "share no metric" in output.err
