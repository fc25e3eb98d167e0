"""The mode "predict": the official file of a trained model's predictions."""

from __future__ import annotations

from pathlib import Path

from pixel_bert_jax import trained
from pixel_bert_jax.config import Config
from pixel_bert_jax.evaluate import Evaluation, evaluations, functions
from pixel_bert_jax.evaluators import EVALUATORS
from pixel_bert_jax.processes import hosts
from pixel_bert_jax.types import InputError, Params


def run(
    config: Config,
    workdir: Path,
    *,
    split: str,
    output: str,
    rebuild_index: bool,
    named: bool,
) -> None:
    """Writes the official file of a trained model's predictions.

    Args:
      config: config of this launch.
      workdir: folder of a training run.
      split: "evaluate" or "predict".
      output: path of the file.
      rebuild_index: build the indexes again.
      named: see `trained.find`.

    Raises:
      InputError: no such model, no output, or more than one evaluator.
    """
    if not output:
        raise InputError("--mode=predict needs --output=FILE")
    model = trained.find(config, workdir, named=named, rebuild_index=rebuild_index)
    chosen = "" if split == "evaluate" else split
    one, *others = evaluations(model.experiment, split=chosen)
    if others:
        raise InputError(
            f"predictions are of one evaluator, config.evals has "
            f"{', '.join(config.evals)}"
        )
    path = Path(output).expanduser()
    number, corpus = write_predictions(one, model.variables, path, workdir)
    if hosts.first():
        print(f"{model.name}\n{number:,} predictions of {corpus!r} written to {path}")


def write_predictions(
    one: Evaluation, variables: Params, path: Path, workdir: Path
) -> tuple[int, str]:
    """Predicts every example of an evaluation and writes the official file.

    Args:
      one: the evaluator with its examples.
      variables: parameters and running statistics.
      path: path of the file.
      workdir: keeps partial results of a long prediction.

    Returns:
      The number of predictions and the corpus.

    Raises:
      InputError: the evaluator has no official file, the path has another suffix than
        it, or there is more than one corpus.
    """
    if not one.kind.writes():
        able = [name for name, kind in EVALUATORS.items() if kind.writes()]
        raise InputError(
            f"{one.kind.__name__} has no official file; expected an evaluator of type "
            f"{' or '.join(able)}"
        )
    suffix = one.kind.suffix
    if not path.name.endswith(suffix):  # reported before hours of work
        raise InputError(f"--output is {path}, expected a name that ends in {suffix}")
    index = one.index
    if len(index.corpora) != 1:
        raise InputError(
            f"predictions are of one corpus, received {', '.join(index.corpora)}"
        )
    one.check()
    evaluator = one.evaluator(workdir)
    predict = functions(one.experiment)
    features = one.experiment.features(variables, index)
    with one.stream(features) as batches:
        (found,) = evaluator.predictions(predict, variables, batches, index)
    if hosts.first():
        path.parent.mkdir(parents=True, exist_ok=True)
        evaluator.write(path, found, index)
    return len(found), index.corpora[0]
