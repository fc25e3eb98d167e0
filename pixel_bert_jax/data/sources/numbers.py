"""Numbers of photos at COCO and Flickr, as the names of their files have them."""

from __future__ import annotations

import re
from pathlib import Path

# COCO names its files 000000000139.jpg or COCO_val2014_000000000139.jpg.
_COCO_NAME = re.compile(r"(?:^|.*_)(\d{12})$")


def flickr_id(file_name: str) -> int | None:
    """Returns the number of a photo at Flickr, with which its file's name begins.

    Numbers have five digits (Flickr30k's 36979.jpg) to eleven so far; shorter ones are
    likely to count a folder's files.
    """
    number = Path(file_name).stem.partition("_")[0]
    return int(number) if number.isdecimal() and 5 <= len(number) <= 15 else None


def coco_id(file_name: str) -> int | None:
    """Returns COCO's number of a photo from its file name, None if it has none."""
    match = _COCO_NAME.match(Path(file_name).stem)
    return int(match[1]) if match else None
