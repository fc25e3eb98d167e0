"""What a run would need, computed without data, tokenizer or weights.

Prints the table of parameters, the plan's statistics for images with the config's size
shares, and the memory of one step compiled for a CPU: one device's micro-batch on the
largest canvas.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from pixel_bert_jax.config import Config
from pixel_bert_jax.data import fields, geometry
from pixel_bert_jax.data.corpora import geometry_of
from pixel_bert_jax.data.features import DTYPES
from pixel_bert_jax.data.plan import Corpus, TrainPlan
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.objectives.base import TextSpec
from pixel_bert_jax.ops.masking import Vocabulary
from pixel_bert_jax.training import sharding
from pixel_bert_jax.trees import flatten
from pixel_bert_jax.types import Batch, InputError, refuse_to_run


class Planned(Experiment):
    """An experiment on one device that knows only sizes of data and vocabulary."""

    @functools.cached_property
    def mesh(self) -> Mesh:
        """One device, or the config's mesh if devices were given."""
        if self._devices is not None:
            return super().mesh
        return sharding.make_mesh({"data": 1}, jax.devices()[:1])

    @functools.cached_property
    def text(self) -> TextSpec:
        """A made-up vocabulary of the config's size."""
        size, answers = self.config.dry_run.vocab_size, self.config.dry_run.answers
        vocabulary = Vocabulary(
            (0, 1, 2, 3, 4), 4, np.arange(5, size, dtype=np.int32), np.zeros(size, bool)
        )
        return TextSpec(size, self.config.data.max_text_length, vocabulary, answers)

    @property
    def answers(self) -> None:
        """No answers, of which only the number is needed."""
        return None

    @functools.cached_property
    def train_plan(self) -> TrainPlan:
        """The plan of made-up images with the config's size shares."""
        data, images = self.config.data, self.config.dry_run.images
        texts = self.config.texts_per_group
        if not data.size_shares:
            raise InputError("data.size_shares is empty: the dry run needs image sizes")
        shares = np.array([share for *_, share in data.size_shares], float)
        borders = np.round(np.cumsum(shares / shares.sum()) * images).astype(int)
        kinds = np.searchsorted(borders, np.arange(images), side="right")
        known = np.array([(h, w) for w, h, _ in data.size_shares], np.int32)
        corpus = Corpus(
            name="images",
            weight=1.0,
            set_images=np.arange(images)[:, None],
            text_set=np.repeat(np.arange(images), texts),
            image_ids=np.arange(images),
        )
        return TrainPlan(
            [corpus],
            known[kinds],
            seed=self.config.seed,
            groups=self.config.groups,
            texts_per_group=texts,
            **geometry_of(self.config),
        )

    @property
    def mesh_sizes(self) -> dict[str, int]:
        """Sizes of the axes of the run's mesh."""
        shards = self.config.dry_run.shards
        return sharding.mesh_sizes(vars(self.config.mesh), shards)

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) of the canvas with the most pixels."""
        canvases = map(geometry.parse_canvas, self.config.data.canvases)
        return max(canvases, key=math.prod)

    def batch(self, groups: int) -> Batch:
        """Returns shapes and shardings of one micro-batch on the largest canvas."""
        task = self.task
        targets = dict(task.targets.fields) if task.targets else {}
        height, width = self.canvas
        sizes = {
            "M": task.images,
            "K": self.config.texts_per_group * (1 + task.negatives),
            "L": self.text.max_text_length,
            "H": height,
            "W": width,
            "A": self.text.answers,
        }
        held = {**fields.FIELDS, **targets}
        if self.config.data.cache_features:
            self.check_features()
            stride, sizes["C"] = self.cnn.stride, self.cnn.channels
            sizes |= {"h": -(-height // stride), "w": -(-width // stride)}
            held = fields.with_features(held, DTYPES[self.config.model.dtype])
        described = fields.prepared(held)
        split = NamedSharding(self.mesh, sharding.BATCH_SPEC)
        return {
            name: jax.ShapeDtypeStruct((1, groups, *shape), dtype, sharding=split)
            for name, (shape, dtype) in fields.shapes(described, sizes).items()
        }

    def lower_step(self, groups: int) -> Any:
        """Lowers one training step on the largest canvas, one micro-batch."""
        return self.jitted_step().lower(self.target, self.batch(groups))


def run(config: Config) -> None:
    """Prints parameters, plan and memory of a step.

    Raises:
      InputError: fields of the config contradict each other.
    """
    planned = Planned(config)
    params, sizes = planned.variable_shapes["params"], planned.mesh_sizes
    specs = sharding.parameter_specs(params, sizes, config.sharding)
    statistics = planned.train_plan.statistics()
    print(f"mesh {sizes}")
    print(parameter_table(params, planned.optimizer.groups, specs))
    sharding.check_spread(params, sizes, config.sharding, config.sharding_tolerance)
    print(f"\nplan of {config.dry_run.images:,} images: {statistics}")
    print(statistics.table())
    print(f"\n{_step_memory(planned)}")


def parameter_table(
    params: Mapping[str, Any], groups: Mapping[str, str], specs: Mapping[str, Any]
) -> str:
    """Formats a table of the parameters, followed by totals.

    Args:
      params: nested dict of arrays or shapes.
      groups: parameter path -> group; see `optim.Optimizer`.
      specs: parameter path -> its split over the mesh; see
        `sharding.parameter_specs`.
    """
    flat = flatten(params)
    width = max(map(len, flat))
    lines = [
        f"{path:<{width}}  {leaf.size:>12,}  {groups[path]:<12} {leaf.shape!s:<20} "
        f"{split_of(specs[path])}"
        for path, leaf in flat.items()
    ]
    totals: dict[str, int] = {}
    for path, leaf in flat.items():
        part = path.split("/")[0]
        totals[part] = totals.get(part, 0) + leaf.size
    lines += [f"{part:<{width}}  {number:>12,}" for part, number in totals.items()]
    lines.append(f"{'all parameters':<{width}}  {sum(totals.values()):>12,}")
    return "\n".join(lines)


def split_of(spec: Any) -> str:
    """Formats a partition spec, such as "-, fsdp", or "whole"."""
    return ", ".join("-" if axis is None else axis for axis in spec) or "whole"


def _step_memory(planned: Planned) -> str:
    """Compiles a step for the largest canvas and reports its memory."""
    config, sizes = planned.config, planned.mesh_sizes
    shards = sizes["data"] * sizes["fsdp"]
    accumulate = config.optim.accumulate
    sharding.check_groups(config.groups, accumulate, shards)
    groups = config.groups // (accumulate * shards)
    compiled = planned.lower_step(groups).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    megabytes = {
        name: getattr(memory, f"{name}_size_in_bytes") / 2**20
        for name in ("argument", "output", "temp")
    }
    shown = ", ".join(f"{name} {size:,.1f} MB" for name, size in megabytes.items())
    return (
        f"step of {groups} groups on one device, canvas "
        f"{geometry.format_canvas(planned.canvas)} (XLA:CPU, not TPU): {shown}, "
        f"{cost['flops'] / 1e9:,.1f} GFLOP"
    )


if __name__ == "__main__":
    refuse_to_run("dry_run")
