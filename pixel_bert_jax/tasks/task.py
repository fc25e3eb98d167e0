"""A task: the model, and objectives that share its forward passes.

Each image passes through the CNN once per step; its K texts share the result. The
fusion transformer runs once per distinct view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax import models, objectives
from pixel_bert_jax.config import Config
from pixel_bert_jax.data import fields
from pixel_bert_jax.models.bert import attend_to_similar
from pixel_bert_jax.models.front_ends import VisualTokens, sample_pixels
from pixel_bert_jax.models.pixel_bert import Encoded, PixelBert
from pixel_bert_jax.objectives.base import Heads, Inputs, TextSpec
from pixel_bert_jax.objectives.views import VIEWS, View, ViewSettings
from pixel_bert_jax.ops import keys as example_keys
from pixel_bert_jax.ops.masking import max_masked
from pixel_bert_jax.tasks.passes import PASSES, Forward, visual_inputs
from pixel_bert_jax.types import Batch, InputError, Params, Sums, nearest

EXAMPLE_SIDE = 64  # pixels of the image that parameters are created from


class Losses(NamedTuple):
    """Result of one forward pass over a micro-batch.

    Attributes:
      totals: summed loss of each objective.
      metrics: metrics as sums.
      moments: batch statistics of norms that are not frozen.
      updates: arrays of each objective that carries state; see `Objective.carry`.
    """

    totals: dict[str, Array]
    metrics: Sums
    moments: Params
    updates: dict[str, Params]


class Task:
    """The model with its objectives: losses, views, and the state they carry.

    Attributes:
      model: the module, heads included.
      objectives: objectives in the config's order.
      targets: makes arrays from the texts' annotations; None if no objective reads any.
      weights: multiplier of each objective's loss.
      frozen: patterns of the paths of parameters that the model does not train.
      images: M, images per text.
      negatives: texts of other images behind each text.
      heads: the objectives that have a head, by name.
      settings: what the views need besides the batch.
      eval_seed: decides the masks and sampled pixels of evaluations.
      eval_pixels: pixels of each image that evaluations keep; 0: all.
    """

    def __init__(self, config: Config, text: TextSpec, answers: Any = None) -> None:
        """Builds model, objectives and views from a config.

        Args:
          config: the whole config, since several sections are read.
          text: sizes of the tokenizer and of the answer vocabulary.
          answers: the answer vocabulary; None if the texts are no questions.

        Raises:
          InputError: an objective, view, pass, backbone or front end that does not
            exist, or objectives that do not go together.
        """
        masking = config.masking
        # Prediction slots are static, so they have to hold the larger of both shares.
        most = masking.probability
        if masking.warmup_steps:
            most = max(most, masking.warmup_probability)
        self.text, self._attention_init = text, config.model.attention_init
        self._config, self.eval_seed = config.model, config.eval.seed
        self.eval_pixels = config.eval.sample_pixels
        self.objectives = objectives.build(config.objectives)
        for objective in self.objectives:
            _check_names(objective)
            if objective.whole_batch and config.optim.accumulate > 1:
                raise InputError(
                    f"objectives.{objective.name} relates all examples of a batch with "
                    f"each other, so optim.accumulate has to be 1, received "
                    f"{config.optim.accumulate}"
                )
        self.targets = objectives.targets(self.objectives, answers)
        self.model = PixelBert(config.model, text.vocab_size, self.objectives, text)
        self.frozen = models.frozen_patterns(config.model)
        self.weights = {o.name: float(o.weight) for o in self.objectives}
        self.images = objectives.common(self.objectives, "images", 1)
        self.negatives = objectives.common(self.objectives, "negatives", 0)
        self.settings = ViewSettings(
            vocabulary=text.vocabulary,
            mask_probability=masking.probability,
            mask_slots=masking.slots or max_masked(text.max_text_length, most),
            whole_words=masking.whole_words,
            warmup_probability=masking.warmup_probability,
            warmup_steps=masking.warmup_steps,
            negatives=self.negatives,
        )
        self.heads: dict[str, Any] = {
            o.name: o for o in self.objectives if o.head(config.model, text) is not None
        }

    def init(self, key: Array) -> Params:
        """Returns new variables: {"params", "batch_stats"}.

        Those of the model come from a forward pass over a batch of zeros, those of the
        heads from its losses, since only a loss knows the inputs of its head.
        """
        batch = self._example()
        texts = batch["text_ids"], batch["text_mask"]
        images = batch["image"], batch["image_size"]
        variables = self.model.init(jax.random.fold_in(key, 0), *images, *texts)
        variables = {"batch_stats": {}, **variables}
        if self._attention_init == "similar":
            params = dict(variables["params"])
            params["encoder"] = attend_to_similar(params["encoder"])
            variables["params"] = params
        # A training pass that creates missing parameters, which are those of the heads.
        step = jnp.zeros((), jnp.int32)
        forward = Forward(
            self.model,
            variables,
            batch,
            self.views(batch, key, step),
            key,
            step,
            create=jax.random.fold_in(key, 1),
        )
        carried = self.carried(variables["params"])
        for objective in self.objectives:
            self._loss(objective, forward, carried)
        # `forward.variables` has gained the parameters on the way.
        return {name: forward.variables[name] for name in ("params", "batch_stats")}

    def _example(self) -> Batch:
        """Returns the smallest batch, of zeros, as the step receives it."""
        described = fields.FIELDS | (dict(self.targets.fields) if self.targets else {})
        sizes = {
            "M": self.images,
            "K": 1 + self.negatives,
            "L": self.text.max_text_length,
            "H": EXAMPLE_SIDE,
            "W": EXAMPLE_SIDE,
            "A": self.text.answers,
        }
        shapes = fields.shapes(fields.prepared(described), sizes)
        batch = {name: jnp.zeros((1, *s), dtype) for name, (s, dtype) in shapes.items()}
        return batch | {"image_size": jnp.full_like(batch["image_size"], EXAMPLE_SIDE)}

    def carried(self, params: Params) -> dict[str, Params]:
        """Returns the state that objectives carry, before the first step."""
        found = {
            objective.name: objective.carried(self._config, self.text, params)
            for objective in self.objectives
        }
        return {name: state for name, state in found.items() if state}

    def carry(
        self, carried: Params, updates: Mapping[str, Params], params: Params
    ) -> Params:
        """Returns the carried state after a step; see `Objective.carry`."""
        by_name = {objective.name: objective for objective in self.objectives}
        return {
            name: by_name[name].carry(state, updates.get(name, {}), params)
            for name, state in carried.items()
        }

    def views(self, batch: Batch, key: Array, step: Array) -> dict[str, View]:
        """Makes every view that objectives read, for the whole global batch."""
        names = dict.fromkeys(o.view for o in self.objectives)
        return {name: VIEWS[name](batch, key, step, self.settings) for name in names}

    def counts(self, views: Mapping[str, View]) -> dict[str, Array]:
        """Returns the divisor of each objective's summed loss."""
        return {o.name: o.count(views[o.view]) for o in self.objectives}

    def losses(
        self,
        variables: Params,
        carried: Params,
        batch: Batch,
        views: Mapping[str, View],
        key: Array,
        step: Array,
        *,
        micro: Any,
        share: Callable[[Array], Array] = lambda x: x,
    ) -> Losses:
        """Runs a forward pass over micro-batch number `micro` in training mode.

        `share` gives every device the whole of an array; see `objectives.base.Inputs`.
        """
        forward = Forward(self.model, variables, batch, views, key, step, micro=micro)
        for objective in self.objectives:  # all passes, then all losses
            for name in objective.needs:
                forward.result(name, objective.view)
        totals: dict[str, Array] = {}
        metrics: Sums = {}
        updates: dict[str, Params] = {}
        for objective in self.objectives:
            loss = self._loss(objective, forward, carried, share)
            totals[objective.name] = loss.total
            metrics[f"{objective.name}/loss"] = loss.total, loss.count
            for name, value in loss.metrics.items():
                metrics[f"{objective.name}/{name}"] = value
            if loss.updates:
                updates[objective.name] = loss.updates
        return Losses(totals, metrics, forward.moments, updates)

    def _loss(
        self,
        objective: Any,
        forward: Forward,
        carried: Params,
        share: Callable[[Array], Array] = lambda x: x,
    ) -> Any:
        passes = {
            name: forward.result(name, objective.view) for name in objective.needs
        }
        return objective.loss(
            Inputs(
                view=forward.views[objective.view],
                passes=passes,
                heads=forward.heads,
                carried=carried.get(objective.name, {}),
                share=share,
            )
        )

    def visual(self, variables: Params, batch: Batch, prefix: str = "") -> VisualTokens:
        """Encodes the images of an evaluation.

        All pixels are kept, as in fine-tuning (section 3.3), or `eval.sample_pixels` of
        each image, drawn by the evaluation seed and the number of the own image.

        Args:
          variables: parameters and running statistics.
          batch: a batch with prepared images [G, M, H, W, 3], or with features.
          prefix: "", or "other_" for the images of partners.
        """
        method, *inputs = visual_inputs(batch, prefix)
        every = self.model.apply(variables, *inputs, method=method)
        if not self.eval_pixels:
            return every
        key = example_keys.tagged(jax.random.key(self.eval_seed), example_keys.SAMPLE)
        draw = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (None, 0))
        keys = draw(key, batch["image_id"].astype(jnp.uint32))
        return sample_pixels(every, keys, self.eval_pixels)

    def encode(self, variables: Params, batch: Batch) -> tuple[Encoded, Heads]:
        """Runs an uncorrupted batch through the model, with the images of `visual`.

        Returns:
          The transformer's outputs, pairs ordered (g, m, k), and the heads.
        """
        encoded = self.model.apply(
            variables,
            batch["text_ids"],
            batch["text_mask"],
            self.visual(variables, batch),
            method=PixelBert.fuse,
        )
        return encoded, self.bind(variables)

    def bind(self, variables: Params) -> Heads:
        """Returns the heads, bound to the variables."""

        def apply(method: Any, *inputs: Any) -> Any:
            return self.model.apply(variables, *inputs, method=method)

        return Heads(apply, variables["params"]["text"]["word"])


def _check_names(objective: objectives.Objective) -> None:
    """Refuses an objective that asks for a view or a pass that does not exist."""
    for what, names, table in (
        ("view", (objective.view,), objective.views or VIEWS),
        ("pass", objective.needs, PASSES),
    ):
        for name in names:
            if name not in table:
                raise InputError(
                    f"objectives.{objective.name} cannot read the {what} {name!r}"
                    f"{nearest(name, table)}; valid: {', '.join(table)}"
                )
