"""Captions in the format of Karpathy's splits, such as `dataset_coco.json`.

{"images": [{"filename", "filepath" (optional), "imgid", "cocoid" (optional), "split",
"sentences": [{"raw", "sentid"}, ...]}, ...]}; other fields are ignored. There are such
files for COCO, Flickr30K and Flickr8K. The image sizes are read from the photos.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import base, files, numbers
from pixel_bert_jax.types import InputError

# "restval": all but 10,000 of COCO's validation images, commonly used for training.
SPLITS = {"train": ("train", "restval"), "evaluate": ("val",)}


class KarpathySource(files.JsonPhotos):
    """Images of some splits; an image's key is filepath/filename."""

    def __init__(
        self, name: str, annotations: Path, folder: Path, splits: Sequence[str]
    ):
        super().__init__(name, annotations, folder)
        self.splits = tuple(splits)
        self.identity = {**self.identity, "splits": list(self.splits)}

    def _parse(self) -> None:
        path = self.annotations[0]
        found: collections.Counter[str] = collections.Counter()
        keys: set[str] = set()
        homes: dict[Any, str] = {}  # split of each image
        sentences: set[int] = set()
        content = files.read_json(path)
        records = files.records(content, "images", path)
        at_flickr = str(content.get("dataset", "")).startswith("flickr")
        for n, image in enumerate(records):
            where = f"{path}, images[{n}]"
            if not _is_image(image):
                self.problems.add(
                    "broken image record (expected texts filename and split, an "
                    "integer imgid or cocoid, a list of sentences)",
                    f"{where}: {str(image)[:120]}",
                )
                continue
            split = image["split"]
            found[split] += 1
            key = str(Path(image.get("filepath") or "") / image["filename"])
            home = homes.setdefault(image.get("cocoid", key), split)
            if home != split:
                self.problems.add(
                    "image in two splits", f"{where}: {key}: {home}, {split}"
                )
                continue
            if split not in self.splits:
                continue
            if key in keys:
                self.problems.add("duplicate image", f"{where}: {key}")
                continue
            keys.add(key)
            coco_id = image.get("cocoid", numbers.coco_id(key))
            number = image.get("imgid", coco_id)
            of_flickr = numbers.flickr_id(key) if at_flickr else None
            self.listed.append(files.Listed(key, number, None, coco_id, of_flickr))
            self._add_sentences(key, image["sentences"], sentences, where)
        if not self.listed and not self.problems:
            counts = ", ".join(f"{split} ({n:,})" for split, n in found.items())
            raise InputError(
                f"{path}: no image of the splits {', '.join(self.splits)}; "
                f"it has {counts or 'none'}."
            )

    def _add_sentences(
        self, key: str, records: list[Any], seen: set[int], where: str
    ) -> None:
        for n, sentence in enumerate(records):
            if not files.has_integers(sentence, "sentid") or "raw" not in sentence:
                self.problems.add(
                    "broken sentence (expected an integer sentid and a text raw)",
                    f"{where}, sentences[{n}]: {str(sentence)[:120]}",
                )
                continue
            number = sentence["sentid"]
            if number in seen:
                self.problems.add("duplicate sentence id", f"{where}: sentid {number}")
            else:
                seen.add(number)
                self.add_caption(key, sentence["raw"], f"sentid {number}")


def build(config: Mapping[str, Any], split: str, root: Path | None) -> KarpathySource:
    """Makes the source from one element of `config.data.corpora`.

    Args:
      config: name; annotations: the JSON file; images: folder to which
        filepath/filename is relative (default: `root`); splits: names in the file of
        "train", "evaluate" and optionally "predict" (default: `SPLITS`);
        captions_per_image: see `files.AnnotatedPhotos` (default: all).
      split: "train", "evaluate" or "predict".
      root: folder to which relative paths are relative.

    Raises:
      InputError: a field or a file is missing, a field is unknown, or a split of the
        file is named for both training and evaluation.
    """
    base.only(
        config, ["name", "annotations"], ["images", "splits", "captions_per_image"]
    )
    source = KarpathySource(
        name=config["name"],
        annotations=files.resolve(config, "annotations", split, root),
        folder=files.resolve(config, "images", split, root, default="."),
        splits=files.split_names(config, split, SPLITS),
    )
    source.limit_captions(config.get("captions_per_image", 0))
    return source


def _is_image(image: Any) -> bool:
    return (
        isinstance(image, dict)
        and all(isinstance(image.get(f), str) for f in ("filename", "split"))
        and bool(image["filename"])
        and isinstance(image.get("filepath", ""), str)
        and isinstance(image.get("sentences"), list)
        and all(files.is_integer(image.get(f, 0)) for f in ("imgid", "cocoid"))
        and any(f in image for f in ("imgid", "cocoid"))
    )
