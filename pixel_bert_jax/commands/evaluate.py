"""The mode "evaluate": metrics of a trained model on held-out data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pixel_bert_jax import trained
from pixel_bert_jax.checkpoints.store import check_writable
from pixel_bert_jax.config import Config
from pixel_bert_jax.data import durable
from pixel_bert_jax.evaluate import compare_with_training, evaluations, functions
from pixel_bert_jax.evaluators import errors
from pixel_bert_jax.evaluators.errors import Values
from pixel_bert_jax.metrics import as_json, with_errors
from pixel_bert_jax.processes import hosts
from pixel_bert_jax.types import InputError

PANELS = 8  # in a figure of held-out examples


def run(
    config: Config,
    workdir: Path,
    *,
    split: str,
    figure: str,
    examples: str,
    output: str,
    rebuild_index: bool,
    named: bool,
) -> None:
    """Prints the held-out metrics of a trained model; draws examples on request.

    Args:
      config: config of this launch.
      workdir: folder of a training run.
      split: "evaluate" or "predict".
      figure: path of a PNG file, "" for none.
      examples: path of a file for the values of every example, "" for none.
      output: path of a JSON file for the metrics, "" for none.
      rebuild_index: build the indexes again.
      named: see `trained.find`.

    Raises:
      InputError: no such model, or options that do not fit together.
    """
    if figure and hosts.several():
        raise InputError("--figure is drawn by a single process")
    for path in filter(
        None, (figure, examples, output)
    ):  # reported before hours of work
        check_writable(Path(path).expanduser().parent)
    model = trained.find(config, workdir, named=named, rebuild_index=rebuild_index)
    chosen = "" if split == "evaluate" else split
    found = evaluations(model.experiment, split=chosen, oracle=True)
    drawn = [one for one in found if one.kind.partners]
    if figure and not drawn:
        raise InputError("--figure draws masked words: expected an evaluator 'probe'")
    for one in found:
        one.check()
    compare_with_training(found, model.experiment, model.configs)
    predict = functions(model.experiment)
    metrics: dict[str, float] = {}
    values: dict[str, Values] = {}
    for one in found:
        metrics |= one.run(predict, model.variables, workdir, examples=values)
    if not hosts.first():
        return
    print(model.name)
    print(table(metrics))
    if output:
        path = Path(output).expanduser()
        durable.write(path, json.dumps(as_json(metrics), indent=1) + "\n")
        print(f"metrics in {path}")
    if examples:
        path = Path(examples).expanduser()
        errors.write(path, values)
        print(f"values of every example in {path}")
    if figure:
        from pixel_bert_jax.viz import held_out

        tokenizer = model.experiment.tokenizer
        with drawn[0].stream() as stream:
            shown = held_out.collect(
                stream, predict, model.variables, tokenizer, PANELS
            )
        held_out.draw(shown, Path(figure).expanduser())
        print(f"figure {figure}")


def table(metrics: Mapping[str, float]) -> str:
    """Formats metrics as lines of name, value and standard error."""
    shown = with_errors(metrics)
    width = max(map(len, shown), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in shown.items())
