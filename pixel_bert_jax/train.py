"""The training loop: it keeps time, and a task does the rest."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pixel_bert_jax import evaluate, metrics, trees
from pixel_bert_jax.checkpoints import checkpointing
from pixel_bert_jax.checkpoints.store import check_writable
from pixel_bert_jax.checks import check_metric
from pixel_bert_jax.data.overlap import overlaps
from pixel_bert_jax.data.pipeline import Step, Stream
from pixel_bert_jax.experiment import Experiment, count_parameters, split_batch
from pixel_bert_jax.ops.image import prepare_images
from pixel_bert_jax.processes import hosts
from pixel_bert_jax.processes.lock import locked
from pixel_bert_jax.processes.watchdog import Watchdog
from pixel_bert_jax.resuming import bad_images_file, restore_or_create
from pixel_bert_jax.training import sharding
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.training.train_step import NOT_FINITE
from pixel_bert_jax.types import NonFiniteError

SKIPPED = "skipped_in_a_row"  # of `train_step`: updates that were not finite
# Steps after which the time of the rest is projected, and from which on it is measured:
# the first ones compile.
PROJECT_AFTER, PROJECT_FROM = 50, 25


class Preempted(Exception):
    """SIGTERM came; the state was saved."""


class _Interrupted(Exception):
    """SIGTERM came in the middle of an evaluation."""


def train_and_evaluate(
    config: Mapping[str, Any],
    workdir: Path,
    *,
    rebuild_index: bool = False,
    command: str = "",
) -> TrainState:
    """Trains to the config's end and returns the final state.

    A relaunch with the same arguments goes on where the newest checkpoint stands, bit
    for bit.

    Args:
      config: of `configs/`, as a plain dict.
      workdir: holds checkpoints, metrics and the config.
      rebuild_index: build the data's index again.
      command: that does the same, kept as the model's record of origin.

    Raises:
      InputError: bad input, known before anything is compiled.
      Preempted: SIGTERM came; the state of the last finished step was saved.
      NonFiniteError: too many updates in a row were not finite.
    """
    experiment = Experiment(config, rebuild_index=rebuild_index)
    total = experiment.total_steps
    accumulate = config["optim"]["accumulate"]
    log_every = config["log"]["every"]
    save_every = experiment.steps(config["checkpoint"]["every"])
    evaluate_every = experiment.steps(config["eval"]["every"])
    sharding.check_spread(
        experiment.variable_shapes["params"],
        experiment.mesh.shape,
        config["sharding"],
        config["sharding_tolerance"],
    )
    meta = experiment.meta | {"command": command}
    hosts.compare({name: meta[name] for name in ("plan", "index")})
    if evaluate_every:
        _ = experiment.evaluation_plan  # faults of held-out data show before training
        names = evaluate.figure_names(experiment)
        check_metric(config["checkpoint"]["best_metric"], names)
        for found in overlaps(experiment.train_index, experiment.evaluation_index):
            hosts.say(f"warning: {found}")
    check_writable(workdir)

    def evaluation_due(step: int) -> bool:
        whole = step == total or step % max(evaluate_every, 1) == 0
        return bool(evaluate_every and step and whole)

    with contextlib.ExitStack() as stack:
        if hosts.first():
            stack.enter_context(locked(workdir))
        watchdog = stack.enter_context(
            Watchdog(**config["watchdog"], leave=hosts.leave)
        )
        checkpoints = checkpointing.Checkpoints(
            workdir, **checkpointing.options(config)
        )
        stack.callback(checkpoints.close)
        _ = checkpoints.newest_step(checkpointing.BEST)  # damage shows at once
        state, first = restore_or_create(experiment, checkpoints, workdir)
        sound = int(state.skipped) == 0
        # A run that was killed between saving and evaluating makes up for it.
        late = evaluation_due(first) and metrics.evaluation_at(workdir, first) is None
        late = bool(hosts.agree(late))  # process 0 has the log
        if first >= total and not late:
            digest = trees.digest(state)
            if hosts.first():
                print(
                    f"already finished: {workdir} is at step {first} of {total}, "
                    f"SHA-256 {digest}"
                )
            return state
        report(experiment, state)
        writer = metrics.NoWriter()
        if hosts.first():
            writer = metrics.Writer(workdir, total_steps=total, first_step=first)
        stack.callback(writer.close)
        stream = stack.enter_context(train_stream(experiment, workdir, first, total))
        terminated = stack.enter_context(on_sigterm())
        pending: _Pending | None = None

        def between_batches(what: str) -> None:
            watchdog.alive(what)
            if terminated():
                raise _Interrupted

        predict = evaluate.Predictor(experiment, between_batches)

        def stop(step: int) -> None:
            checkpoints.save(state, meta)
            checkpoints.wait()
            raise Preempted(f"SIGTERM: saved step {step} of {total} in {workdir}")

        def evaluate_now(step: int) -> None:
            try:
                figures = evaluate.run(
                    experiment,
                    state.variables,
                    predict,
                    oracle=config["eval"]["oracle"],
                    workdir=workdir,
                )
            except _Interrupted:
                stop(step)  # a relaunch makes up for the evaluation
            # The line comes last: it says that nothing of this evaluation is missing.
            if checkpoints.save_if_best(state, meta, figures):
                checkpoints.wait()
            writer.evaluation(step, figures)

        def record() -> None:
            """Writes the figures of the step before, if that was not done."""
            nonlocal pending
            done, pending = pending, None
            try:
                if done is not None:
                    done.write(writer, config)
            except NonFiniteError as error:
                # The parameters are the last good ones. A relaunch that comes to the
                # same end must not push out the checkpoints from before.
                try:
                    if sound:
                        checkpoints.save(state, meta)
                        checkpoints.wait()
                except OSError as failed:
                    error.add_note(f"the last good state was not saved: {failed}")
                raise

        def batches() -> Iterator[Step]:
            """Yields the stream; where reading fails, what was learned is kept."""
            try:
                yield from stream
            except Exception as error:
                if hosts.several():  # the others do not know of it
                    raise
                try:
                    record()
                    if sound:
                        checkpoints.save(state, meta)
                        checkpoints.wait()
                except Exception as failed:
                    error.add_note(f"the state was not saved: {failed}")
                raise

        if late:
            evaluate_now(first)
        for item in watchdog.watched(batches(), "a batch came"):
            step = item.step + 1  # batches consumed once this one is done
            batch = place(item, experiment, accumulate)
            with jax.transfer_guard("disallow"):
                state, sums = experiment.train_step(state, batch)
            # Figures are read one step late, so that the device is never waited for.
            record()
            due = step % log_every == 0 or step in (1, total)
            pending = _Pending(step, experiment, sums, stream, due)
            if step == first + PROJECT_FROM:
                started = seconds_at(state)
            if step == first + PROJECT_AFTER:
                seconds = seconds_at(state) - started
                steps = PROJECT_AFTER - PROJECT_FROM
                writer.say(metrics.projection(seconds, steps, total - step))
            checkpoints.check()
            if terminated() and step < total:
                record()
                stop(step)
            if step == total or (save_every and step % save_every == 0):
                record()
                checkpoints.save(state, meta)
            if evaluation_due(step):
                record()
                evaluate_now(step)
        checkpoints.wait()
        digest = trees.digest(state)  # of all processes together
        writer.say(f"finished step {total}, SHA-256 {digest}")
    return state


def train_stream(
    experiment: Experiment, workdir: Path, first: int, total: int
) -> Stream:
    """Opens the stream of training batches from step `first`."""
    data = experiment.config["data"]
    return Stream(
        experiment.train_plan,
        experiment.train_index,
        start=first,
        stop=total,
        on_bad_image=data["on_bad_image"],
        bad_image_budget=data["bad_image_budget"],
        bad_image_list=workdir / bad_images_file(),
        images_before=first * len(experiment.local_groups),
        workers=data["workers"],
        prefetch=data["prefetch"],
        rows=experiment.local_groups,
        targets=experiment.targets,
        blank_images=data["blank_images"],
    )


def place(item: Step, experiment: Experiment, accumulate: int) -> dict[str, Any]:
    """Puts a step's batch onto the mesh and prepares its images there."""
    batch = split_batch(item.batch, accumulate)
    batch = sharding.place(batch, experiment.mesh, sharding.BATCH_SPEC)
    return prepare_images(batch, canvas=item.canvas)


def report(experiment: Experiment, state: TrainState) -> None:
    """Prints what is about to be trained."""
    plan, config = experiment.train_plan, experiment.config
    lines = [
        f"devices    {dict(experiment.mesh.shape)} of {jax.devices()[0].device_kind}",
        f"parameters {count_parameters(state.params):,}, "
        f"{len(experiment.optimizer.trainable)} trainable tensors",
        f"data       {plan.statistics()}",
        f"steps      {experiment.total_steps:,} of {config['groups']} groups, "
        f"{plan.steps_per_epoch:,} an epoch",
        f"truncated  {experiment.train_index.truncated}",
    ]
    hosts.say("\n".join(lines))


def seconds_at(state: TrainState) -> float:
    """Returns the clock's seconds once the state's last step is really done."""
    jax.block_until_ready(state.step)
    return time.monotonic()


@contextlib.contextmanager
def on_sigterm() -> Iterator[Any]:
    """Turns SIGTERM into a flag that is read between steps and between batches.

    Yields a function that says whether the signal came; of several processes, which
    have to ask equally often, all get the same answer, from JAX's service. The former
    handler is put back afterwards. Off the main thread signals stay as they are.
    """
    if hosts.several():
        asked = itertools.count()
        came = [False]

        def agreed() -> bool:
            # The service says so once.
            came[0] |= multihost_utils.reached_preemption_sync_point(next(asked))
            return came[0]

        yield agreed
        return
    came = []
    try:
        former = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    except ValueError:
        yield lambda: False
        return
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, former)


class _Pending:
    """Figures of a finished step that are still on the device."""

    def __init__(
        self, step: int, experiment: Experiment, sums: Any, stream: Stream, due: bool
    ):
        self.step, self.sums, self.due = step, sums, due
        self.waited, self.bad_images = stream.wait_seconds, stream.bad_images
        self.moment = time.monotonic()
        self.experiment = experiment

    def write(self, writer: metrics.Writer, config: Mapping[str, Any]) -> None:
        """Writes the figures if due; stops after too many updates not finite."""
        skipped = metrics.means(jax.device_get({SKIPPED: self.sums[SKIPPED]}))[SKIPPED]
        budget = config["optim"]["non_finite_budget"]
        if self.due or skipped > budget:
            figures = metrics.means(jax.device_get(self.sums))
            first = int(figures.pop(NOT_FINITE))
            # Of the global batch, of which this process may have read a part.
            planned = self.experiment.train_plan.batch(self.step - 1)
            uid = np.ascontiguousarray(planned.uid).tobytes()
            if config["data"]["on_bad_image"] == "skip":
                figures["data/bad_images"] = float(self.bad_images)
            writer.train(
                self.step,
                figures,
                examples=hashlib.sha256(uid).hexdigest()[:16],
                pairs=float((planned.texts >= 0).sum()),
                waited=self.waited,
                moment=self.moment,
            )
        if skipped > budget:
            paths = sorted(self.experiment.optimizer.trainable)
            named = paths[first] if first >= 0 else "none: their norm overflows"
            raise NonFiniteError(
                f"step {self.step}: {int(skipped)} updates in a row were not finite, "
                f"more than optim.non_finite_budget = {budget}; the first gradient "
                f"that is not finite: {named}"
            )
