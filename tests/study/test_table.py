"""Means over seeds and verdicts: closed forms."""

import math

import pytest

from pixel_bert_jax.study.table import Claim, Mean, markdown, mean, verdict


def test_mean_and_its_standard_error():
    found = mean([1.0, 2.0, 6.0])
    assert found == (3.0, pytest.approx(math.sqrt((4 + 1 + 9) / 2 / 3)), 3)
    assert str(found) == "3 ± 1.5"
    one = mean([88.25])
    assert one.value == 88.25 and math.isnan(one.error) and str(one) == "88.25"
    assert str(mean([])) == "-"


@pytest.mark.parametrize(
    ("better", "text"),
    [
        (12.1, "holds"),
        (11.9, "no difference seen"),
        (8.1, "no difference seen"),
        (7.9, "opposite"),
    ],
)
def test_a_verdict_needs_two_standard_errors(better, text):
    # The standard error of the difference is 1.
    found = verdict(Mean(better, 0.6, 3), Mean(10.0, 0.8, 3))
    assert found.text == text
    assert found.error == pytest.approx(1.0)
    assert found.difference == pytest.approx(better - 10)


def test_one_seed_or_none_is_no_verdict():
    for other in (mean([3.0]), mean([])):
        assert verdict(mean([1.0, 2.0]), other).text == "not measured"


def test_the_table_has_all_rows_and_claims():
    rows = {
        "none": {"VQA": mean([50.0, 52.0, 54.0])},
        "mlm": {"VQA": mean([60.0, 62.0, 64.0]), "TR": mean([1.0, 1.5])},
    }
    text = markdown(rows, [Claim("MLM helps", "mlm", "none", {"VQA": 7.63, "TR": 1})])
    lines = text.splitlines()
    assert lines[0] == "Mean ± standard error over 2 to 3 seeds."
    assert "| none | 52 ± 1.2 | - |" in lines
    assert "| mlm | 62 ± 1.2 | 1.25 ± 0.25 |" in lines
    assert "| MLM helps | VQA | +7.63 | +10 ± 1.6 | holds |" in lines
    assert "| MLM helps | TR | +1 | +nan ± nan | not measured |" in lines
    assert "more than 2 standard errors" in text
