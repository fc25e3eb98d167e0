import pytest

from pixel_bert_jax.training import durations
from pixel_bert_jax.types import InputError


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ("40 epochs", 4000),
        ("1 epoch", 100),
        ("0.5 epochs", 50),
        (".25epochs", 25),
        ("2000 steps", 2000),
        ("1 step", 1),
        ("2.0 steps", 2),
        ("5 %", 50),
        ("5%", 50),
        ("  7 Steps ", 7),
        ("0 epochs", 0),
        ("2000", 2000),
        (0, 0),
        (12, 12),
    ],
)
def test_every_form(duration, expected):
    assert durations.steps(duration, steps_per_epoch=100, total=1000) == expected


def test_rounds_the_exact_value_to_the_nearest_step():
    # 0.29 * 50 is 14.499999999999998 in floating point; exactly it is 14.5.
    assert durations.steps("0.29 epochs", steps_per_epoch=50) == 15
    assert durations.steps("0.5 epochs", steps_per_epoch=7) == 4
    assert durations.steps("33 %", steps_per_epoch=7, total=10) == 3


def test_is_at_least_one_step_unless_zero():
    assert durations.steps("0.01 epochs", steps_per_epoch=7) == 1
    assert durations.steps("0.1 %", steps_per_epoch=7, total=20) == 1
    assert durations.steps("0 %", steps_per_epoch=7, total=20) == 0


@pytest.mark.parametrize(
    "duration",
    ["", "epochs", "4 weeks", "-1 epochs", -1, "1e3 steps", "5 % 3", 2.5, None, True],
)
def test_other_forms_are_errors_that_show_what_came(duration):
    with pytest.raises(InputError, match="Expected a duration") as caught:
        durations.steps(duration, steps_per_epoch=100, total=1000)
    assert repr(duration) in str(caught.value)


def test_part_of_a_step_is_an_error():
    with pytest.raises(InputError, match=r"'2.7 steps'.*\"3 steps\""):
        durations.steps("2.7 steps", steps_per_epoch=100)


def test_percentage_needs_a_total():
    with pytest.raises(InputError, match="length of the run"):
        durations.steps("5 %", steps_per_epoch=100)


def test_epochs_need_an_epoch():
    with pytest.raises(InputError, match="at least 1 step per epoch, received 0"):
        durations.steps("5 epochs", steps_per_epoch=0)
