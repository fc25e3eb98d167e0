"""A Pixel-BERT of a few thousand parameters, random batches for it, and its step."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pixel_bert_jax import trees
from pixel_bert_jax.config import Config, resolve
from pixel_bert_jax.objectives.base import Inputs, Loss, Objective, TextSpec
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops.image import RGB_STD
from pixel_bert_jax.ops.keys import NO_EXAMPLE
from pixel_bert_jax.ops.masking import Vocabulary
from pixel_bert_jax.tasks import Task
from pixel_bert_jax.training import optim, sharding, train_state, train_step

# Halves the time to compile; what is tested runs for milliseconds.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
VOCAB = 37
LENGTH = 10
CANVAS = (32, 48)  # stride 8: 4 x 6 cells
CONFIG = {
    "objectives": {
        "mlm": {"weight": 1.0, "on_swapped": True},
        "itm": {"weight": 1.0},
    },
    "eval": {"seed": 3},
    "data": {"max_text_length": LENGTH},
    "model": {
        "backbone": {
            "name": "resnet",
            "depths": (1, 1),
            "widths": (8, 12),
            "strides": (1, 2),
            "inner": (),
            "groups": 1,
            "stem": "conv3",
            "frozen_stages": -1,
        },
        "norm": "frozen",
        "features": 16,
        "layers": 1,
        "heads": 2,
        "hidden": 32,
        "dropout": 0.0,
        "max_positions": 16,
        "init_std": 0.2,
        "sample_pixels": 9,
    },
    "optim": {
        "groups": {
            "cnn": {"kind": "sgd", "learning_rate": 1e-2},
            "transformer": {"kind": "adamw", "learning_rate": 1e-3},
        },
        "warmup": "2 steps",
        "decays": ("90 %",),
    },
}


def config(**changes: Any) -> Config:
    """Returns CONFIG with changes such as `model__norm="batch"`."""
    out = copy.deepcopy(CONFIG)
    for path, value in changes.items():
        *parents, name = path.split("__")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return resolve(out)


def text_spec(answers: int = 0) -> TextSpec:
    vocabulary = Vocabulary(
        special_ids=(0, 1, 2, 3, 4),
        mask_id=4,
        replacement_ids=np.arange(5, VOCAB, dtype=np.int32),
        is_continuation=np.arange(VOCAB) >= 30,
    )
    return TextSpec(VOCAB, LENGTH, vocabulary, answers)


def task(**changes: Any) -> Task:
    return Task(config(**changes), text_spec())


@dataclasses.dataclass(frozen=True)
class Heads:
    """Functions in the place of a model's heads; see `objectives.base.Heads`."""

    functions: dict[str, Callable[..., jax.Array]]
    word_embedding: Any = None

    def __getitem__(self, name: str) -> Callable[..., jax.Array]:
        return self.functions[name]


def loss_of(objective: Objective, view: View, heads: Heads, **passes: Any) -> Loss:
    """Returns an objective's loss on a view, given the results of its passes."""
    assert passes.keys() == set(objective.needs)
    return objective.loss(Inputs(view, passes, heads, {}))


def batch(
    groups: int,
    texts: int = 2,
    images: int = 1,
    *,
    seed: int = 0,
    corpora: int = 2,
    evaluation: bool = False,
) -> dict[str, np.ndarray]:
    """Returns [G, ...] arrays with prepared images: odd sizes, holes, failed images."""
    random = np.random.default_rng(seed)

    def photos() -> tuple[np.ndarray, np.ndarray]:
        size = random.integers([9, 16], [33, 49], (groups, images, 2)).astype(np.int32)
        size[1::5] = 0
        pixels = random.normal(0, 60 / min(RGB_STD), (groups, images, *CANVAS, 3))
        rows = np.arange(CANVAS[0])[:, None] < size[..., 0, None, None]
        columns = np.arange(CANVAS[1]) < size[..., 1, None, None]
        inside = (rows & columns)[..., None]
        return np.where(inside, pixels, 0).astype(np.float32), size

    def captions() -> tuple[np.ndarray, np.ndarray]:
        # From 1 to all words: the numbers of masked tokens differ much.
        words = random.integers(1, LENGTH - 1, (groups, texts))
        place = np.arange(LENGTH)
        ids = random.integers(5, VOCAB, (groups, texts, LENGTH))
        ids[..., 0] = 2
        ids = np.where(place == words[..., None] + 1, 3, ids)
        mask = place <= words[..., None] + 1
        return np.where(mask, ids, 0).astype(np.int32), mask

    image, size = photos()
    ids, mask = captions()
    real = random.random((groups, texts)) < 0.9
    real[:, 0] = True
    real &= (size[..., 0] > 0).all(axis=1)[:, None]
    corpus = random.integers(0, corpora, groups).astype(np.int32)
    high = np.broadcast_to(corpus[:, None], (groups, texts))
    low = np.arange(groups * texts).reshape(groups, texts)
    example_id = np.stack([high, low], axis=-1)
    example_id = np.where(
        (size[..., 0] > 0).all(axis=1)[:, None, None], example_id, NO_EXAMPLE
    )
    out = {
        "image": image,
        "image_size": size,
        "image_id": random.integers(0, max(groups * 2 // 3, 2), (groups, images)),
        "corpus": corpus,
        "text_ids": ids,
        "text_mask": mask,
        "example_id": example_id.astype(np.uint32),
        "example_mask": real,
    }
    out["image_id"] = out["image_id"].astype(np.int32)
    if evaluation:
        out["negative_ids"], out["negative_mask"] = captions()
        out["other_image"], out["other_image_size"] = photos()
    return out


@dataclasses.dataclass
class Run:
    """A task with its optimizer on a mesh."""

    task: Task
    mesh: jax.sharding.Mesh
    optimizer: optim.Optimizer
    target: train_state.TrainState
    config: Config

    def state(self, seed: int = 0) -> train_state.TrainState:
        """Fills the state with numpy; compiling the initialisation takes longer."""
        random = np.random.default_rng(seed)

        def one(path: Any, leaf: Any) -> jax.Array:
            name = trees.key_path(path)
            if name == "rng":
                make = functools.partial(jax.random.key, seed)
                return jax.jit(make, out_shardings=leaf.sharding)()
            value = np.zeros(leaf.shape)
            if name.startswith("params"):
                deviation = 0.3 if len(leaf.shape) > 1 else 0.05
                value = random.normal(0, deviation, leaf.shape) + name.endswith("scale")
            elif name.startswith("batch_stats"):
                value = random.uniform(0.3, 0.9, leaf.shape) - 0.5 * name.endswith(
                    "mean"
                )
            return jax.device_put(value.astype(leaf.dtype), leaf.sharding)

        return jax.tree_util.tree_map_with_path(one, self.target)

    def place(self, arrays: dict[str, np.ndarray], accumulate: int = 1) -> Any:
        split = {
            name: x.reshape(accumulate, -1, *x.shape[1:]) for name, x in arrays.items()
        }
        return sharding.place(split, self.mesh, sharding.BATCH_SPEC)

    def step(self, state: Any, arrays: Any) -> Any:
        """Compiles the training step for these arguments."""
        function = train_step.build(self.task, self.optimizer, self.mesh, self.config)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.target)
        function = jax.jit(function, out_shardings=(shardings, None))
        return function.lower(state, arrays).compile(QUICK)

    def gradients(self, state: Any, arrays: Any) -> Any:
        """Compiles the gradients of one step for these arguments."""
        function = train_step.build_gradients(
            self.task, self.optimizer, self.mesh, self.config.sharding
        )
        return jax.jit(function).lower(state, arrays).compile(QUICK)


def run(devices: int = 1, fsdp: int = 1, model: int = 1, **changes: Any) -> Run:
    """Builds a run on the first devices, whose mesh has these axes and `data`."""
    sizes = {"data": -1, "fsdp": fsdp, "model": model}
    mesh = sharding.make_mesh(sizes, jax.devices()[:devices])
    the_task = task(**changes)
    shapes = jax.eval_shape(the_task.init, jax.random.key(0))
    optimizer = optim.build(
        config(**changes).optim,
        shapes["params"],
        frozen=the_task.frozen,
        steps_per_epoch=10,
        total=100,
    )
    target = train_state.abstract(
        the_task, optimizer, 0, mesh, config(**changes).sharding
    )
    return Run(the_task, mesh, optimizer, target, config(**changes))


def differences(
    got: dict[str, np.ndarray], want: dict[str, np.ndarray]
) -> dict[str, float]:
    """Returns max|d| / max(max|g|, 1e-6 of the model's largest) of each gradient."""
    largest = max(np.abs(g).max() for g in want.values())
    return {
        path: float(np.abs(got[path] - g).max() / max(np.abs(g).max(), 1e-6 * largest))
        for path, g in want.items()
    }
