"""Evaluation: which evaluators a run has, and how they run on its mesh."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pixel_bert_jax.config import Config, Eval, resolve_section
from pixel_bert_jax.data.features import PhotoFeatures
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.data.overlap import check as check_overlaps
from pixel_bert_jax.data.overlap import overlaps
from pixel_bert_jax.data.pipeline import Stream
from pixel_bert_jax.data.plan import EvaluationPlan
from pixel_bert_jax.evaluators import EVALUATORS, Evaluator
from pixel_bert_jax.evaluators.base import Settings, check_complete, marked
from pixel_bert_jax.evaluators.errors import Values
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.processes import hosts
from pixel_bert_jax.tasks import TASKS
from pixel_bert_jax.tasks.functions import PredictFunctions
from pixel_bert_jax.trained import TrainedOn, training_indexes
from pixel_bert_jax.types import InputError, Params, nearest, refuse_to_run

SPLITS = ("evaluate", "predict", "train")
TRAINED_ON = "trained_on/"  # begins the names of metrics of photos that are trained on


def functions(
    experiment: Experiment, alive: Callable[[str], None] | None = None
) -> PredictFunctions:
    """Returns what runs predict functions on an experiment's mesh.

    Args:
      experiment: its mesh, task and partition rules are used.
      alive: see `PredictFunctions`.
    """
    return PredictFunctions(
        experiment.task, experiment.mesh, experiment.config.sharding, alive
    )


@dataclasses.dataclass
class Evaluation:
    """One evaluator of a run, with its split and period.

    Attributes:
      name: key of `config.evals`, "" for the task's default evaluator.
      kind: class of the evaluator.
      split: split whose examples are evaluated.
      options: `config.eval` with the entry's own fields.
      experiment: experiment whose model is evaluated.
      trained_on: whether photos of the split were trained on; see `compare`.
    """

    name: str
    kind: type[Evaluator]
    split: str
    options: Eval
    experiment: Experiment
    trained_on: bool = False

    @property
    def prefix(self) -> str:
        """Prefix of the names of its metrics."""
        name = f"{self.name}/" if self.name else ""
        return TRAINED_ON + name if self.trained_on else name

    @functools.cached_property
    def every(self) -> int:
        """Period in steps; 0: never."""
        return self.experiment.steps(self.options.every)

    def due(self, step: int) -> bool:
        """Returns whether to evaluate after `step` batches."""
        last = step == self.experiment.total_steps
        return bool(self.every and step and (last or step % self.every == 0))

    @property
    def index(self) -> Index:
        """Index of the split."""
        return self.experiment.corpora.index(self.split)

    @functools.cached_property
    def plan(self) -> EvaluationPlan:
        """Plan of the split's examples, each once."""
        return self.experiment.corpora.evaluation_plan(
            self.split,
            partners=self.kind.partners,
            whole_sets=self.kind.whole_sets,
            groups=self.options.groups,
        )

    def check(self) -> None:
        """Finds faults of data and options before anything is compiled."""
        check_complete(self.kind.needs_all, self.index)
        self.evaluator().check(self.index)

    def compare(self, trained: Sequence[TrainedOn]) -> None:
        """Compares the split's photos with those that the model was trained on.

        Photos of the training that it started from are only reported: most published
        models are fine-tuned and evaluated on photos whose captions they have read.

        Raises:
          InputError: some are trained on, and `data.allow_overlap` does not say that
            the split may be; lists the first.
        """
        found = []
        for index, earlier in trained:
            overlap = overlaps(index, self.index)
            if not earlier:
                found += overlap
                continue
            for one in overlap:
                hosts.say(f"warning: before, the model it started from: {one}")
        # Who evaluates the training split means what is trained on.
        allowed = "train", *self.experiment.config.data.allow_overlap
        self.trained_on = check_overlaps(found, self.split, allowed)

    def gives(self, metric: str) -> bool:
        """Returns whether it can give a metric of this name."""
        corpora = "|".join(map(re.escape, self.index.corpora))
        patterns = "|".join(self.kind.patterns(self.index))
        form = f"{re.escape(self.prefix)}({corpora})/({patterns})"
        return re.fullmatch(form, metric) is not None

    def evaluator(self, workdir: Path | None = None) -> Evaluator:
        """Makes the evaluator.

        Args:
          workdir: keeps partial results of a long evaluation; None: keep none.
        """
        experiment, config = self.experiment, self.experiment.config
        # What scores depend on besides the variables.
        identity = (
            self.plan.fingerprint,
            f"blank={config.data.blank_images}",
            f"dtype={config.model.dtype}",
            f"pixels={config.eval.sample_pixels}",
        )
        return self.kind(
            Settings(
                experiment.tokenizer,
                experiment.answers,
                self.options,
                heads=experiment.task.heads,
                plan=" ".join(identity),
                # With several processes, all would have to agree on what is kept.
                folder=None if hosts.several() else workdir,
            )
        )

    def stream(self, features: PhotoFeatures | None = None) -> Stream:
        """Opens the stream of the split's examples.

        If metrics need all of them, a bad image is an error under any policy.

        Args:
          features: features of the photos, which are read instead; None: read photos.
        """
        data = self.experiment.config.data
        return Stream(
            self.plan,
            self.index,
            on_bad_image="error" if self.kind.needs_all else data.on_bad_image,
            bad_image_budget=data.bad_image_budget,
            workers=data.workers,
            prefetch=data.prefetch,
            blank_images=data.blank_images,
            features=features,
        )

    def run(
        self,
        predict: PredictFunctions,
        variables: Params,
        workdir: Path | None = None,
        *,
        examples: dict[str, Values] | None = None,
    ) -> dict[str, float]:
        """Returns the metrics of every example of its split.

        Args:
          predict: kept by the caller, so that functions are compiled once.
          variables: parameters and running statistics.
          workdir: keeps partial results of a long evaluation; None: keep none.
          examples: gains the values of every example, by metric.
        """
        evaluator = self.evaluator(workdir)
        features = self.experiment.features(variables, self.index, predict.alive)
        with self.stream(features) as batches:
            found = dict(evaluator.run(predict, variables, batches, self.index))
            found = marked(found, self.index, batches.missing)
        if examples is not None:
            for name, values in evaluator.examples.items():
                examples[f"{self.prefix}{name}"] = values
        return {f"{self.prefix}{name}": value for name, value in found.items()}


def evaluations(
    experiment: Experiment, *, split: str = "", oracle: bool | None = None
) -> list[Evaluation]:
    """Returns the evaluators of `config.evals`, or the task's default if it is empty.

    Args:
      experiment: experiment whose model is evaluated.
      split: replaces the split of every entry, if given.
      oracle: replaces `config.eval.oracle`, if given: whether to compute the ceilings
        of generated data.

    Raises:
      InputError: an entry names an evaluator, split or field that does not exist.
    """
    config = experiment.config
    entries: Mapping[str, Mapping[str, Any]] = config.evals or {
        "": {"type": TASKS[config.task.name]}
    }
    found = []
    for name, entry in entries.items():
        where = f"evals.{name}"
        entry = dict(entry)
        kind, its_split = entry.pop("type", ""), entry.pop("split", "evaluate")
        for what, value, valid in (
            ("type", kind, EVALUATORS),
            ("split", its_split, SPLITS),
        ):
            if value not in valid:
                raise InputError(
                    f"{where}.{what} is {value!r}{nearest(value, valid)}; valid: "
                    f"{', '.join(valid)}"
                )
        for field in ("seed", "sample_pixels"):
            if field in entry:
                raise InputError(
                    f"{where} has no field {field!r}; set eval.{field}, for all"
                )
        options = resolve_section(Eval, {**config.eval.to_dict(), **entry}, where)
        if oracle is not None:
            options = dataclasses.replace(options, oracle=oracle)
        found.append(
            Evaluation(name, EVALUATORS[kind], split or its_split, options, experiment)
        )
    return found


def compare_with_training(
    found: Sequence[Evaluation], experiment: Experiment, configs: Sequence[Config]
) -> None:
    """Compares what is evaluated with what the model was trained on.

    Args:
      found: the evaluations, whose data have been checked.
      experiment: experiment of this launch.
      configs: configs that the model was trained with, the last one first.

    Raises:
      InputError: see `Evaluation.compare`.
    """
    places = {source.place() for one in found for source in one.index.sources}
    trained = training_indexes(experiment, configs, places)
    old = {
        index.folder
        for index in (*(one.index for one in found), *(one.index for one in trained))
        if not index.knows_flickr
    }
    for folder in sorted(old):
        hosts.say(
            f"warning: {folder} is from before numbers at Flickr were kept, photos are "
            "not compared by them; --rebuild_index makes it anew"
        )
    for one in found:
        one.compare(trained)


def check_metric(metric: str, found: list[Evaluation]) -> None:
    """Refuses a `checkpoint.best_metric` that no evaluation gives.

    Args:
      metric: name of the metric, "" for none.
      found: the evaluators of the run.

    Raises:
      InputError: no evaluator gives it; lists what they give.
    """
    if not metric or any(one.gives(metric) for one in found):
        return
    names = [
        f"{one.prefix}{corpus}/{pattern}"
        for one in found
        for corpus in one.index.corpora
        for pattern in one.kind.patterns(one.index)
    ]
    plain = [re.sub(r"\([^()]*\)\?", "", name) for name in names]
    raise InputError(
        f"checkpoint.best_metric is {metric!r}{nearest(metric, plain)}; evaluations "
        f"give {', '.join(names)}"
    )


if __name__ == "__main__":
    refuse_to_run("evaluate")
