"""From a config to all parts of a run, each built on demand."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pixel_bert_jax import models, objectives, trees
from pixel_bert_jax.checkpoints.checkpointing import FORMAT
from pixel_bert_jax.config import Config, resolve
from pixel_bert_jax.data.augment import Augmentation
from pixel_bert_jax.data.corpora import Corpora, data_root
from pixel_bert_jax.data.features import PhotoFeatures
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.data.plan import TrainPlan
from pixel_bert_jax.data.text import WordPiece, load_tokenizer
from pixel_bert_jax.data.vqa_answers import (
    AnswerVocabulary,
    count_vocabulary,
    load_answers,
)
from pixel_bert_jax.objectives.base import TextSpec
from pixel_bert_jax.tasks import TASKS, Task, features
from pixel_bert_jax.training import durations, optim, sharding, train_state, train_step
from pixel_bert_jax.training.optim import Optimizer
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.types import InputError, Params, nearest


class Experiment:
    """All parts of a run that a config decides, built on demand.

    Attributes:
      config: the resolved config.
    """

    def __init__(
        self,
        config: Config | Mapping[str, Any],
        *,
        rebuild_index: bool = False,
        tokenizer: WordPiece | None = None,
        answers: AnswerVocabulary | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Checks what can be checked at once.

        Args:
          config: a config, resolved or as in `configs/`.
          rebuild_index: build the indexes again.
          tokenizer: replaces the config's, such as by that of a checkpoint.
          answers: likewise the answer vocabulary.
          devices: devices of the mesh; None: all.

        Raises:
          InputError: a name in the config does not exist, or a value cannot be used.
        """
        self.config = resolve(config)
        name = self.config.task.name
        if name not in TASKS:
            raise InputError(
                f"task.name is {name!r}{nearest(name, TASKS)}; valid: "
                f"{', '.join(TASKS)}"
            )
        self._rebuild, self._devices = rebuild_index, devices
        self._tokenizer, self._answers = tokenizer, answers

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The mesh of all devices, with the config's sizes."""
        return sharding.make_mesh(vars(self.config.mesh), self._devices)

    @functools.cached_property
    def tokenizer(self) -> WordPiece:
        """The tokenizer that was given, or else that of `data.tokenizer`."""
        return self._tokenizer or load_tokenizer(self.config.data.tokenizer)

    @functools.cached_property
    def corpora(self) -> Corpora:
        """The corpora, with their indexes and plans."""
        return Corpora(self.config, lambda: self.tokenizer, rebuild=self._rebuild)

    @property
    def train_index(self) -> Index:
        """Index of the training split."""
        return self.corpora.index("train")

    @functools.cached_property
    def answers(self) -> AnswerVocabulary | None:
        """The answers that were given, or else those of `data.answers`.

        None if the texts are no questions. If `data.answers` is empty, answers are
        counted in the training split.
        """
        if not any(o.asks for o in objectives.build(self.config.objectives)):
            return None
        if self._answers is not None:
            return self._answers
        if name := self.config.data.answers:
            return load_answers(name, data_root(self.config))
        index = self.train_index
        found = (
            index.annotation(c, row)["multiple_choice_answer"]
            for c, source in enumerate(index.sources)
            if source.names_answers
            for row in range(index.num_texts(c))
        )
        return count_vocabulary(found, self.config.data.answer_minimum)

    @functools.cached_property
    def text(self) -> TextSpec:
        """What the task needs to know of its texts."""
        length = self.config.data.max_text_length
        return TextSpec.of(self.tokenizer, length, self.answers)

    @functools.cached_property
    def task(self) -> Task:
        """The task, without parameters."""
        return Task(self.config, self.text, self.answers)

    @functools.cached_property
    def train_plan(self) -> TrainPlan:
        """The plan: which examples form which training batch."""
        groups, accumulate = self.config.groups, self.config.optim.accumulate
        sharding.check_groups(groups, accumulate, sharding.data_shards(self.mesh))
        _ = self.train_index  # missing data are reported before a tokenizer is sought
        task, _ = self.task, self.augmentation
        return self.corpora.train_plan(negatives=task.negatives, images=task.images)

    @functools.cached_property
    def augmentation(self) -> Augmentation:
        """What is drawn for each training image."""
        data = self.config.data
        return Augmentation.of(
            self.config.seed, data.random_short_side, data.short_side, data.mirror
        )

    @property
    def local_groups(self) -> np.ndarray:
        """Numbers of the groups of a global batch that this process reads."""
        accumulate = self.config.optim.accumulate
        return sharding.local_groups(self.config.groups, accumulate, self.mesh)

    @functools.cached_property
    def total_steps(self) -> int:
        """Length of the run in steps."""
        epoch = self.train_plan.steps_per_epoch
        return durations.steps(self.config.total, steps_per_epoch=epoch)

    def steps(self, duration: str | int) -> int:
        """Returns a duration in steps; percentages are of the whole run."""
        epoch = self.train_plan.steps_per_epoch
        return durations.steps(duration, steps_per_epoch=epoch, total=self.total_steps)

    @functools.cached_property
    def variable_shapes(self) -> Params:
        """Shapes of the task's variables: {"params", "batch_stats"}."""
        return jax.eval_shape(self.task.init, jax.random.key(0))

    @functools.cached_property
    def optimizer(self) -> Optimizer:
        """The optimizer over the task's parameters."""
        return self._optimizer(
            self.config, self.train_plan.steps_per_epoch, self.total_steps
        )

    @functools.cached_property
    def target(self) -> TrainState:
        """Shapes and shardings of the train state."""
        return self._target(self.optimizer)

    def stored_target(self, config: Config) -> TrainState:
        """Returns the target for a state that was trained with `config`.

        The length of the run decides schedules but no shapes, so the training data, by
        which it is counted, is not needed.
        """
        return self._target(self._optimizer(config, 1, 1))

    def _optimizer(self, config: Config, epoch: int, total: int) -> Optimizer:
        return optim.build(
            config.optim,
            self.variable_shapes["params"],
            frozen=models.frozen_patterns(config.model),
            steps_per_epoch=epoch,
            total=total,
        )

    def _target(self, optimizer: Optimizer) -> TrainState:
        config = self.config
        return train_state.abstract(
            self.task, optimizer, config.seed, self.mesh, config.sharding
        )

    @functools.cached_property
    def cnn(self) -> features.FrozenCnn:
        """The model's CNN alone."""
        return features.FrozenCnn(self.task.model)

    def check_features(self) -> None:
        """Refuses `data.cache_features` where training changes what a CNN computes."""
        if self.config.data.cache_features:
            trainable = self.optimizer.trainable
            features.check(self.config, self.cnn, list(trainable))

    def features(
        self,
        variables: Params,
        index: Index,
        alive: Callable[[str], None] = lambda what: None,
    ) -> PhotoFeatures | None:
        """Returns the features of an index's photos, None without `cache_features`.

        Features that are missing are computed, by all processes together.

        Args:
          variables: parameters and running statistics.
          index: where the photos are.
          alive: called between batches; an exception that it raises ends the work.

        Raises:
          InputError: features are damaged, or the folder cannot be written.
          ImageError: a photo is missing or broken, and the policy is "error".
        """
        if not self.config.data.cache_features or self.config.data.blank_images:
            return None
        return features.compute(
            self.config,
            self.cnn,
            variables,
            index,
            process=(jax.process_index(), jax.process_count()),
            wait=lambda: multihost_utils.sync_global_devices("features"),
            alive=alive,
        )

    def create_state(self, arrays: Mapping[str, Any] | None = None) -> TrainState:
        """Makes the state before the first step.

        Args:
          arrays: path ("params/..." or "batch_stats/...") -> array that replaces the
            one from scratch.
        """
        state = train_state.create(
            self.task, self.optimizer, self.config.seed, self.target
        )
        variables = trees.flatten(state.variables)
        for path, array in (arrays or {}).items():
            variables[path] = jax.device_put(array, variables[path].sharding)
        nested = trees.unflatten(variables)
        params = nested["params"]
        state = state.replace(params=params, batch_stats=nested.get("batch_stats", {}))
        if arrays and state.carried:  # momentum weights start from the loaded ones
            shardings = jax.tree.map(lambda x: x.sharding, self.target.carried)
            carry = jax.jit(self.task.carried, out_shardings=shardings)
            state = state.replace(carried=carry(params))
        return state

    def jitted_step(self) -> Any:
        """Returns the jitted training step; its first argument is donated."""
        step = train_step.build(self.task, self.optimizer, self.mesh, self.config)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.target)
        return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))

    @functools.cached_property
    def train_step(self) -> Any:
        """The jitted training step, built once."""
        return self.jitted_step()

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint stores besides the state."""
        return {
            "format": FORMAT,
            "config": self.config.to_dict(),
            "plan": self.train_plan.fingerprint,
            "index": self.train_index.fingerprint,
            "tokenizer": {
                "fingerprint": self.tokenizer.fingerprint,
                "lower_case": self.tokenizer.lower_case,
                "vocabulary": list(self.tokenizer.vocabulary),
            },
            "answers": None if self.answers is None else list(self.answers.answers),
        }


def count_parameters(params: Any) -> int:
    """Returns the number of parameters of a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
