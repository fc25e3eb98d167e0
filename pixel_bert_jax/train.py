"""Training, as the paper describes it: batches of images and texts, one step each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from pixel_bert_jax.config import Config
from pixel_bert_jax.data.pipeline import Step
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.ops.image import prepare_images
from pixel_bert_jax.run import Preempted, Run
from pixel_bert_jax.training import sharding
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.types import Batch, refuse_to_run

__all__ = ["Preempted", "train_and_evaluate"]


def train_and_evaluate(
    config: Config | Mapping[str, Any],
    workdir: Path,
    *,
    rebuild_index: bool = False,
    command: str = "",
) -> TrainState:
    """Trains for the config's number of steps and returns the final state.

    A relaunch with the same arguments resumes from the newest checkpoint, bit for bit.

    Args:
      config: a config, resolved or as in `configs/`.
      workdir: folder for checkpoints, metrics and the config.
      rebuild_index: build the data's index again.
      command: command line of this run, kept with the model as its origin.

    Raises:
      InputError: bad input, known before anything is compiled.
      Preempted: SIGTERM came; the state of the last finished step was saved.
      NonFiniteError: too many updates in a row were not finite.
    """
    experiment = Experiment(config, rebuild_index=rebuild_index)
    with Run(experiment, workdir, command) as run:
        if not run.finished:
            run.report()
            for item in run.batches():
                batch = place(item, experiment)
                # All of the step's arrays are on the devices: a transfer would be a
                # mistake that makes every step wait.
                with jax.transfer_guard("disallow"):
                    run.state, sums = experiment.train_step(run.state, batch)
                run.after_step(item.step + 1, sums)
        run.finish()
        return run.state


def place(item: Step, experiment: Experiment) -> Batch:
    """Puts a step's batch onto the mesh, [A, G / A, ...], and resizes its images there.

    Args:
      item: step of the stream, with host arrays [G, ...] of this process's groups.
      experiment: its number A of micro-batches and its mesh are used.
    """
    accumulate = experiment.config.optim.accumulate
    batch = {k: x.reshape(accumulate, -1, *x.shape[1:]) for k, x in item.batch.items()}
    batch = sharding.place(batch, experiment.mesh, sharding.BATCH_SPEC)
    return prepare_images(batch, canvas=item.canvas)


if __name__ == "__main__":
    refuse_to_run("train")
