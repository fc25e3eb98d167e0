"""From a config to the objects of a run: data, plans, mesh, task, optimizer.

Training, evaluation and the dry run build the same things in the same order; each is
built when it is first asked for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pixel_bert_jax import checks, objectives, trees
from pixel_bert_jax.checkpoints.checkpointing import FORMAT
from pixel_bert_jax.data import geometry
from pixel_bert_jax.data.index import Index, build_or_open
from pixel_bert_jax.data.plan import EvaluationPlan, TrainPlan
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.data.targets import AnswerTargets, Targets, TruthTargets
from pixel_bert_jax.data.text import WordPiece, load_tokenizer
from pixel_bert_jax.data.vqa_answers import (
    AnswerVocabulary,
    count_vocabulary,
    load_answers,
)
from pixel_bert_jax.evaluators import EVALUATORS
from pixel_bert_jax.evaluators.base import check_complete
from pixel_bert_jax.objectives.base import TextSpec
from pixel_bert_jax.ops.masking import Vocabulary
from pixel_bert_jax.tasks import TASKS
from pixel_bert_jax.tasks.base import Task
from pixel_bert_jax.training import durations, optim, sharding, train_state, train_step
from pixel_bert_jax.training.optim import Optimizer
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.types import InputError, Params, nearest

DATA_VARIABLE = "PIXEL_BERT_DATA"


class Experiment:
    """Everything that a config decides, built on demand.

    Attributes:
      config: plain nested dict.
      mesh: all devices, in the config's shape.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        rebuild_index: bool = False,
        tokenizer: WordPiece | None = None,
        answers: AnswerVocabulary | None = None,
        held_out: str = "evaluate",
        devices: Sequence[jax.Device] | None = None,
    ):
        """Checks what can be checked at once.

        Args:
          config: of `configs/`, as a plain dict.
          rebuild_index: build the indexes again.
          tokenizer: instead of the config's (that of a checkpoint).
          answers: the same of the answer vocabulary.
          held_out: the split that is evaluated; "predict" is one without answers.
          devices: instead of all.

        Raises:
          InputError: a name in the config does not exist, or a value cannot be used.
        """
        checks.check_values(config)
        self.config = config
        self._rebuild = rebuild_index
        name = config["task"]["name"]
        if name not in TASKS:
            raise InputError(
                f"task.name is {name!r}{nearest(name, TASKS)}; valid: "
                f"{', '.join(TASKS)}"
            )
        self.mesh: Mesh = sharding.make_mesh(config["mesh"], devices)
        self._tokenizer, self._answers = tokenizer, answers
        self._held_out = held_out

    @functools.cached_property
    def tokenizer(self) -> WordPiece:
        """The checkpoint's tokenizer, or else that of `data.tokenizer`."""
        return self._tokenizer or load_tokenizer(self.config["data"]["tokenizer"])

    @functools.cached_property
    def answers(self) -> AnswerVocabulary | None:
        """The checkpoint's answers, or else those of `data.answers`.

        None if nothing is asked. Without a list they are counted in the training split.
        """
        if "answers" not in self.config["objectives"]:
            return None
        if self._answers is not None:
            return self._answers
        if name := self.config["data"]["answers"]:
            return load_answers(name, self.root)
        index = self.train_index
        return count_vocabulary(
            index.annotation(c, row)["multiple_choice_answer"]
            for c, source in enumerate(index.sources)
            if source.names_answers
            for row in range(index.num_texts(c))
        )

    @functools.cached_property
    def targets(self) -> Targets | None:
        """Makes arrays of what is to be learned, of annotated texts."""
        if self.answers is not None:
            return AnswerTargets(self.answers)
        return TruthTargets() if "truth" in self.config["objectives"] else None

    @functools.cached_property
    def root(self) -> Path | None:
        """Folder of the data: `data.root`, else the environment variable."""
        return data_root(self.config)

    @functools.cached_property
    def train_index(self) -> Index:
        """Index of the training split."""
        return self._index("train")

    @functools.cached_property
    def evaluation_index(self) -> Index:
        """Index of the held-out split."""
        return self._index(self._held_out)

    def corpora(self, split: str) -> list[Mapping[str, Any]]:
        """Returns a split's corpora; one with `evaluated=False` is trained on only.

        Raises:
          InputError: none is left to evaluate on.
        """
        corpora = self.config["data"]["corpora"]
        if split == "train":
            return list(corpora)
        evaluated = [c for c in corpora if c.get("evaluated", True)]
        if corpora and not evaluated:
            raise InputError(
                "data.corpora: every corpus has evaluated=False, nothing is left to "
                "evaluate on"
            )
        return evaluated

    def _index(self, split: str) -> Index:
        data = self.config["data"]
        if not data["corpora"]:
            raise InputError("data.corpora is empty: at least one corpus is needed")
        self._check_needs(split)
        sources, corpora = [], []
        for corpus in self.corpora(split):
            kind = corpus.get("source", "")
            if kind not in SOURCES:
                raise InputError(
                    f"data.corpora: source {kind!r}{nearest(kind, SOURCES)}; valid: "
                    f"{', '.join(SOURCES)}"
                )
            corpora.append({**data.get(kind, {}), **corpus})
            sources.append(SOURCES[kind](corpora[-1], split, self.root))
        identity = json.dumps(
            [
                corpora,
                split,
                str(self.root),
                [str(f) for s in sources for f in s.files()],
                self.tokenizer.fingerprint,
                data["max_text_length"],
            ],
            sort_keys=True,
        )
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        folder = Path(data["index_dir"]).expanduser() / f"{split}-{name}"
        return build_or_open(
            sources,
            self.tokenizer,
            data["max_text_length"],
            folder,
            rebuild=self._rebuild,
            on_bad_image=data["on_bad_image"],
            bad_image_budget=data["bad_image_budget"],
        )

    def _check_needs(self, split: str) -> None:
        """Names everything that is not there, not only what is read first.

        Raises:
          InputError: a file or folder of a corpus' `needs` is missing.
        """
        needs = [need for c in self.corpora(split) for need in c.get("needs", ())]
        root = self.root
        found = [bool(root) and (root / path).exists() for path, _ in needs]
        if all(found):
            return
        width = max(len(path) for path, _ in needs)
        lines = [
            f"The preset {self.config['preset']!r} needs data below the folder given "
            f"by --config.data.root or by the environment variable {DATA_VARIABLE} "
            f"({root or 'unset'}):"
        ]
        for (path, origin), there in zip(needs, found, strict=True):
            state = "found  " if there else "missing"
            lines.append(f"  {state}  {path:<{width}}  {origin}")
        tiny = "python -m pixel_bert_jax.main --config=configs/pretrain.py:tiny"
        lines += ["What runs now, without any data:", f"  {tiny}"]
        raise InputError("\n".join(lines))

    def _plan_fields(self, split: str, index: Index) -> dict[str, Any]:
        data = self.config["data"]
        weights = [float(c.get("weight", 1.0)) for c in self.corpora(split)]
        return dict(
            corpora=[index.plan_corpus(c, w) for c, w in enumerate(weights)],
            sizes=index.sizes,
            short=data["short_side"],
            long=data["long_side"],
            canvases=[geometry.parse_canvas(c) for c in data["canvases"]],
            source_canvases=list(data["source_canvases"]),
        )

    @functools.cached_property
    def train_plan(self) -> TrainPlan:
        """Which examples form which training batch."""
        groups, accumulate = self.config["groups"], self.config["optim"]["accumulate"]
        sharding.check_groups(groups, accumulate, self.mesh)
        return TrainPlan(
            **self._plan_fields("train", self.train_index),
            texts_per_group=self.config["texts_per_group"],
            negatives=objectives.negatives(self.config["objectives"]),
            seed=self.config["seed"],
            groups=groups,
        )

    @functools.cached_property
    def evaluation_plan(self) -> EvaluationPlan:
        """The held-out examples, each once."""
        evaluation = self.config["eval"]
        evaluator = EVALUATORS[self.config["task"]["name"]]
        check_complete(evaluator.needs_all, self.evaluation_index)
        fields = self._plan_fields(self._held_out, self.evaluation_index)
        texts = self.config["texts_per_group"]
        if evaluator.whole_units:
            texts = max(int(np.bincount(c.text_unit).max()) for c in fields["corpora"])
        return EvaluationPlan(
            **fields,
            texts_per_group=texts,
            partners=evaluator.partners,
            seed=evaluation["seed"],
            groups=evaluation["groups"],
        )

    @property
    def local_groups(self) -> np.ndarray:
        """Numbers of the groups of a global batch that this process reads."""
        accumulate = self.config["optim"]["accumulate"]
        return sharding.local_groups(self.config["groups"], accumulate, self.mesh)

    @functools.cached_property
    def total_steps(self) -> int:
        """Length of the run in steps."""
        epoch = self.train_plan.steps_per_epoch
        return durations.steps(self.config["total"], steps_per_epoch=epoch)

    def steps(self, duration: str | int) -> int:
        """Returns a duration of the config in steps; percentages are of the run."""
        epoch = self.train_plan.steps_per_epoch
        return durations.steps(duration, steps_per_epoch=epoch, total=self.total_steps)

    @functools.cached_property
    def task(self) -> Task:
        """The task, without parameters."""
        tokenizer = self.tokenizer
        vocabulary = Vocabulary(
            special_ids=tuple(int(i) for i in tokenizer.special_ids),
            mask_id=tokenizer.mask_id,
            replacement_ids=tokenizer.replacement_ids,
            is_continuation=tokenizer.is_continuation,
        )
        length = self.config["data"]["max_text_length"]
        answers = len(self.answers) if self.answers is not None else 0
        text = TextSpec(tokenizer.vocab_size, length, vocabulary, answers)
        return TASKS[self.config["task"]["name"]](self.config, text)

    @functools.cached_property
    def optimizer(self) -> Optimizer:
        """The optimizer over the task's parameters."""
        return optim.build(
            self.config["optim"],
            self.variable_shapes["params"],
            frozen=self.task.frozen,
            steps_per_epoch=self.train_plan.steps_per_epoch,
            total=self.total_steps,
        )

    @functools.cached_property
    def variable_shapes(self) -> Params:
        """Shapes of the task's variables: {"params", "batch_stats"}."""
        return jax.eval_shape(self.task.init, jax.random.key(0))

    @functools.cached_property
    def target(self) -> TrainState:
        """Shapes and shardings of the train state."""
        return self._target(self.optimizer)

    def stored_target(self, config: Mapping[str, Any]) -> TrainState:
        """Returns the target for a state that was trained with `config`.

        Lengths of the run decide schedules alone, no shape, so the training data that
        they are counted from is not needed.
        """
        return self._target(
            optim.build(
                config["optim"],
                self.variable_shapes["params"],
                frozen=self.task.frozen,
                steps_per_epoch=1,
                total=1,
            )
        )

    def _target(self, optimizer: Optimizer) -> TrainState:
        return train_state.abstract(
            self.task,
            optimizer,
            self.config["seed"],
            self.mesh,
            self.config["sharding"],
        )

    def create_state(self, arrays: Mapping[str, Any] | None = None) -> TrainState:
        """Makes the state before the first step.

        Args:
          arrays: {"params/..." or "batch_stats/..." path: array} that replace those of
            a model from scratch.
        """
        state = train_state.create(
            self.task, self.optimizer, self.config["seed"], self.target
        )
        variables = trees.flatten(state.variables)
        for path, array in (arrays or {}).items():
            variables[path] = jax.device_put(array, variables[path].sharding)
        nested = trees.unflatten(variables)
        return state.replace(
            params=nested["params"], batch_stats=nested.get("batch_stats", {})
        )

    @functools.cached_property
    def train_step(self) -> Any:
        """The jitted training step; its first argument is donated."""
        step = train_step.build(self.task, self.optimizer, self.mesh, self.config)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.target)
        return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint stores beside the state."""
        return {
            "format": FORMAT,
            "config": self.config,
            "plan": self.train_plan.fingerprint,
            "index": self.train_index.fingerprint,
            "tokenizer": {
                "fingerprint": self.tokenizer.fingerprint,
                "lower_case": self.tokenizer.lower_case,
                "vocabulary": list(self.tokenizer.vocabulary),
            },
            "answers": None if self.answers is None else list(self.answers.answers),
        }


def data_root(config: Mapping[str, Any]) -> Path | None:
    """Returns `data.root`, else what the environment variable says, else None."""
    given = config["data"]["root"] or os.environ.get(DATA_VARIABLE, "")
    return Path(given).expanduser().resolve() if given else None


def split_batch(batch: dict[str, Any], accumulate: int) -> dict[str, Any]:
    """Reshapes host arrays [G, ...] to [A, G / A, ...]: A micro-batches."""
    return {name: x.reshape(accumulate, -1, *x.shape[1:]) for name, x in batch.items()}


def count_parameters(params: Any) -> int:
    """Returns the number of parameters of a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
