"""Photos that no training may see: those of given splits of published lists.

`config.data.exclude` lists files with the splits that are meant:

    ({"file": "coco/annotations/dataset_coco.json", "splits": ("val", "test")},
     {"file": "vqa/v2_OpenEnded_mscoco_test2015_questions.json"})

A file is one of Karpathy's (COCO, Flickr30k, Flickr8k), of COCO (`images` with `id`) or
of VQA (`questions` with `image_id`). Photos are known by their numbers at COCO and at
Flickr, which Visual Genome gives for its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import files, numbers
from pixel_bert_jax.data.sources.base import Excluded
from pixel_bert_jax.types import InputError, nearest

FIELDS = ("file", "splits")


def load(entries: Sequence[Mapping[str, Any]], root: Path | None) -> Excluded:
    """Returns the photos that `config.data.exclude` names.

    Args:
      entries: the field's value.
      root: folder to which files are relative.

    Raises:
      InputError: a file is missing or of another form, has none of the splits, or an
        entry has an unknown field.
    """
    coco: set[int] = set()
    flickr: set[int] = set()
    for entry in entries:
        for field in entry:
            if field not in FIELDS:
                raise InputError(
                    f"data.exclude has no field {field!r}{nearest(field, FIELDS)}; "
                    f"valid: {', '.join(FIELDS)}"
                )
        if not isinstance(entry.get("file"), str):
            raise InputError(f"data.exclude needs a file; received {dict(entry)}")
        path = (root or Path()) / Path(entry["file"]).expanduser()
        if not path.is_file():
            raise InputError(f"data.exclude: {path} is missing")
        splits = entry.get("splits", ())
        splits = (splits,) if isinstance(splits, str) else tuple(splits)
        found = _numbers(path, splits)
        coco |= found.coco
        flickr |= found.flickr
    return Excluded(frozenset(coco), frozenset(flickr))


def _numbers(path: Path, splits: Sequence[str]) -> Excluded:
    content = files.read_json(path)
    content = content if isinstance(content, dict) else {}
    questions, images = content.get("questions"), content.get("images")
    if questions and not splits:
        return Excluded(coco=_all(path, questions, "image_id"))
    if images and not splits and not _have(images, "split"):
        return Excluded(coco=_all(path, images, "id"))
    if not _have(images, "split"):
        raise InputError(
            f"data.exclude: {path} is no list of images that each have a split; splits "
            f"are {splits}, give none for a file of COCO or VQA"
        )
    there = {str(image["split"]) for image in images}
    for split in splits:
        if split not in there:
            raise InputError(
                f"data.exclude: {path} has no split {split!r}"
                f"{nearest(split, sorted(there))}; it has {', '.join(sorted(there))}"
            )
    chosen = [image for image in images if not splits or image["split"] in splits]
    if str(content.get("dataset", "")).startswith("flickr"):
        found = {numbers.flickr_id(str(image.get("filename"))) for image in chosen}
        if None in found:
            raise InputError(
                f"data.exclude: {path}: images without a filename that begins with "
                "their number at Flickr"
            )
        return Excluded(flickr=frozenset(found))
    return Excluded(coco=_all(path, chosen, "cocoid"))


def _have(records: Any, field: str) -> bool:
    """Returns whether there are records and all have a field."""
    return (
        isinstance(records, list)
        and bool(records)
        and all(isinstance(record, dict) and field in record for record in records)
    )


def _all(path: Path, records: Any, field: str) -> frozenset[int]:
    """Returns a field of all records.

    Raises:
      InputError: not a list of records with that integer; names the first.
    """
    if not isinstance(records, list):
        raise InputError(f"data.exclude: {path}: expected a list of records")
    for n, record in enumerate(records):
        if not files.has_integers(record, field):
            raise InputError(
                f"data.exclude: {path}: record {n} has no integer {field}: "
                f"{str(record)[:120]}"
            )
    return frozenset(record[field] for record in records)
