"""NLVR2's official JSON Lines files: a sentence, two images, True or False.

A line is {"identifier": "dev-850-0-1", "sentence", "label", ..., "directory"}. Its
images are SPLIT-SET-PAIR-img0.png (left) and -img1.png (right), in the subfolder
"directory" if the line has one (training only). They may also all be in one folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import base, files

SIDES = ("img0", "img1")
LABELS = ("True", "False")


class Nlvr2Source(files.JsonPhotos):
    """The examples of one file; an image's key is its path."""

    annotated = True
    images_per_text = 2

    def __init__(self, name: str, annotations: Path, folder: Path, labelled: bool):
        super().__init__(name, annotations, folder)
        self.labelled = labelled
        self.identity = {**self.identity, "labelled": labelled}

    def _parse(self) -> None:
        path, seen = self.annotations[0], set()
        for number, line in files.lines(path):
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
            self.captions.append((keys, record["sentence"], annotation))
        listed = dict.fromkeys(key for keys, *_ in self.captions for key in keys)
        self.listed = [files.Listed(k, n, None, None) for n, k in enumerate(listed)]

    def _key(self, record: Mapping[str, Any], name: str) -> str:
        """Returns an image's path, in the line's "directory" unless found without."""
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
      split: "train", "evaluate" or "predict"; the last needs no labels.
      root: folder to which relative paths are relative.

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
    """Returns ("", record) of a line, or (fault, {})."""
    fault, record = files.parse_line(line)
    if fault:
        return fault, {}
    name = record.get("identifier")
    if not isinstance(name, str) or name.count("-") != 3 or "sentence" not in record:
        return (
            "broken record (expected an identifier such as dev-850-0-1, a sentence)",
            {},
        )
    if labelled and record.get("label") not in LABELS:
        return "label that is neither 'True' nor 'False'", {}
    return "", record
