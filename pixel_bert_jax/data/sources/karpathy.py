"""Captions in the layout of Karpathy's splits, such as `dataset_coco.json`.

{"images": [{"filename", "filepath" (optional), "imgid", "cocoid" (optional), "split",
"sentences": [{"raw", "sentid"}, ...]}, ...]}, other fields ignored. COCO, Flickr30K and
Flickr8K are published so. The layout has no image sizes: they are read from the files.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import base, files
from pixel_bert_jax.types import InputError

# "restval": COCO's validation images beyond 5,000 + 5,000, customarily trained on.
SPLITS = {"train": ("train", "restval"), "evaluate": ("val",)}


class KarpathySource(files.JsonPhotos):
    """Images of some splits; a key is filepath/filename."""

    def __init__(
        self, name: str, annotations: Path, folder: Path, splits: Sequence[str]
    ):
        super().__init__(name, annotations, folder)
        self.splits = tuple(splits)
        self.identity = {**self.identity, "splits": list(self.splits)}

    def _parse(self, content: Any, path: str) -> None:
        found: collections.Counter[str] = collections.Counter()
        keys: set[str] = set()
        homes: dict[Any, str] = {}  # of every image: its split
        sentences: set[int] = set()
        for n, image in enumerate(files.records(content, "images", path)):
            where = f"images[{n}]"
            if not _is_image(image):
                self.problems.add(
                    "broken image record (expected texts filename and split, an "
                    "integer imgid or cocoid, a list of sentences)",
                    f"{path}, {where}: {str(image)[:120]}",
                )
                continue
            split = image["split"]
            found[split] += 1
            key = str(Path(image.get("filepath") or "") / image["filename"])
            home = homes.setdefault(image.get("cocoid", key), split)
            if home != split:
                self.problems.add(
                    "image in two splits", f"{path}, {where}: {key}: {home}, {split}"
                )
                continue
            if split not in self.splits:
                continue
            if key in keys:
                self.problems.add("duplicate image", f"{path}, {where}: {key}")
                continue
            keys.add(key)
            coco_id = image.get("cocoid", files.coco_id(key))
            number = image.get("imgid", coco_id)
            self.listed.append(files.Listed(key, number, None, coco_id))
            self._add_sentences(key, image["sentences"], sentences, path, where)
        if not self.listed and not self.problems:
            counts = ", ".join(f"{split} ({n:,})" for split, n in found.items())
            raise InputError(
                f"{path}: no image of the splits {', '.join(self.splits)}; "
                f"it has {counts or 'none'}."
            )

    def _add_sentences(
        self, key: str, records: list[Any], seen: set[int], path: str, where: str
    ) -> None:
        for n, sentence in enumerate(records):
            number = sentence.get("sentid") if isinstance(sentence, dict) else None
            if not files.is_integer(number) or "raw" not in sentence:
                self.problems.add(
                    "broken sentence (expected an integer sentid and a text raw)",
                    f"{path}, {where}, sentences[{n}]: {str(sentence)[:120]}",
                )
            elif number in seen:
                self.problems.add(
                    "duplicate sentence id",
                    f"{path}, {where}: sentid {number}",
                )
            else:
                seen.add(number)
                self.add_caption(key, sentence["raw"], f"sentid {number}")


def build(config: Mapping[str, Any], split: str, root: Path | None) -> KarpathySource:
    """Makes the source from one element of `config.data.corpora`.

    Args:
      config: name; annotations: the json file; images: folder that filepath/filename
        is relative to (default: the root); splits: names of the file's splits for
        "train", "evaluate" and perhaps "predict" (default: `SPLITS`);
        captions_per_image: see `files.AnnotatedPhotos` (default: all).
      split: "train", "evaluate" or "predict".
      root: what relative paths start from.

    Raises:
      InputError: a field or a file is missing, a field is unknown, or an image would
        be both trained on and evaluated.
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
