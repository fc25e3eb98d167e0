"""A training run apart from its steps: logs, checkpoints, evaluations, signals."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pixel_bert_jax import evaluate, metrics, resuming, trained, trees
from pixel_bert_jax.checkpoints import checkpointing
from pixel_bert_jax.checkpoints.store import check_writable
from pixel_bert_jax.data.features import PhotoFeatures
from pixel_bert_jax.data.pipeline import Step, Stream
from pixel_bert_jax.experiment import Experiment, count_parameters
from pixel_bert_jax.processes import hosts
from pixel_bert_jax.processes.lock import locked
from pixel_bert_jax.processes.sigterm import on_sigterm
from pixel_bert_jax.processes.watchdog import Watchdog
from pixel_bert_jax.training import sharding
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.training.train_step import NOT_FINITE, SKIPPED
from pixel_bert_jax.types import InputError, NonFiniteError, Sums, nearest

# Step at which the remaining time is projected, and step from which it is measured,
# since the first steps compile.
PROJECT_AFTER, PROJECT_FROM = 50, 25


class Preempted(Exception):
    """SIGTERM came; the state was saved."""


class _Interrupted(Exception):
    """SIGTERM came in the middle of an evaluation."""


class Run:
    """A run in its workdir, a context manager that resumes where the last launch ended.

    Attributes:
      experiment: the parts that the config decides.
      state: the train state, which the training loop replaces.
      first: step that this launch starts from.
      total: step that the run ends at.
    """

    def __init__(self, experiment: Experiment, workdir: Path, command: str):
        """Finds all faults that can be found before anything is compiled.

        Args:
          experiment: the parts that the config decides.
          workdir: folder for checkpoints, metrics and the config.
          command: command line of this run, kept with the model as its origin.

        Raises:
          InputError: bad input.
          HostError: processes have different data.
        """
        config = experiment.config
        self.experiment, self._workdir = experiment, workdir
        self.total = experiment.total_steps
        self._save_every = experiment.steps(config.checkpoint.every)
        sharding.check_spread(
            experiment.variable_shapes["params"],
            experiment.mesh.shape,
            config.sharding,
            config.sharding_tolerance,
        )
        self._meta = experiment.meta | {"command": command}
        experiment.check_features()
        hosts.compare({name: self._meta[name] for name in ("plan", "index")})
        found = evaluate.evaluations(experiment)
        self._evaluations = [one for one in found if one.every]
        if self._evaluations:  # report faults of held-out data before training
            for one in self._evaluations:
                one.check()
            configs = config, *trained.ancestors(config)
            evaluate.compare_with_training(self._evaluations, experiment, configs)
            evaluate.check_metric(config.checkpoint.best_metric, self._evaluations)
        check_writable(workdir)
        self._pending: _Pending | None = None
        self._started = 0.0

    def __enter__(self) -> Run:
        """Locks the workdir, restores or creates the state and opens all files."""
        with contextlib.ExitStack() as stack:
            self._enter(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        """Closes everything."""
        self._stack.__exit__(*raised)

    def _enter(self, stack: contextlib.ExitStack) -> None:
        config, workdir = self.experiment.config, self._workdir
        if hosts.first():
            stack.enter_context(locked(workdir))
        self._watchdog = stack.enter_context(
            Watchdog(config.watchdog.warn, config.watchdog.limit, leave=hosts.leave)
        )
        self._checkpoints = checkpointing.Checkpoints(
            workdir, **checkpointing.options(config.checkpoint)
        )
        stack.callback(self._checkpoints.close)
        _ = self._checkpoints.newest_step(checkpointing.BEST)  # report damage at once
        self.state, self.first = resuming.restore_or_create(
            self.experiment, self._checkpoints, workdir
        )
        self._sound = int(self.state.skipped) == 0
        # A run that was killed between saving and evaluating evaluates first.
        done = metrics.evaluations(workdir).get(self.first)
        late = self._due(self.first) and done is None
        self._late = bool(hosts.agree(late))  # process 0 has the log
        self._writer = metrics.NoWriter()
        if self.finished:
            return
        if hosts.first():
            self._writer = metrics.Writer(
                workdir, total_steps=self.total, first_step=self.first
            )
        stack.callback(self._writer.close)
        self._terminated = stack.enter_context(on_sigterm())
        features = self._features()
        self._stream = stack.enter_context(
            open_stream(self.experiment, workdir, self.first, self.total, features)
        )
        self._predict = evaluate.functions(self.experiment, self._between_batches)

    def _features(self) -> PhotoFeatures | None:
        """Returns the features of the training photos, and computes all others'."""
        # Several processes compute different numbers of batches, between which they
        # cannot agree on a signal.
        alive = self._watchdog.alive if hosts.several() else self._between_batches
        variables = self.state.variables
        try:
            for one in self._evaluations:
                self.experiment.features(variables, one.index, alive)
            return self.experiment.features(
                variables, self.experiment.train_index, alive
            )
        except _Interrupted:
            raise Preempted("SIGTERM: the features computed so far are kept") from None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.first >= self.total and not self._late

    def batches(self) -> Iterator[Step]:
        """Yields the remaining batches, after an evaluation that is overdue."""
        if self._late:
            self._evaluate(self.first)
        yield from self._watchdog.watched(self._read(), "a batch came")

    def _read(self) -> Iterator[Step]:
        """Yields the stream; if reading fails, saves the state before raising."""
        try:
            yield from self._stream
        except Exception as error:
            if hosts.several():  # a save needs all processes, and the others train on
                raise
            try:
                self._record()
                if self._sound:
                    self._checkpoints.save(self.state, self._meta)
                    self._checkpoints.wait()
            except Exception as failed:
                error.add_note(f"the state was not saved: {failed}")
            raise

    def after_step(self, step: int, sums: Sums) -> None:
        """Does what is due after a step: metrics, checkpoints, evaluations.

        Metrics are read one step late, so that the host does not wait for the device.

        Args:
          step: number of batches consumed.
          sums: metrics of the last one, on the device.

        Raises:
          Preempted: SIGTERM came; the state was saved.
          NonFiniteError: too many updates in a row were not finite.
        """
        # Of the step before: the device is busy with this one already.
        self._record()
        due = step % self.experiment.config.log.every == 0 or step in (1, self.total)
        stream = self._stream
        self._pending = _Pending(
            step, sums, due, stream.wait_seconds, stream.bad_images, time.monotonic()
        )
        self._project(step)
        self._checkpoints.check()
        # Before the state is used for anything lasting, its own metrics are read: they
        # tell whether its updates were finite.
        if self._terminated() and step < self.total:
            self._record()
            self._stop(step)
        if step == self.total or (self._save_every and step % self._save_every == 0):
            self._record()
            self._checkpoints.save(self.state, self._meta)
        if self._due(step):
            self._record()
            self._evaluate(step)

    def finish(self) -> None:
        """Waits for the last checkpoint and reports the end."""
        if not self.finished:
            self._checkpoints.wait()
        digest = trees.digest(self.state)  # a collective: every process calls it
        if self.finished:
            hosts.say(
                f"already finished: {self._workdir} is at step {self.first} of "
                f"{self.total}, SHA-256 {digest}"
            )
        else:
            self._writer.say(f"finished step {self.total}, SHA-256 {digest}")

    def report(self) -> None:
        """Prints a summary of what is about to be trained."""
        experiment, plan = self.experiment, self.experiment.train_plan
        lines = [
            f"devices    {dict(experiment.mesh.shape)} of "
            f"{jax.devices()[0].device_kind}",
            f"parameters {count_parameters(self.state.params):,}, "
            f"{len(experiment.optimizer.trainable)} trainable tensors",
            f"data       {plan.statistics()}",
            f"steps      {self.total:,} of {experiment.config.groups} groups, "
            f"{plan.steps_per_epoch:,} per epoch",
            f"truncated  {experiment.train_index.truncated}",
        ]
        for corpus, (images, texts) in experiment.train_index.excluded.items():
            lines.append(f"excluded   {images:,} images, {texts:,} texts of {corpus}")
        hosts.say("\n".join(lines))

    def _due(self, step: int) -> bool:
        return any(one.due(step) for one in self._evaluations)

    def _between_batches(self, what: str) -> None:
        self._watchdog.alive(what)
        if self._terminated():
            raise _Interrupted

    def _stop(self, step: int) -> None:
        self._checkpoints.save(self.state, self._meta)
        self._checkpoints.wait()
        raise Preempted(
            f"SIGTERM: saved step {step} of {self.total} in {self._workdir}"
        )

    def _evaluate(self, step: int) -> None:
        """Runs the evaluations that are due and keeps the state if it is the best."""
        found: dict[str, float] = {}
        try:
            for one in self._evaluations:
                if one.due(step):
                    variables = self.state.variables
                    found |= one.run(self._predict, variables, self._workdir)
        except _Interrupted:
            self._stop(step)  # a relaunch evaluates first
        metric = self.experiment.config.checkpoint.best_metric
        if not {metric, f"{metric}@missing"} & found.keys() and any(
            one.due(step) and one.gives(metric) for one in self._evaluations
        ):
            raise InputError(
                f"checkpoint.best_metric is {metric!r}{nearest(metric, found)}; this "
                f"evaluation gave {', '.join(found)}"
            )
        # The log line comes last: it marks the evaluation as complete.
        if self._checkpoints.save_if_best(self.state, self._meta, found):
            self._checkpoints.wait()
        self._writer.evaluation(step, found)

    def _project(self, step: int) -> None:
        """Prints how long the remaining steps take, once enough are measured."""
        if step == self.first + PROJECT_FROM:
            self._started = seconds_at(self.state)
        if step == self.first + PROJECT_AFTER:
            seconds = seconds_at(self.state) - self._started
            steps = PROJECT_AFTER - PROJECT_FROM
            self._writer.say(metrics.projection(seconds, steps, self.total - step))

    def _record(self) -> None:
        """Writes the pending metrics, if there are any.

        Raises:
          NonFiniteError: too many consecutive updates were not finite.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        experiment, config = self.experiment, self.experiment.config
        budget = config.optim.non_finite_budget
        skipped = float(jax.device_get(pending.sums[SKIPPED][0]))
        if pending.due or skipped > budget:
            values = metrics.means(jax.device_get(pending.sums))
            first = int(values.pop(NOT_FINITE))
            # From the plan: this process may have read only part of the global batch.
            planned = experiment.train_plan.batch(pending.step - 1)
            example_id = np.ascontiguousarray(planned.example_id).tobytes()
            if config.data.on_bad_image == "skip":
                values["data/bad_images"] = float(pending.bad_images)
            self._writer.train(
                pending.step,
                values,
                examples=hashlib.sha256(example_id).hexdigest()[:16],
                pairs=float((planned.texts >= 0).sum()),
                waited=pending.waited,
                moment=pending.moment,
            )
        if skipped <= budget:
            return
        paths = sorted(experiment.optimizer.trainable)
        named = paths[first] if first >= 0 else "none: their norm overflows"
        error = NonFiniteError(
            f"step {pending.step}: {int(skipped)} updates in a row were not finite, "
            f"more than optim.non_finite_budget = {budget}; the first gradient that is "
            f"not finite: {named}"
        )
        # The parameters are the last finite ones. If this launch itself started from
        # such a state, saving again would only push out the checkpoints from before.
        try:
            if self._sound:
                self._checkpoints.save(self.state, self._meta)
                self._checkpoints.wait()
        except OSError as failed:
            error.add_note(f"the last good state was not saved: {failed}")
        raise error


class _Pending:
    """Metrics of a finished step that are still on the device."""

    def __init__(
        self,
        step: int,
        sums: Sums,
        due: bool,
        waited: float,
        bad_images: int,
        moment: float,
    ):
        self.step, self.sums, self.due = step, sums, due
        self.waited, self.bad_images, self.moment = waited, bad_images, moment


def open_stream(
    experiment: Experiment,
    workdir: Path,
    first: int,
    total: int,
    features: PhotoFeatures | None = None,
) -> Stream:
    """Opens the stream of the training batches from step `first` to `total`."""
    data = experiment.config.data
    return Stream(
        experiment.train_plan,
        experiment.train_index,
        start=first,
        stop=total,
        on_bad_image=data.on_bad_image,
        bad_image_budget=data.bad_image_budget,
        bad_image_list=workdir / resuming.bad_images_file(),
        images_before=first * len(experiment.local_groups),
        workers=data.workers,
        prefetch=data.prefetch,
        rows=experiment.local_groups,
        targets=experiment.task.targets,
        blank_images=data.blank_images,
        augmentation=experiment.augmentation,
        features=features,
    )


def seconds_at(state: TrainState) -> float:
    """Returns the clock's seconds once the state's last step has finished."""
    jax.block_until_ready(state.step)
    return time.monotonic()
