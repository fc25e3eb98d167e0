"""Captions in COCO's official JSON format, such as `captions_train2014.json`.

{"images": [{"id", "file_name", "height", "width"}, ...],
 "annotations": [{"id", "image_id", "caption"}, ...]}; other fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import base, files, numbers


class CocoSource(files.JsonPhotos):
    """COCO captions; an image's key is its `file_name`."""

    def _parse(self) -> None:
        path = self.annotations[0]
        content = files.read_json(path)
        key_of_id: dict[int, str] = {}
        for n, image in enumerate(files.records(content, "images", path)):
            where = f"{path}, images[{n}]"
            if not _is_image(image):
                self.problems.add(
                    "broken image record (expected integers id, height, width and a "
                    "text file_name)",
                    f"{where}: {str(image)[:120]}",
                )
                # Known by its id, so that its captions are not reported as well.
                if files.has_integers(image, "id"):
                    key_of_id.setdefault(image["id"], "")
                continue
            key, number = image["file_name"], image["id"]
            if number in key_of_id:
                self.problems.add("duplicate image id", f"{where}: id {number}")
                continue
            key_of_id[number] = key
            # Other corpora use this format with their own ids: it is a photo of COCO
            # only if the name of the file contains the id.
            coco_id = number if numbers.coco_id(key) == number else None
            size = image["height"], image["width"]
            self.listed.append(files.Listed(key, number, size, coco_id))
        seen: set[int] = set()
        annotations = files.records(content, "annotations", path)
        for n, annotation in enumerate(annotations):
            where = f"{path}, annotations[{n}]"
            if not _is_annotation(annotation):
                self.problems.add(
                    "broken annotation (expected integers id and image_id, a caption)",
                    f"{where}: {str(annotation)[:120]}",
                )
                continue
            number, image_id = annotation["id"], annotation["image_id"]
            if number in seen:
                self.problems.add("duplicate annotation id", f"{where}: id {number}")
            elif image_id not in key_of_id:
                self.problems.add(
                    "caption of an image that is not listed",
                    f"{where}: id {number}, image_id {image_id}",
                )
            elif key := key_of_id[image_id]:
                self.add_caption(key, annotation["caption"], f"annotation id {number}")
            seen.add(number)


def build(config: Mapping[str, Any], split: str, root: Path | None) -> CocoSource:
    """Makes the source from one element of `config.data.corpora`.

    Args:
      config: name; annotations: the JSON file; images: folder to which `file_name` is
        relative. Both may give a path for each split.
      split: "train" or "evaluate".
      root: folder to which relative paths are relative.

    Raises:
      InputError: a field or a file is missing, or a field is unknown.
    """
    base.only(config, ["name", "annotations", "images"], [])
    return CocoSource(
        name=config["name"],
        annotations=files.resolve(config, "annotations", split, root),
        folder=files.resolve(config, "images", split, root),
    )


def _is_image(image: Any) -> bool:
    return (
        files.has_integers(image, "id", "height", "width")
        and image["height"] > 0
        and image["width"] > 0
        and isinstance(image.get("file_name"), str)
        and bool(image["file_name"])
    )


def _is_annotation(annotation: Any) -> bool:
    return files.has_integers(annotation, "id", "image_id") and "caption" in annotation
