"""Runs a frozen CNN over all photos of an index, once, and keeps its features.

With `data.cache_features`, steps and evaluations read these instead of photos.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pixel_bert_jax import trees
from pixel_bert_jax.config import Config
from pixel_bert_jax.data import geometry, images
from pixel_bert_jax.data.features import FeatureStore, PhotoFeatures
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.models.pixel_bert import PixelBert
from pixel_bert_jax.ops.image import prepare_images
from pixel_bert_jax.types import InputError, Params

FORMAT = 1  # raised when the same photo and CNN give other features
CHUNK = 512  # photos whose files are read ahead
BATCH = 16  # photos of a pass through the CNN
EXAMPLE = 256  # side of an image for shapes alone


class FrozenCnn:
    """A model's CNN alone, compiled once however many indexes it runs over.

    Attributes:
      run: jitted function (variables, image, image_size) -> (features, their size); see
        `PixelBert.cnn_features`.
      stride: pixels per cell.
      channels: channels of a cell.
      follows_batch: whether some of its norms follow the batch in training.
    """

    def __init__(self, model: PixelBert):
        """Finds shapes; compiles nothing yet."""
        method = PixelBert.cnn_features

        def run(variables: Params, image: Array, size: Array) -> tuple[Array, Array]:
            return model.apply(variables, image, size, method=method)

        def train() -> tuple[tuple[Array, Array], Params]:
            image = jnp.zeros((1, 1, EXAMPLE, EXAMPLE, 3), jnp.float32)
            size = jnp.full((1, 1, 2), EXAMPLE, jnp.int32)
            key = jax.random.key(0)
            return model.init_with_output(key, image, size, train=True, method=method)

        (features, _), made = jax.eval_shape(train)
        height, _, self.channels = features.shape[-3:]
        self.stride = EXAMPLE // height
        self.follows_batch = "moments" in made
        self.run = jax.jit(run)


def check(config: Config, cnn: FrozenCnn, trainable: Sequence[str]) -> None:
    """Refuses to keep features that training would change.

    Args:
      config: config of the run.
      cnn: the model's CNN.
      trainable: paths of the parameters that are trained.

    Raises:
      InputError: the CNN is trained, its norms follow the batch, or photos are changed
        at random.
    """
    data, faults = config.data, []
    if trained := [path for path in trainable if path.startswith("backbone/")]:
        faults.append(
            f"the CNN is trained ({trained[0]} and {len(trained) - 1} more; freeze it "
            "by a rule (r'backbone/.*', 'frozen') in optim.rules)"
        )
    if cnn.follows_batch:
        faults.append(
            "its batch norms follow the batch (model.norm = 'frozen' stops them)"
        )
    if data.mirror or data.random_short_side:
        faults.append("photos are changed at random (data.mirror, random_short_side)")
    if faults:
        raise InputError(
            "data.cache_features needs a CNN that gives a photo the same features in "
            "every step, but " + "; ".join(faults)
        )


def compute(
    config: Config,
    cnn: FrozenCnn,
    variables: Params,
    index: Index,
    *,
    process: tuple[int, int] = (0, 1),
    wait: Callable[[], None] = lambda: None,
    alive: Callable[[str], None] = lambda what: None,
) -> PhotoFeatures:
    """Returns the features of all photos of an index, computing those that are missing.

    Args:
      config: `data` and `model` decide sizes and dtype.
      cnn: the model's CNN.
      variables: parameters and running statistics, of which the CNN's are used.
      index: where the photos are.
      process: number of this process and of all; each computes its share.
      wait: waits for the other processes.
      alive: called between batches; an exception that it raises ends the work, which a
        later call goes on with.

    Raises:
      InputError: features are damaged, or the folder cannot be written.
      ImageError: a photo is missing or broken, and the policy is "error".
    """
    worker = _Worker(config, cnn, variables, index)
    number, count = process
    rows = range(len(index.image_ids))
    if count > 1:
        worker.run(rows[number::count], alive)
        wait()
    # All, or what others were to compute: they may have written to another disk.
    worker.run(rows, alive)
    return PhotoFeatures(worker.store, worker.names, worker.failed)


class _Worker:
    """Reads photos, runs the CNN over those without features, and writes these.

    Attributes:
      store: where features are kept.
      names: image row -> name in the store.
      failed: image row -> why the photo has no features.
    """

    def __init__(self, config: Config, cnn: FrozenCnn, variables: Params, index: Index):
        data = config.data
        self._index, self._data, self._cnn = index, data, cnn
        self.names: dict[int, str] = {}
        self.failed: dict[int, str] = {}
        # The square holds photos that are trained on in pairs of different shapes.
        sides = *map(geometry.parse_canvas, data.canvases), (data.long_side,) * 2
        self._canvases: list[geometry.Size] = list(sides)
        self._targets = geometry.target_sizes(
            np.asarray(index.sizes), data.short_side, data.long_side
        )
        own = {
            name: {"backbone": jax.tree.map(trees.whole, collection["backbone"])}
            for name, collection in variables.items()
            if "backbone" in collection
        }
        self._mesh = Mesh(np.asarray(jax.local_devices()), ("data",))
        whole = NamedSharding(self._mesh, PartitionSpec())
        self._variables = jax.device_put(own, whole)
        backbone = dict(config.model.backbone)
        backbone.pop("frozen_stages", None)  # changes nothing that a frozen CNN does
        self.store = FeatureStore(
            Path(data.feature_dir).expanduser(),
            {
                "format": FORMAT,
                "backbone": backbone,
                "variables": trees.digest(own),
                "source_canvases": list(data.source_canvases),
            },
            stride=cnn.stride,
            channels=cnn.channels,
            dtype=config.model.dtype,
        )

    def run(self, rows: Sequence[int], alive: Callable[[str], None]) -> None:
        """Names the features of image rows, and computes those that are missing."""
        rows = [row for row in rows if row not in self.names and row not in self.failed]
        shown = tqdm.tqdm(
            total=len(rows),
            desc="features of photos",
            unit="photo",
            disable=not sys.stderr.isatty(),
        )
        with ThreadPoolExecutor(self._data.workers or None, "read-photos") as pool:
            for chunk in _portions(rows, CHUNK):
                missing: dict[tuple[int, geometry.Size], list[Any]] = {}
                for row, pixels in zip(chunk, pool.map(self._read, chunk), strict=True):
                    if pixels is None:
                        continue
                    missing.setdefault(self._shape(row), []).append((row, pixels))
                for (side, canvas), photos in missing.items():
                    for batch in _portions(photos, BATCH):
                        alive("a batch of photos through the CNN")
                        self._compute(batch, side, canvas)
                shown.update(len(chunk))
        shown.close()

    def _read(self, row: int) -> np.ndarray | None:
        """Returns a photo's pixels, None if its features are there or it fails."""
        index = self._index
        upright = index.upright[index.image_corpus[row]]
        try:
            photo = index.read(row)
            name = self.store.name(photo, self._targets[row], upright)
            pixels = None
            if not self.store.has(name):
                pixels = images.decode(
                    photo,
                    tuple(index.sizes[row].tolist()),
                    upright=upright,
                    report=lambda warning: None,  # said when the index was built
                )
        except (images.ImageError, FileNotFoundError) as error:
            if self._data.on_bad_image != "skip":
                raise images.ImageError(f"{index.describe(row)}: {error}") from error
            self.failed[row] = str(error)
            return None
        self.names[row] = name
        return pixels

    def _shape(self, row: int) -> tuple[int, geometry.Size]:
        """Returns the source canvas and the canvas of an image row."""
        sides = self._data.source_canvases
        source = geometry.choose_source(self._index.sizes[row][None, None], sides)
        target = self._targets[row][None, None]
        canvas = geometry.choose_canvas(target, self._canvases)
        return sides[int(source[0])], self._canvases[int(canvas[0])]

    def _compute(
        self, photos: Sequence[tuple[int, np.ndarray]], side: int, canvas: geometry.Size
    ) -> None:
        """Runs photos of one canvas through the CNN and writes their features."""
        shards = self._mesh.size
        count = -(-BATCH // shards) * shards  # always the same, so compiled once
        source = np.zeros((count, 1, side, side, 3), np.uint8)
        sizes = np.zeros((2, count, 1, 2), np.int32)  # on the source canvas, resized
        for n, (row, pixels) in enumerate(photos):
            sizes[0, n, 0] = images.lay(pixels, source[n, 0])
            sizes[1, n, 0] = self._targets[row]
        batch = {"image": source, "source_size": sizes[0], "image_size": sizes[1]}
        split = NamedSharding(self._mesh, PartitionSpec("data"))
        batch = prepare_images(jax.device_put(batch, split), canvas=canvas)
        found, cells = jax.device_get(
            self._cnn.run(self._variables, batch["image"], batch["image_size"])
        )
        for n, (row, _) in enumerate(photos):
            height, width = cells[n, 0]
            try:
                self.store.write(self.names[row], found[n, 0, :height, :width])
            except OSError as error:
                raise InputError(f"features cannot be kept: {error}") from error


def _portions(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[n : n + size] for n in range(0, len(items), size)]
