"""Passes: named ways through the model, whose results objectives read.

Each runs once per step, or once per step and view, however many objectives need it. A
pass may ask for the results of others: `fused` asks for `sampled`, which asks for
`pixels`. A new pass is a function and one line in PASSES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax import Array

from pixel_bert_jax.models.front_ends import VisualTokens, sample_pixels
from pixel_bert_jax.models.pixel_bert import Alone, Encoded, PixelBert
from pixel_bert_jax.objectives.base import Heads
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops import keys as example_keys
from pixel_bert_jax.types import Batch, Params


class Forward:
    """One micro-batch on its way through the model in training mode.

    Attributes:
      model: the module, without variables.
      variables: parameters and running statistics; with `create`, missing ones are
        added.
      batch: the micro-batch, [G / A, ...], with prepared images.
      views: views of the micro-batch, by name.
      sample_key: key of this step's random pixel sampling.
      moments: batch statistics of norms that are not frozen, added over passes.
    """

    def __init__(
        self,
        model: PixelBert,
        variables: Params,
        batch: Batch,
        views: Mapping[str, View],
        key: Array,
        step: Array,
        *,
        micro: Any = 0,
        create: Array | None = None,
    ):
        """Runs nothing yet.

        Args:
          model: the module, without variables.
          variables: parameters and running statistics.
          batch: one micro-batch.
          views: views of the same examples, by name.
          key: base key of the run.
          step: number of the step.
          micro: number of the micro-batch.
          create: key from which missing parameters are initialised; None: none may be
            missing.
        """
        self.model, self.variables = model, variables
        self.batch, self.views = batch, views
        self.sample_key = example_keys.tagged(key, example_keys.SAMPLE, step)
        dropout_key = example_keys.tagged(key, example_keys.DROPOUT, step)
        self._dropout_key = jax.random.fold_in(dropout_key, micro)
        self._draws = 0  # dropout keys given out
        self._create = create
        self._results: dict[tuple[str, str], Any] = {}
        self.moments: Params = {}

    def result(self, name: str, view: str) -> Any:
        """Returns the result of a pass on a view, which is run on first use."""
        run, by_view = PASSES[name]
        place = name, view if by_view else ""
        if place not in self._results:
            self._results[place] = run(self, view) if by_view else run(self)
        return self._results[place]

    def apply(self, method: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        """Applies a method of the model, and adds batch statistics to `moments`."""
        mutable, rngs = ["moments"], options.pop("rngs", {})
        if self._create is not None:
            mutable += ["params", "batch_stats"]
            rngs = rngs | {"params": self._create}
        out, changed = self.model.apply(
            self.variables,
            *inputs,
            method=method,
            mutable=mutable,
            rngs=rngs,
            **options,
        )
        moments = changed.pop("moments", {})
        if self.moments and moments:
            moments = jax.tree.map(jax.numpy.add, self.moments, moments)
        self.moments = moments or self.moments
        self.variables = {**self.variables, **changed}
        return out

    def dropout_rngs(self) -> dict[str, Array]:
        """Returns the dropout key of one more pass through the transformer."""
        key = jax.random.fold_in(self._dropout_key, self._draws)
        self._draws += 1
        return {"dropout": key}

    @property
    def heads(self) -> Heads:
        """The heads, bound to the variables."""
        return Heads(self.apply, self.variables["params"]["text"]["word"])


def visual_inputs(
    batch: Batch, prefix: str = ""
) -> tuple[Callable[..., Any], Any, Any]:
    """Returns the model's method for what a batch holds of its images, and its inputs.

    Args:
      batch: has prepared images, or the features that a frozen CNN computed before.
      prefix: "", or "other_" for the images of partners.
    """
    if f"{prefix}features" in batch:
        features, size = batch[f"{prefix}features"], batch[f"{prefix}features_size"]
        return PixelBert.encode_features, features, size
    image, size = batch[f"{prefix}image"], batch[f"{prefix}image_size"]
    return PixelBert.encode_images, image, size


def pixels(forward: Forward) -> VisualTokens:
    """Visual tokens of all cells; each image passes through the CNN once."""
    return forward.apply(*visual_inputs(forward.batch), train=True)


def sampled(forward: Forward) -> VisualTokens:
    """The pixels that random sampling keeps (arXiv 2004.00849, section 3.3)."""
    every = forward.result("pixels", "")
    count = forward.model.config.sample_pixels
    if not count:  # keep all pixels, as in row 4 of the paper's table 6
        return every
    example_id, images = forward.batch["example_id"], every.features.shape[1]
    keys = example_keys.per_image(forward.sample_key, example_id, images)
    return sample_pixels(every, keys, count)


def fused(forward: Forward, view: str) -> Encoded:
    """Every pair of a view's texts and sampled pixels through the transformer."""
    texts, rngs = forward.views[view], forward.dropout_rngs()
    visual = forward.result("sampled", view)
    return forward.apply(
        PixelBert.fuse, texts.text_ids, texts.text_mask, visual, train=True, rngs=rngs
    )


def text_alone(forward: Forward, view: str) -> Alone:
    """A view's texts through the transformer without any pixel."""
    texts, rngs = forward.views[view], forward.dropout_rngs()
    return forward.apply(
        PixelBert.encode_texts, texts.text_ids, texts.text_mask, train=True, rngs=rngs
    )


def pixels_alone(forward: Forward) -> Alone:
    """The sampled pixels through the transformer without any word."""
    visual, rngs = forward.result("sampled", ""), forward.dropout_rngs()
    return forward.apply(PixelBert.encode_pixels, visual, train=True, rngs=rngs)


class Pass(NamedTuple):
    """A pass: (forward, view) -> result, or (forward) -> result for all views."""

    run: Callable[..., Any]
    by_view: bool


PASSES = {
    "pixels": Pass(pixels, by_view=False),
    "sampled": Pass(sampled, by_view=False),
    "fused": Pass(fused, by_view=True),
    "text_alone": Pass(text_alone, by_view=True),
    "pixels_alone": Pass(pixels_alone, by_view=False),
}
