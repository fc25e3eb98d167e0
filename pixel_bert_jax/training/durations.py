"""Lengths of training, "40 epochs" | "2000 steps" | "5 %", as optimizer steps.

The only arithmetic of epochs in the project: schedules, evaluation and checkpoints all
use it, so that they cannot disagree about where an epoch ends.
"""

from __future__ import annotations

import re
from fractions import Fraction

from pixel_bert_jax.types import InputError

_FORM = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(epochs?|steps?|%)")


def steps(
    duration: str | int, *, steps_per_epoch: int, total: int | None = None
) -> int:
    """Returns a duration in optimizer steps.

    The exact value is rounded to the nearest step, halves up; a duration above zero
    gives at least one step, so that "0.1 %" of a short run does not turn a warm-up or
    an interval off.

    Args:
      duration: "N epochs" and "N %" (of `total`) with N an integer or a decimal
        number, "N steps" or N with an integer. The singular forms are accepted, the
        space is optional.
      steps_per_epoch: steps of one epoch, at least 1.
      total: steps of the whole run, which percentages refer to.

    Raises:
      InputError: another form, a negative number, a fraction of a step, or a
        percentage without a total (as for the length of the run itself).
    """
    if isinstance(duration, int) and not isinstance(duration, bool) and duration >= 0:
        return duration
    text = str(duration).strip().lower()
    if isinstance(duration, str) and text.isascii() and text.isdigit():
        return int(text)
    form = _FORM.fullmatch(text) if isinstance(duration, str) else None
    if form is None:
        raise _error(duration)
    number, unit = Fraction(form[1]), form[2]
    if unit.startswith("step"):
        if number.denominator != 1:
            raise _error(duration, "Nearest valid: " + f'"{round(number)} steps".')
        return int(number)
    if unit == "%":
        if total is None:
            raise _error(
                duration, "A percentage needs the length of the run, unknown here."
            )
        exact = number * total / 100
    else:
        if steps_per_epoch < 1:
            raise InputError(
                f"Expected at least 1 step per epoch, received {steps_per_epoch}."
            )
        exact = number * steps_per_epoch
    return max(int(exact + Fraction(1, 2)), 1 if exact > 0 else 0)


def _error(duration: object, reason: str = "") -> InputError:
    return InputError(
        'Expected a duration as "40 epochs", "0.5 epochs", "2000 steps", "5 %" or a '
        f"number of steps, received {duration!r}. {reason}".rstrip()
    )
