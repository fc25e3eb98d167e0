"""Runs a study: its cells over several seeds, then the table with its verdicts.

    python -m pixel_bert_jax.study --study=configs/ablation.py:tiny --seeds=3 \
      --workdir=FOLDER [--config.data.root=FOLDER ...]

Flags that begin with --config. are given to every cell. A launch after an interruption
goes on where the last one stopped; `--table` prints what is finished.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixel_bert_jax.config.config_file import run_file
from pixel_bert_jax.data import durable
from pixel_bert_jax.study.cells import Cell, Runner, run_all
from pixel_bert_jax.study.figure import check_figure, draw
from pixel_bert_jax.study.table import Claim, Mean, markdown, mean
from pixel_bert_jax.types import EXIT_BAD_INPUT, EXIT_ERROR, InputError


def load(value: str) -> dict[str, Any]:
    """Returns what `get_study` of FILE:NAME returns.

    Its fields: "cells" {name: {"config", "start"}}; "rows" {row: {column: (cell,
    metric)}}, or (cell, metric, factor); and "claims", a list of fields of
    `table.Claim`. Configs are relative to the file's folder.

    Raises:
      InputError: there is no such file or study.
    """
    name, _, study = value.partition(":")
    path = Path(name)
    found = run_file(path, "get_study", [study])
    for cell in found["cells"].values():
        cell["config"] = str(path.parent / cell["config"])
    return found


def collect(
    study: Mapping[str, Any], runner: Runner, seeds: range
) -> tuple[dict[str, dict[str, Mean]], list[str]]:
    """Returns the means over the seeds that are finished, and what is left out.

    Returns:
      {row: {column: mean}}, and a line for each finished cell whose evaluation does not
      give the column's metric, e.g. as its photos are trained on.
    """
    rows: dict[str, dict[str, Mean]] = {}
    missing: list[str] = []
    for row, columns in study["rows"].items():
        rows[row] = {}
        for column, (cell, metric, *scale) in columns.items():
            values = []
            for seed in seeds:
                found = runner.result(cell, seed)
                if found is None:
                    continue
                value = found["metrics"].get(metric)
                if value is None:
                    given = ", ".join(found["metrics"]) or "nothing"
                    missing.append(f"{cell}, seed {seed}, has no {metric}; has {given}")
                else:
                    values.append(value * (scale[0] if scale else 1.0))
            rows[row][column] = mean(values)
    return rows, missing


def main() -> int:
    """Runs what the command line asks for and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pixel_bert_jax.study", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--study", required=True, help="FILE:NAME")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument(
        "--workdir", type=Path, required=True, help="the study's folder"
    )
    parser.add_argument("--only", default="", help="part of names of cells to run")
    parser.add_argument("--skip", default="", help="part of names of cells not to run")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--figure", type=Path, help="draw the table into this file")
    parser.add_argument("--again", default="", help="CELL-SEED: run it again, compare")
    given, flags = parser.parse_known_args()
    try:
        if odd := [word for word in flags if not word.startswith("--config.")]:
            raise InputError(f"unexpected {odd[0]!r}; expected --config.FIELD=VALUE")
        study = load(given.study)
        cells = {name: Cell(**fields) for name, fields in study["cells"].items()}
        runner = Runner(cells, given.workdir.expanduser().resolve(), flags)
        if given.again:
            name, _, seed = given.again.rpartition("-")
            if name not in cells or not seed.isdecimal():
                raise InputError(
                    f"--again={given.again}: expected CELL-SEED with a cell of "
                    f"{', '.join(cells)}"
                )
            differing = runner.run_again(name, int(seed))
            print(f"{given.again}: {', '.join(differing) or 'nothing'} differs")
            return EXIT_ERROR if differing else 0
        if given.figure:
            check_figure(given.figure)  # before hours of work
        seeds = range(given.first_seed, given.first_seed + given.seeds)
        failed = []
        if not given.table:
            failed = run_all(runner, seeds, given.only, given.skip)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    rows, missing = collect(study, runner, seeds)
    text = markdown(rows, [Claim(**fields) for fields in study["claims"]])
    runner.folder.mkdir(parents=True, exist_ok=True)
    durable.write(runner.folder / "table.md", text)
    durable.write(runner.folder / "table.json", json.dumps(rows, indent=1) + "\n")
    print(text)
    if given.figure:
        draw(rows, given.figure)
    for line in (*failed, *missing):
        print(f"error: {line}", file=sys.stderr)
    return EXIT_ERROR if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
