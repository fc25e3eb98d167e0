"""One's own photos: a text file with a json object a line, an image each.

    {"image": "photos/1.jpg", "texts": ["a dog", "a brown dog runs"]}

"image" is a path relative to the folder of the photos; "texts" are its captions.
Optional: "split" ("train", "evaluate" or any other name); "height" and "width" in
pixels, compared with the photo's own; "coco_id" for a photo of COCO, which is then the
same picture in every corpus. Any other field is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import base, files
from pixel_bert_jax.types import InputError, nearest

FIELDS = ("image", "texts", "split", "height", "width", "coco_id")


class JsonLinesSource(files.AnnotatedPhotos):
    """The images of a file, or those of one split; a key is an image's path."""

    def __init__(self, name: str, annotations: Path, folder: Path, split: str):
        super().__init__(name, annotations, folder)
        self.split = split
        self.identity = {**self.identity, "split": split}

    def _listed(self) -> Iterator[files.Listed]:
        seen: set[str] = set()
        for number, image in self._records(self.problems):
            if image["image"] in seen:
                where = f"{self.annotations[0]}, line {number}: {image['image']}"
                self.problems.add("duplicate image", where)
                continue
            seen.add(image["image"])
            size = (image["height"], image["width"]) if "height" in image else None
            yield files.Listed(image["image"], number, size, image.get("coco_id"))
        if not seen and not self.problems:
            raise InputError(
                f"{self.annotations[0]}: no image"
                + (f" of the split {self.split!r}." if self.split else ".")
            )

    def _texts(self) -> Iterator[tuple[str, str]]:
        for number, image in self._records(None):
            for n, text in enumerate(image["texts"]):
                if self.is_caption(text, f"line {number}, texts[{n}]"):
                    yield image["image"], text

    def _records(
        self, problems: base.Problems | None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (line number, record) of this split; reports the others' faults."""
        path = self.annotations[0]
        try:
            with path.open(encoding="utf-8-sig", newline="\n") as file:
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    fault, image = _read(line)
                    if fault:
                        if problems is not None:
                            where = f"{path}, line {number}: {line.strip()[:120]}"
                            problems.add(fault, where)
                    elif not self.split or image.get("split") == self.split:
                        yield number, image
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"Cannot read {path}: {error}.") from error


def build(config: Mapping[str, Any], split: str, root: Path | None) -> JsonLinesSource:
    """Makes the source from one element of `config.data.corpora`.

    Args:
      config: name; annotations: the file, or one for each split; images: the folder of
        the photos (default: the root); splits: the name that "split" has in the file
        for each split, {"train": ..., "evaluate": ...} (default: all lines).
      split: "train" or "evaluate".
      root: what relative paths start from.

    Raises:
      InputError: a field or a file is missing, or a field is unknown.
    """
    base.only(config, ["name", "annotations"], ["images", "splits"])
    splits = config.get("splits") or {"train": "", "evaluate": ""}
    if split not in splits:
        raise InputError(
            f"Corpus {config['name']!r}: splits has none for {split!r}, received "
            f"{dict(splits)}."
        )
    return JsonLinesSource(
        name=config["name"],
        annotations=files.resolve(config, "annotations", split, root),
        folder=files.resolve(config, "images", split, root, default="."),
        split=splits[split],
    )


def _read(line: str) -> tuple[str, dict[str, Any]]:
    """Returns what is wrong with a line ("" if nothing) and its record."""
    try:
        image = json.loads(line)
    except ValueError as error:
        return f"line that is no json ({error.args[0].split(':')[0]})", {}
    if not isinstance(image, dict):
        return "line that is no json object", {}
    for field in image:
        if field not in FIELDS:
            return f"unknown field {field!r}{nearest(field, FIELDS)}", {}
    numbers = [f for f in ("height", "width", "coco_id") if f in image]
    sides = [f for f in ("height", "width") if f in image]
    if (
        not isinstance(image.get("image"), str)
        or not image["image"]
        or not isinstance(image.get("texts"), list)
        or not isinstance(image.get("split", ""), str)
        or not all(files.is_integer(image[f]) for f in numbers)
        or not all(image[f] > 0 for f in sides)
        or len(sides) == 1
    ):
        return (
            "broken record (expected a text image, a list texts; a text split, "
            "integers height and width above 0, an integer coco_id)"
        ), {}
    return "", image
