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
from pixel_bert_jax.data.text import WordPiece
from pixel_bert_jax.evaluators import EVALUATORS
from pixel_bert_jax.evaluators.base import to_host
from pixel_bert_jax.experiment import Experiment, prepare_images
from pixel_bert_jax.train_state import TrainState
from pixel_bert_jax.types import InputError, Params

# What must agree between a checkpoint and the config that evaluates it.
MUST_AGREE = ("task", "objectives", "masking", "model")


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
) -> tuple[Experiment, TrainState]:
    """Loads a workdir's best checkpoint, or the newest if none was kept as best.

    Args:
      config: of this launch; model, objectives and tokenizer must be the checkpoint's.
      workdir: of the training run.
      rebuild_index: build the data's index again.

    Raises:
      InputError: no checkpoint, or one of another model; lists the differences.
    """
    if not (workdir / "checkpoints").is_dir():
        raise InputError(
            f"no checkpoint in {workdir}: expected {workdir / 'checkpoints'}, which a "
            "training run with the same --workdir makes"
        )
    checkpoints = open_checkpoints(config, workdir)
    which = BEST if checkpoints.newest_step(BEST) is not None else LATEST
    if checkpoints.newest_step(which) is None:
        raise InputError(f"no complete checkpoint in {workdir / 'checkpoints'}")
    meta = checkpoints.read_meta(which)
    checkpointing.check_same_config(
        {name: meta["config"][name] for name in MUST_AGREE},
        {name: config[name] for name in MUST_AGREE},
        f"the checkpoint in {workdir}",
    )
    stored = meta["tokenizer"]
    tokenizer = WordPiece(stored["vocabulary"], lower_case=stored["lower_case"])
    experiment = Experiment(config, rebuild_index=rebuild_index, tokenizer=tokenizer)
    state = checkpoints.restore(experiment.stored_target(meta["config"]), which)
    checkpoints.close()
    return experiment, state


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
    checkpointing.check_same_config(
        {name: exported.config[name] for name in MUST_AGREE},
        {name: config[name] for name in MUST_AGREE},
        f"the model in {folder}",
    )
    experiment = Experiment(
        config, rebuild_index=rebuild_index, tokenizer=exported.tokenizer
    )
    export.check_fits(exported.variables, experiment.variable_shapes, str(folder))
    return experiment, exported


def open_checkpoints(config: Mapping[str, Any], workdir: Path) -> Checkpoints:
    """Opens the checkpoints of a workdir with the config's retention."""
    fields = config["checkpoint"]
    return Checkpoints(
        workdir,
        keep=fields["keep"],
        metric=fields["best_metric"],
        mode=fields["best_mode"],
    )


def table(figures: Mapping[str, float]) -> str:
    """Formats figures as lines of name and value."""
    width = max(map(len, figures), default=0)
    return "\n".join(
        f"  {name:<{width}}  {value:.4f}" for name, value in figures.items()
    )
