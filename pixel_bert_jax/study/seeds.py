"""One config over several seeds: `pixel_bert_jax.main --seeds=N`."""

from __future__ import annotations

import sys
from pathlib import Path

from pixel_bert_jax.config import Launch
from pixel_bert_jax.data import durable
from pixel_bert_jax.study.cells import Cell, Runner, run_all
from pixel_bert_jax.study.table import markdown, mean
from pixel_bert_jax.types import EXIT_DONE, EXIT_ERROR

NAME = "seed"


def run(launch: Launch, workdir: Path, count: int) -> int:
    """Trains with `count` seeds from `config.seed` on and prints a table of metrics.

    Seed n has its workdir in `WORKDIR/runs/seed-n`; a launch after an interruption goes
    on where the last one stopped.

    Returns:
      The exit code.
    """
    config = launch.config
    source = ":".join(filter(None, (str(launch.file), launch.preset.preset)))
    flags = [w for w in launch.changes if not w.startswith("--config.seed=")]
    runner = Runner({NAME: Cell(source)}, workdir, flags)
    seeds = range(config.seed, config.seed + count)
    failed = run_all(runner, seeds)
    found = [one["metrics"] for n in seeds if (one := runner.result(NAME, n))]
    names = dict.fromkeys(name for metrics in found for name in metrics)
    rows = {
        name: {"mean": mean([metrics[name] for metrics in found if name in metrics])}
        for name in names
        if not name.endswith("_se")
    }
    text = markdown(rows)
    workdir.mkdir(parents=True, exist_ok=True)
    durable.write(workdir / "table.md", text)
    print(text)
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return EXIT_ERROR if failed else EXIT_DONE
