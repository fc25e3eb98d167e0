"""NLVR2's official json lines: a sentence, two images, True or False.

A line is {"identifier": "dev-850-0-1", "sentence", "label", ..., "directory"} and its
images are SPLIT-SET-PAIR-img0.png (left) and -img1.png (right), in a folder named by
"directory" where the line has one (training only). Copies that have all images of a
split in one folder are read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import base, files
from pixel_bert_jax.types import InputError

SIDES = ("img0", "img1")
LABELS = ("True", "False")


class Nlvr2Source(files.AnnotatedPhotos):
    """The examples of one file; an image's key is its path."""

    annotated = True
    images_per_text = 2

    def __init__(self, name: str, annotations: Path, folder: Path, labelled: bool):
        super().__init__(name, annotations, folder)
        self.labelled = labelled
        self.identity = {**self.identity, "labelled": labelled}
        self._found: list[tuple[tuple[str, str], str, dict[str, Any]]] | None = None

    def _listed(self) -> Iterator[files.Listed]:
        self._load()
        keys = dict.fromkeys(key for keys, *_ in self._found or () for key in keys)
        for number, key in enumerate(keys):
            yield files.Listed(key, number, None, None)

    def _texts(self) -> Iterator[tuple[tuple[str, str], str, dict[str, Any]]]:
        self._load()
        yield from self._found or ()

    def _load(self) -> None:
        if self._found is not None:
            return
        self._found = []
        path, seen = self.annotations[0], set()
        try:
            lines = path.read_text("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"Cannot read {path}: {error}.") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            fault, record = _read(line, self.labelled)
            if fault:
                self.problems.add(fault, f"{where}: {line.strip()[:120]}")
                continue
            name = record["identifier"]
            if name in seen:
                self.problems.add("repeated identifier", f"{where}: {name}")
                continue
            seen.add(name)
            if not self.is_caption(record["sentence"], f"line {number}"):
                continue
            stem = name.rpartition("-")[0]
            keys = tuple(self._key(record, f"{stem}-{side}.png") for side in SIDES)
            annotation = {"identifier": name}
            if self.labelled:
                annotation["label"] = record["label"]
            self._found.append((keys, record["sentence"], annotation))

    def _key(self, record: Mapping[str, Any], name: str) -> str:
        """Returns an image's path: in the line's "directory", or else without it."""
        if "directory" not in record:
            return name
        key = f"{record['directory']}/{name}"
        if not self.path(key).is_file() and self.path(name).is_file():
            return name
        return key


def build(config: Mapping[str, Any], split: str, root: Path | None) -> Nlvr2Source:
    """Makes the source from one element of `config.data.corpora`.

    Args:
      config: name; annotations: the file of each split; images: the folder of each
        split's images.
      split: "train", "evaluate" or "predict", of which the last needs no labels.
      root: what relative paths start from.

    Raises:
      InputError: a field or a file is missing, or a field is unknown.
    """
    base.only(config, ["name", "annotations", "images"], [])
    return Nlvr2Source(
        name=config["name"],
        annotations=files.resolve(config, "annotations", split, root),
        folder=files.resolve(config, "images", split, root),
        labelled=split != "predict",
    )


def _read(line: str, labelled: bool) -> tuple[str, dict[str, Any]]:
    """Returns what is wrong with a line ("" if nothing) and its record."""
    try:
        record = json.loads(line)
    except ValueError as error:
        return f"line that is no json ({error.args[0].split(':')[0]})", {}
    if not isinstance(record, dict):
        return "line that is no json object", {}
    name = record.get("identifier")
    if not isinstance(name, str) or name.count("-") != 3 or "sentence" not in record:
        return (
            "broken record (expected an identifier such as dev-850-0-1, a sentence)",
            {},
        )
    if labelled and record.get("label") not in LABELS:
        return "label that is neither 'True' nor 'False'", {}
    return "", record
