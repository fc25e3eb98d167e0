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

from pixel_bert_jax.data.sources import files
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
        found = _numbers(path, tuple(entry.get("splits", ())))
        coco |= found.coco
        flickr |= found.flickr
    return Excluded(frozenset(coco), frozenset(flickr))


def _numbers(path: Path, splits: Sequence[str]) -> Excluded:
    content = files.read_json(path)
    content = content if isinstance(content, dict) else {}
    questions, images = content.get("questions"), content.get("images")
    if questions and not splits:
        return Excluded(coco=_all(path, questions, "image_id"))
    if images and not splits and "id" in images[0]:
        return Excluded(coco=_all(path, images, "id"))
    if not images or "split" not in images[0]:
        raise InputError(
            f"data.exclude: {path} is no list of images with `split`, and "
            f"{'none' if splits else 'no list'} with numbers of COCO; received splits "
            f"{splits}"
        )
    there = {image.get("split") for image in images}
    for split in splits:
        if split not in there:
            raise InputError(
                f"data.exclude: {path} has no split {split!r}"
                f"{nearest(split, sorted(there))}; it has {', '.join(sorted(there))}"
            )
    chosen = [image for image in images if not splits or image["split"] in splits]
    if str(content.get("dataset", "")).startswith("flickr"):
        numbers = {files.flickr_id(image["filename"]) for image in chosen}
        return Excluded(flickr=frozenset(n for n in numbers if n is not None))
    return Excluded(coco=_all(path, chosen, "cocoid"))


def _all(path: Path, records: Sequence[Mapping[str, Any]], field: str) -> frozenset:
    for n, record in enumerate(records):
        if not files.has_integers(record, field):
            raise InputError(
                f"data.exclude: {path}: record {n} has no integer {field}: "
                f"{str(record)[:120]}"
            )
    return frozenset(record[field] for record in records)
