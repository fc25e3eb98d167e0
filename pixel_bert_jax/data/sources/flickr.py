"""Flickr8k and Flickr30k captions as published: a token file and lists of file names.

A line of `Flickr8k.token.txt` or `results_20130124.token` is "NAME.jpg#N", a tab and a
caption; a line of `Flickr_8k.trainImages.txt` is the name of an image, with or without
".jpg". Both may be compressed (.gz). The image sizes are read from the photos.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import base, files, numbers


class FlickrSource(files.AnnotatedPhotos):
    """Captions of the images of one list; an image's key is its file name.

    Attributes:
      others: lists of the other splits, which must not have the same images.
    """

    def __init__(
        self,
        name: str,
        tokens: Path,
        split_list: Path,
        folder: Path,
        others: Sequence[Path] = (),
    ):
        super().__init__(name, (tokens, split_list), folder)
        self.others = tuple(others)
        self._key_of: dict[str, str] = {}  # name without ".jpg" -> key

    def _listed(self) -> Iterator[files.Listed]:
        tokens, split_list = self.annotations
        # In the lists of Flickr30k the names have no ".jpg", unlike in the token file.
        known = {Path(name).stem: name for name, _, _ in self._lines()}
        elsewhere = {
            line.strip().removesuffix(".jpg"): path
            for path in self.others
            for _, line in _lines(path)
        }
        for number, line in _lines(split_list):
            name = line.strip()
            if not name:
                continue
            where = f"{split_list}, line {number}: {name!r}"
            stem = name.removesuffix(".jpg")
            if stem in self._key_of:
                self.problems.add("duplicate image", where)
            elif stem in elsewhere:
                self.problems.add(
                    "image in two splits", f"{where}, also in {elsewhere[stem]}"
                )
            elif stem not in known:
                self.problems.add(f"image without a caption in {tokens}", where)
            else:
                self._key_of[stem] = known[stem]
                yield files.Listed(
                    known[stem], number, None, None, numbers.flickr_id(stem)
                )

    def _texts(self) -> Iterator[tuple[str, str]]:
        for name, number, caption in self._lines(self.problems):
            key = self._key_of.get(Path(name).stem)
            if key and self.is_caption(caption, f"line {number}"):
                yield key, caption

    def _lines(
        self, problems: base.Problems | None = None
    ) -> Iterator[tuple[str, int, str]]:
        """Yields (file name, line number, caption); adds faults to `problems`."""
        for number, line in _lines(self.annotations[0]):
            head, tab, caption = line.rstrip("\n").partition("\t")
            name, mark, count = head.rpartition("#")
            if tab and mark and name and count.isdecimal():
                yield name, number, caption
            elif problems is not None and line.strip():
                problems.add(
                    "broken line (expected NAME.jpg#N, a tab, a caption)",
                    f"{self.annotations[0]}, line {number}: {line.strip()[:120]!r}",
                )


def build(config: Mapping[str, Any], split: str, root: Path | None) -> FlickrSource:
    """Makes the source from one element of `config.data.corpora`.

    Args:
      config: name; annotations: the token file; split_list: a list of images for each
        split, {"train": ..., "evaluate": ...}; images: the folder of the photos;
        captions_per_image: see `files.AnnotatedPhotos` (default: all).
      split: a key of split_list.
      root: folder to which relative paths are relative.

    Raises:
      InputError: a field or a file is missing, or a field is unknown.
    """
    fields = ["name", "annotations", "split_list", "images"]
    base.only(config, fields, ["captions_per_image"])
    lists = config["split_list"]
    others = [s for s in lists if s != split] if isinstance(lists, Mapping) else []
    source = FlickrSource(
        name=config["name"],
        tokens=files.resolve(config, "annotations", split, root),
        split_list=files.resolve(config, "split_list", split, root),
        folder=files.resolve(config, "images", split, root),
        others=[files.resolve(config, "split_list", s, root) for s in others],
    )
    source.limit_captions(config.get("captions_per_image", 0))
    return source


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    return files.lines(path, gzip.open if path.suffix == ".gz" else open)
