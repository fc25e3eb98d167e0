"""The mode "predict": the official file of a trained model's predictions."""

from __future__ import annotations

from pathlib import Path

from pixel_bert_jax import trained
from pixel_bert_jax.config import Config
from pixel_bert_jax.evaluate import Evaluation, Predictor, evaluations
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
    preset_model: str,
) -> None:
    """Writes the official file of a trained model's predictions.

    Args:
      config: of this launch.
      workdir: of the run.
      split: "evaluate" or "predict".
      output: path of the file.
      rebuild_index: build the indexes again.
      preset_model: see `trained.find`.
    """
    if not output:
        raise InputError("--mode=predict needs --output=FILE")
    model = trained.find(
        config, workdir, preset_model=preset_model, rebuild_index=rebuild_index
    )
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
      one: gives the evaluator and its examples.
      variables: parameters and running statistics.
      path: of the file.
      workdir: where a long prediction may leave what it has.

    Returns:
      The number of predictions and the corpus.

    Raises:
      InputError: there is no such file, or one of another name, or there is more than
        one corpus.
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
    with one.stream() as batches:
        predict = Predictor(one.experiment)
        (found,) = evaluator.predictions(predict, variables, batches, index)
    if hosts.first():
        path.parent.mkdir(parents=True, exist_ok=True)
        evaluator.write(path, found, index)
    return len(found), index.corpora[0]
