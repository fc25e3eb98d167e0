"""Evaluation: during training, and alone from a workdir's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pixel_bert_jax import checkpointing, sharding
from pixel_bert_jax.checkpointing import BEST, LATEST, Checkpoints
from pixel_bert_jax.convert import export
from pixel_bert_jax.data.pipeline import Step, Stream
from pixel_bert_jax.data.text import WordPiece, load_tokenizer
from pixel_bert_jax.evaluators import EVALUATORS
from pixel_bert_jax.evaluators.base import to_host
from pixel_bert_jax.experiment import Experiment, prepare_images
from pixel_bert_jax.train_state import TrainState
from pixel_bert_jax.types import InputError, Params


def predictor(experiment: Experiment) -> Any:
    """Returns (variables, Step) -> host arrays for the task's evaluator."""
    name, _ = EVALUATORS[experiment.config["task"]["name"]]
    function = jax.jit(experiment.task.predict[name])

    def predict(variables: Params, step: Step) -> dict[str, np.ndarray]:
        batch = sharding.place(step.batch, experiment.mesh, sharding.EVAL_SPEC)
        return to_host(function(variables, prepare_images(batch, canvas=step.canvas)))

    return predict


def run(
    experiment: Experiment, variables: Params, predict: Any, *, oracle: bool
) -> dict[str, float]:
    """Evaluates on every held-out example once.

    Args:
      experiment: gives plan, index, task.
      variables: parameters and running statistics.
      predict: of `predictor`, kept by the caller so that it compiles once.
      oracle: also compute the ceilings of embedded data.
    """
    _, evaluator = EVALUATORS[experiment.config["task"]["name"]]
    with stream(experiment) as batches:
        return dict(
            evaluator(experiment.tokenizer, oracle=oracle).run(
                predict, variables, batches, experiment.evaluation_index
            )
        )


def figure_names(experiment: Experiment) -> list[str]:
    """Returns the names of the figures of the held-out examples."""
    _, evaluator = EVALUATORS[experiment.config["task"]["name"]]
    names = evaluator(experiment.tokenizer, oracle=False).names
    return names(experiment.evaluation_index)


def stream(experiment: Experiment) -> Stream:
    """Opens the stream of held-out examples; a bad image is always an error."""
    data = experiment.config["data"]
    return Stream(
        experiment.evaluation_plan,
        experiment.evaluation_index,
        workers=data["workers"],
        prefetch=data["prefetch"],
    )


def from_workdir(
    config: Mapping[str, Any], workdir: Path, *, rebuild_index: bool = False
) -> tuple[Experiment, TrainState, dict[str, Any]]:
    """Loads a workdir's best checkpoint, or the newest if none was kept as best.

    Args:
      config: of this launch; model, objectives and tokenizer must be the checkpoint's.
      workdir: of the training run.
      rebuild_index: build the data's index again.

    Returns:
      The experiment of this launch, the state, and the checkpoint's `meta` record.

    Raises:
      InputError: no checkpoint, or one of another model; lists the differences.
    """
    if not (workdir / "checkpoints").is_dir():
        raise InputError(
            f"no checkpoint in {workdir}: expected {workdir / 'checkpoints'}, which a "
            "training run with the same --workdir makes"
        )
    checkpoints = open_checkpoints(config, workdir, read_only=True)
    which = BEST if checkpoints.newest_step(BEST) is not None else LATEST
    if checkpoints.newest_step(which) is None:
        raise InputError(f"no complete checkpoint in {workdir / 'checkpoints'}")
    meta = checkpoints.read_meta(which)
    stored = meta["tokenizer"]
    tokenizer = WordPiece(stored["vocabulary"], lower_case=stored["lower_case"])
    where = f"the checkpoint in {workdir}"
    _check_same_model(meta["config"], config, tokenizer, where)
    experiment = Experiment(config, rebuild_index=rebuild_index, tokenizer=tokenizer)
    state = checkpoints.restore(experiment.stored_target(meta["config"]), which)
    checkpoints.close()
    return experiment, state, meta


def from_exported(
    config: Mapping[str, Any], folder: Path, *, rebuild_index: bool = False
) -> tuple[Experiment, export.Exported]:
    """Loads a folder that --mode=export wrote.

    Args:
      config: of this launch; model and objectives must be the folder's.
      folder: of the exported model.
      rebuild_index: build the data's index again.

    Raises:
      InputError: no such folder, or one of another model; lists the differences.
    """
    exported = export.load(folder)
    where = f"the model in {folder}"
    _check_same_model(exported.config, config, exported.tokenizer, where)
    experiment = Experiment(
        config, rebuild_index=rebuild_index, tokenizer=exported.tokenizer
    )
    export.check_fits(exported.variables, experiment.variable_shapes, str(folder))
    return experiment, exported


def _check_same_model(
    old: Mapping[str, Any], new: Mapping[str, Any], tokenizer: WordPiece, where: str
) -> None:
    """Compares what a model is: architecture, heads and vocabulary.

    How it was trained may differ, and what it is evaluated on.

    Args:
      old: config that the model was trained with.
      new: config of this launch.
      tokenizer: of the model.
      where: names the model in the message.

    Raises:
      InputError: lists the differences.
    """

    def model(config: Mapping[str, Any]) -> dict[str, Any]:
        heads = sorted(config["objectives"])
        return {"task": config["task"], "model": config["model"], "objectives": heads}

    checkpointing.check_same_config(model(old), model(new), where)
    name = new["data"]["tokenizer"]
    # Its own tokenizer needs no file, so another is opened only if one is asked for.
    if name != old["data"]["tokenizer"]:
        asked = load_tokenizer(name)
        if asked.fingerprint != tokenizer.fingerprint:
            raise InputError(
                f"{where} has another vocabulary ({tokenizer.vocab_size} words) than "
                f"data.tokenizer = {name!r} ({asked.vocab_size})"
            )


def open_checkpoints(
    config: Mapping[str, Any], workdir: Path, *, read_only: bool = False
) -> Checkpoints:
    """Opens the checkpoints of a workdir with the config's retention."""
    fields = config["checkpoint"]
    return Checkpoints(
        workdir,
        keep=fields["keep"],
        metric=fields["best_metric"],
        mode=fields["best_mode"],
        read_only=read_only,
    )


def table(figures: Mapping[str, float]) -> str:
    """Formats figures as lines of name and value."""
    width = max(map(len, figures), default=0)
    return "\n".join(
        f"  {name:<{width}}  {value:.4f}" for name, value in figures.items()
    )
