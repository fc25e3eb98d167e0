"""Rendered scenes with captions, as a source.

A scene is a pure function of (split, seed, number): nothing is stored, and a larger
`num_scenes` extends a smaller one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax.data.sources import base
from pixel_bert_jax.data.sources.scenes.oracle import SceneOracle
from pixel_bert_jax.data.sources.scenes.render import render
from pixel_bert_jax.data.sources.scenes.text import draw_captions
from pixel_bert_jax.data.sources.scenes.words import WORD_CLASSES
from pixel_bert_jax.data.sources.scenes.world import SPLITS, Scene, draw_scene
from pixel_bert_jax.types import InputError, nearest

# To be increased by any change of the scenes, their pixels or their captions, so that
# an index of an earlier version is not reused.
VERSION = 1

# Independent random streams of one scene.
_LAYOUT, _PIXELS, _CAPTIONS = range(3)

_DEFAULTS = {"seed": 0, "train_scenes": 20_000, "evaluate_scenes": 1_000}
_OPTIONS = {"captions_per_scene": 5}


class ScenesSource(base.Source):
    """Scenes 0 to num_scenes - 1 of a split; an image's key is its scene's number."""

    word_classes = WORD_CLASSES

    def __init__(
        self,
        split: str = "train",
        seed: int = 0,
        num_scenes: int = _DEFAULTS["train_scenes"],
        captions_per_scene: int = _OPTIONS["captions_per_scene"],
        name: str = "scenes",
    ):
        """Checks the options.

        Raises:
          InputError: an unknown split or an option out of range.
        """
        if split not in SPLITS:
            raise InputError(
                f"scenes have no split {split!r}{nearest(split, SPLITS)}; "
                f"valid: {', '.join(SPLITS)}."
            )
        check_range("seed", seed, 0, 2**32 - 1)
        check_range("number of scenes", num_scenes, 1, 2**31 - 1)
        check_range("captions_per_scene", captions_per_scene, 1, 50)
        self.split = split
        self.seed = int(seed)
        self.num_scenes = int(num_scenes)
        self.captions_per_scene = int(captions_per_scene)
        super().__init__(
            name,
            {
                "version": VERSION,
                "split": split,
                "seed": self.seed,
                "num_scenes": self.num_scenes,
                "captions_per_scene": self.captions_per_scene,
            },
        )

    def place(self) -> str:
        """Returns what decides a scene besides its number; see `Source.place`."""
        return f"scenes {VERSION} {self.split} {self.seed}"

    def __len__(self) -> int:
        return self.num_scenes

    def scene(self, number: int) -> Scene:
        """Returns a scene, without its pixels."""
        return draw_scene(self.generator(number, _LAYOUT), self.split)

    def captions(self, number: int, scene: Scene | None = None) -> list[str]:
        """Returns the distinct captions of a scene, words separated by spaces."""
        scene = self.scene(number) if scene is None else scene
        generator = self.generator(number, _CAPTIONS)
        drawn = draw_captions(scene, self.captions_per_scene, generator)
        return [" ".join(words) for words in drawn]

    def oracle(self, number: int) -> SceneOracle:
        """Returns the oracle of a scene: the ceiling of metrics of its captions."""
        return SceneOracle(self.scene(number))

    def images(self) -> Iterator[base.ImageRecord]:
        """Yields the record of every scene, in ascending order of the numbers."""
        for number in range(self.num_scenes):
            scene = self.scene(number)
            yield base.ImageRecord(str(number), number, scene.height, scene.width)

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yields (image key, caption), in ascending order of the scenes' numbers."""
        for number in range(self.num_scenes):
            for caption in self.captions(number):
                yield str(number), caption

    def read(self, key: str) -> np.ndarray:
        """Returns the image of a scene, uint8 RGB [height, width, 3].

        Raises:
          InputError: the key is not the number of a scene.
        """
        if not key.isdecimal() or int(key) >= self.num_scenes:
            raise InputError(
                f"{self.name}: expected the number of a scene, 0 to "
                f"{self.num_scenes - 1}; received {key!r}."
            )
        number = int(key)
        return render(self.scene(number), self.generator(number, _PIXELS))

    def generator(self, number: int, stream: int) -> np.random.Generator:
        """Returns the generator of one random stream of a scene."""
        entropy = (self.seed, SPLITS.index(self.split), number, stream)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def check_range(what: str, value: Any, low: int, high: int) -> None:
    """Raises InputError unless an option is an integer from `low` to `high`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise InputError(
            f"scenes: {what} must be a whole number from {low} to {high}; "
            f"received {value!r}."
        )


def build(config: Mapping[str, Any], split: str, root: Path | None) -> ScenesSource:
    """Makes the source from one element of `config.data.corpora`.

    Args:
      config: fields seed, train_scenes, evaluate_scenes, captions_per_scene and name,
        all optional.
      split: "train" or "evaluate".
      root: not used.

    Raises:
      InputError: an unknown field or split, or a value out of range.
    """
    del root
    return make(ScenesSource, _OPTIONS, config, split)


def make(
    kind: type, options: Mapping[str, int], config: Mapping[str, Any], split: str
) -> Any:
    """Makes a source of rendered scenes; see `build`.

    Args:
      kind: ScenesSource or a subclass.
      options: default values of the options that only this class has.
      config: one element of `config.data.corpora`.
      split: "train" or "evaluate".
    """
    base.only(config, [], ["name", *_DEFAULTS, *options])
    values = {**_DEFAULTS, **options, **config}
    return kind(
        split=split,
        seed=values["seed"],
        # With the default, an unknown split reaches `kind`, which rejects it.
        num_scenes=values.get(f"{split}_scenes", _DEFAULTS["evaluate_scenes"]),
        **{name: values[name] for name in options},
        name=config.get("name") or "scenes",
    )
