"""Visual Genome's region descriptions, as downloaded.

`image_data.json`: [{"image_id", "url", "width", "height", "coco_id", "flickr_id"},
...], the last two may be null; `region_descriptions.json`: [{"id", "regions":
[{"region_id", "image_id", "phrase", "x", "y", "width", "height"}, ...]}, ...]; other
fields are ignored. The photos are in two folders, `VG_100K` and `VG_100K_2`; the last
two parts of the URL give the path. Each phrase is a text of the whole photo, since
Pixel-BERT has no regions (arXiv 2004.00849, section 4.1).

The second file has 5.4 million regions in 0.7 GB and is read in one pass, without being
held in memory. Its known faults do not prevent the index from being built but are
reported: a region without a phrase or entirely outside its photo is left out, a region
partly outside is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ijson

from pixel_bert_jax.data.sources import base, files, numbers
from pixel_bert_jax.types import InputError


class VisualGenomeSource(files.AnnotatedPhotos):
    """Region descriptions; a key is "VG_100K/NUMBER.jpg" or "VG_100K_2/NUMBER.jpg".

    Attributes:
      entries: field of a record that lists its texts.
      left_out: the known faults, which do not prevent the index from being built.
    """

    entries = "regions"

    def __init__(self, name: str, texts: Path, sizes: Path, folder: Path):
        super().__init__(name, (texts, sizes), folder)
        self._photos: dict[int, tuple[str, int, int]] = {}
        self.left_out = base.Problems()

    def _listed(self) -> Iterator[files.Listed]:
        path = self.annotations[1]
        content = files.read_json(path)
        if not isinstance(content, list):
            raise InputError(f"{path}: expected a list of images, received no list.")
        for n, image in enumerate(content):
            where = f"{path}, [{n}]"
            if not _is_image(image):
                self.problems.add(
                    "broken image record (expected integers image_id, width, height, a "
                    "text url, an integer coco_id or null)",
                    f"{where}: {str(image)[:120]}",
                )
                continue
            number, height, width = image["image_id"], image["height"], image["width"]
            if number in self._photos:
                self.problems.add("duplicate image id", f"{where}: id {number}")
                continue
            key = "/".join(image["url"].split("/")[-2:])
            self._photos[number] = key, height, width
            yield files.Listed(
                key,
                number,
                (height, width),
                image["coco_id"],
                # A text in the official file, as other numbers are not.
                numbers.flickr_id(str(image.get("flickr_id") or "")),
            )

    def _texts(self) -> Iterator[tuple[str, str]]:
        for n, record in enumerate(_stream(self.annotations[0])):
            where = f"{self.annotations[0]}, [{n}]"
            if not _is_record(record, self.entries):
                self.problems.add(
                    f"broken record (expected an integer id and a list of "
                    f"{self.entries})",
                    f"{where}: {str(record)[:120]}",
                )
            elif record["id"] not in self._photos:
                if record[self.entries]:
                    self.problems.add(
                        f"{self.entries} of an image that is not listed",
                        f"{where}: image {record['id']}, not in {self.annotations[1]}",
                    )
            else:
                yield from self._of(record, where)
        if self.left_out:
            self.notes.append(str(self.left_out).replace("\n", "\n  "))

    def _of(self, record: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
        """Yields the texts of the photo of a record."""
        number = record["id"]
        key, height, width = self._photos[number]
        for n, region in enumerate(record["regions"]):
            if not _is_region(region):
                self.problems.add(
                    "broken region (expected integers region_id, x, y, width, height "
                    "and a phrase)",
                    f"{where}, regions[{n}]: {str(region)[:120]}",
                )
                continue
            what = f"{self.annotations[0]}, region_id {region['region_id']}, {key}"
            left, top = region["x"], region["y"]
            right, bottom = left + region["width"], top + region["height"]
            inside = left < width and top < height and right > 0 and bottom > 0
            if region["image_id"] != number:
                self.problems.add(
                    "region of another image", f"{what}: image_id {region['image_id']}"
                )
            elif isinstance(region["phrase"], str) and not region["phrase"].strip():
                self.left_out.add("region without text, left out", what)
            elif not inside:
                self.left_out.add(
                    "region outside its image, left out",
                    f"{what}: x {left} to {right} of {width}, y {top} to {bottom} of "
                    f"{height}",
                )
            elif self.is_caption(region["phrase"], f"region_id {region['region_id']}"):
                if left < 0 or top < 0 or right > width or bottom > height:
                    self.left_out.add("region that sticks out of its image, kept", what)
                yield key, region["phrase"]


def build(
    config: Mapping[str, Any],
    split: str,
    root: Path | None,
    kind: type[VisualGenomeSource] = VisualGenomeSource,
) -> VisualGenomeSource:
    """Makes the source from one element of `config.data.corpora`.

    Args:
      config: name; annotations: `region_descriptions.json`; sizes: `image_data.json`;
        images: the folder of `VG_100K` and `VG_100K_2`.
      split: "train"; the file has no splits (the paper trains on all of it).
      root: folder to which relative paths are relative.
      kind: class of the source.

    Raises:
      InputError: a field or a file is missing, or a field is unknown.
    """
    base.only(config, ["name", "annotations", "sizes", "images"], [])
    return kind(
        name=config["name"],
        texts=files.resolve(config, "annotations", split, root),
        sizes=files.resolve(config, "sizes", split, root),
        folder=files.resolve(config, "images", split, root),
    )


def _stream(path: Path) -> Iterator[Any]:
    """Yields the elements of a JSON list, one at a time."""
    with path.open("rb") as file:
        try:
            yield from ijson.items(file, "item", use_float=True)
        except ijson.JSONError as error:
            raise InputError(
                f"{path}: broken json near byte {file.tell():,}: "
                f"{str(error).splitlines()[0]}."
            ) from error


def _is_image(image: Any) -> bool:
    return (
        files.has_integers(image, "image_id", "height", "width")
        and image["height"] > 0
        and image["width"] > 0
        and isinstance(image.get("url"), str)
        and "/" in image["url"]
        and "coco_id" in image
        and (image["coco_id"] is None or files.is_integer(image["coco_id"]))
    )


def _is_record(record: Any, entries: str) -> bool:
    return files.has_integers(record, "id") and isinstance(record.get(entries), list)


def _is_region(region: Any) -> bool:
    integers = ("region_id", "image_id", "x", "y", "width", "height")
    return files.has_integers(region, *integers) and "phrase" in region
