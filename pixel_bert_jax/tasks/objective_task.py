"""What all tasks share: the model, objectives that read views, one forward pass.

Each image passes the CNN once a step; its K texts share the result. The fusion
transformer runs once for each distinct view.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax import objectives
from pixel_bert_jax.models.bert import attend_to_similar
from pixel_bert_jax.models.front_ends import sample_pixels
from pixel_bert_jax.models.pixel_bert import Encoded, PixelBert
from pixel_bert_jax.models.resnet import frozen_patterns
from pixel_bert_jax.objectives.base import Heads, TextSpec
from pixel_bert_jax.objectives.views import VIEWS, View, ViewSettings
from pixel_bert_jax.ops import keys as example_keys
from pixel_bert_jax.ops.masking import max_masked
from pixel_bert_jax.tasks.base import Losses
from pixel_bert_jax.types import Batch, Params, Sums


class ObjectiveTask:
    """A task that consists of objectives; see `tasks/base.py` for the methods.

    A subclass says what it predicts, and is all that differs between tasks.

    Attributes:
      predictions: names of the methods that predict, see `Task.predict`.
      model: the module.
      heads: objective name -> module.
    """

    predictions: tuple[str, ...] = ()

    def __init__(self, config: Mapping[str, Any], text: TextSpec) -> None:
        """Builds model, objectives and views from the whole run's config."""
        masking = config["masking"]
        length = text.max_text_length
        probability = masking["probability"]
        most = probability
        if masking["warmup_steps"]:
            most = max(probability, masking["warmup_probability"])
        self.text = text
        self.features = config["model"]["features"]
        self.model = PixelBert(config["model"], text.vocab_size)
        self.objectives = objectives.build(config["objectives"])
        self.heads = {o.name: o.head(config["model"], text) for o in self.objectives}
        self.frozen = frozen_patterns(config["model"]["backbone"]["frozen_stages"])
        self.weights = {o.name: float(o.weight) for o in self.objectives}
        self.settings = ViewSettings(
            vocabulary=text.vocabulary,
            mask_probability=probability,
            mask_slots=masking["slots"] or max_masked(length, most),
            whole_words=masking["whole_words"],
            warmup_probability=masking["warmup_probability"],
            warmup_steps=masking["warmup_steps"],
            negatives=objectives.negatives(config["objectives"]),
        )
        self.predict = {name: getattr(self, name) for name in self.predictions}

    def init(self, key: Array) -> Params:
        """Returns the variables from scratch; parameters do not depend on sizes."""
        variables = self.model.init(
            jax.random.fold_in(key, 0),
            jnp.zeros((1, 1, 64, 64, 3)),
            jnp.full((1, 1, 2), 64, jnp.int32),
            jnp.zeros((1, 1, self.text.max_text_length), jnp.int32),
            jnp.ones((1, 1, self.text.max_text_length), bool),
        )
        params = dict(variables["params"])
        if self.model.config["attention_init"] == "similar":
            params["encoder"] = attend_to_similar(params["encoder"])
        heads = {}
        for number, objective in enumerate(self.objectives, 1):
            shapes = objective.head_inputs(self.features, self.text)
            inputs = [jnp.zeros(shape) for shape in shapes]
            head = self.heads[objective.name]
            heads[objective.name] = head.init(jax.random.fold_in(key, number), *inputs)[
                "params"
            ]
        return {
            "params": {**params, "heads": heads},
            "batch_stats": variables["batch_stats"],
        }

    def views(self, batch: Batch, key: Array, step: Array) -> dict[str, View]:
        """Makes every view that an objective reads, once."""
        names = dict.fromkeys(o.view for o in self.objectives)
        return {name: VIEWS[name](batch, key, step, self.settings) for name in names}

    def counts(self, views: Mapping[str, View]) -> dict[str, Array]:
        """Returns each objective's divisor over the whole global batch."""
        return {o.name: o.count(views[o.view]) for o in self.objectives}

    def losses(
        self,
        variables: Params,
        batch: Batch,
        views: Mapping[str, View],
        key: Array,
        step: Array,
        *,
        micro: Any,
    ) -> Losses:
        """Runs the step's forward pass on one micro-batch."""
        sample_key = example_keys.tagged(key, example_keys.SAMPLE, step)
        dropout_key = example_keys.tagged(key, example_keys.DROPOUT, step)
        dropout_key = jax.random.fold_in(dropout_key, micro)
        core, heads = self.bind(variables)
        pixels, mutated = self.model.apply(
            core,
            batch["image"],
            batch["image_size"],
            train=True,
            method="encode_images",
            mutable=["moments"],
        )
        sampled = pixels
        # 0 keeps every pixel, as row 4 of the paper's table 6 does.
        if count := self.model.config["sample_pixels"]:
            sample_keys = example_keys.per_image(
                sample_key, batch["example_uid"], batch["image"].shape[1]
            )
            sampled = sample_pixels(pixels, sample_keys, count)
        fused = dict.fromkeys(o.view for o in self.objectives if o.reads == "fused")
        encoded = {
            name: self.model.apply(
                core,
                views[name].text_ids,
                views[name].text_mask,
                sampled,
                train=True,
                method="fuse",
                rngs={"dropout": jax.random.fold_in(dropout_key, number)},
            )
            for number, name in enumerate(fused)
        }
        losses: dict[str, Array] = {}
        sums: Sums = {}
        for objective in self.objectives:
            view = views[objective.view]
            read = encoded[objective.view] if objective.reads == "fused" else pixels
            loss, metrics = objective.loss(heads, read, view)
            losses[objective.name] = loss
            sums |= metrics
        return Losses(losses, sums, mutated.get("moments", {}))

    def encode(self, variables: Params, batch: Batch) -> tuple[Encoded, Heads]:
        """Runs a batch as it is, with all pixels, through the model.

        Returns:
          The transformer's outputs, pairs ordered (g, m, k), and the heads.
        """
        core, heads = self.bind(variables)
        encoded = self.model.apply(
            core,
            batch["image"],
            batch["image_size"],
            batch["text_ids"],
            batch["text_mask"],
        )
        return encoded, heads

    def bind(self, variables: Params) -> tuple[Params, Heads]:
        """Splits the variables into the model's own and heads ready to be called."""
        params = dict(variables["params"])
        head_params = params.pop("heads")
        heads = {
            name: partial(head.apply, {"params": head_params[name]})
            for name, head in self.heads.items()
        }
        heads["word_embedding"] = lambda: params["text"]["word"]
        core = {"params": params, "batch_stats": variables["batch_stats"]}
        return core, heads
