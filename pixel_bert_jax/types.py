"""Names shared by all layers: errors that decide the exit code, and type aliases.

JAX is not imported here, so that the numpy-only parts of the data path load fast.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

# Exit codes of `python -m pixel_bert_jax.main`, documented in the README.
EXIT_DONE = 0
EXIT_ERROR = 1
EXIT_BAD_INPUT = 2
EXIT_NON_FINITE = 3
EXIT_BAD_IMAGES = 4
EXIT_WATCHDOG = 5
EXIT_HOSTS = 6
EXIT_LOST = 7
EXIT_PREEMPTED = 143

Params = dict[str, Any]  # nested dict of arrays
Batch = dict[str, Any]  # see `data/fields.py` for names and shapes
Sums = dict[str, tuple[Any, Any]]  # name -> (total, count); merged by addition


class InputError(ValueError):
    """Bad input that is known before anything is compiled; ends with exit code 2."""


class BadImageBudgetError(RuntimeError):
    """More images failed than `data.bad_image_budget` allows; exit code 4."""


class NonFiniteError(RuntimeError):
    """Too many consecutive updates were not finite; exit code 3."""


class HostError(RuntimeError):
    """A process of the run is missing, or has another config or data; exit code 6."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns " (did you mean 'x'?)" for the closest valid name, or an empty string.

    Among dotted names, one whose last part is right is closest: "accumulate" and
    "model.accumulate" mean "optim.accumulate".

    Args:
      name: the name that was received.
      valid: names that exist.
    """
    name, valid = str(name), [str(v) for v in valid]
    last = name.rpartition(".")[2]
    same = [v for v in valid if v.rpartition(".")[2] == last and "/" not in v]
    close = difflib.get_close_matches(name, same, n=1, cutoff=0.0)
    close = close or difflib.get_close_matches(name, valid, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def refuse_to_run(module: str) -> NoReturn:
    """Ends `python -m` of a module that is not a program, with exit code 2.

    Without this, such a command would do nothing and report success.

    Args:
      module: name below the package, such as "train".
    """
    print(
        f"error: pixel_bert_jax.{module} is not a program; `python -m "
        "pixel_bert_jax.main --config=configs/pretrain.py:tiny` trains, and with "
        "--mode evaluates or predicts",
        file=sys.stderr,
    )
    sys.exit(EXIT_BAD_INPUT)
