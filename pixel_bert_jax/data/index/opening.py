"""Opens an index, building it if needed, and checks that it fits the sources."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.index import build as index_build
from pixel_bert_jax.data.index import faults
from pixel_bert_jax.data.index.blocks import REBUILD
from pixel_bert_jax.data.index.index import HEADER_FILE, Index
from pixel_bert_jax.data.sources.base import Source
from pixel_bert_jax.types import InputError

SPOT_CHECK = 8
"""Number of images, and of texts, of a generated source compared at every opening."""


def is_index(folder: Path) -> bool:
    """Returns whether there is an index, which may be of other data or damaged."""
    return (folder / HEADER_FILE).is_file()


def build_or_open(
    sources: Sequence[Source],
    tokenizer: Any,
    max_text_length: int,
    folder: str | Path,
    *,
    rebuild: bool = False,
    on_bad_image: str = "error",
    bad_image_budget: float = 0.0,
) -> Index:
    """Opens the index in `folder`, building it first if there is none.

    Args:
      sources: the corpora, in order.
      tokenizer: a `text.WordPiece`.
      max_text_length: greatest number of tokens of a text, [CLS] and [SEP] included.
      folder: folder of the index; it and its parents are created if needed.
      rebuild: replace an index that is there.
      on_bad_image: what to do with images whose file is missing, or is found broken
        without decoding it: "error" builds no index, "skip" leaves them out with their
        texts. An index without such images can be opened with either.
      bad_image_budget: greatest share of all images that may be left out.

    Raises:
      InputError: the annotations are faulty (all faults are in one message), or the
        existing index is damaged or was built from other files, with another tokenizer
        or with other options.
      BadImageBudgetError: more images are missing or broken than the budget allows.
    """
    folder = Path(folder).expanduser()
    if rebuild or not is_index(folder):
        index_build.build(
            sources,
            tokenizer,
            max_text_length,
            folder,
            replace=rebuild,
            on_bad_image=on_bad_image,
            bad_image_budget=bad_image_budget,
        )
    index = Index(folder, sources)
    _check_same(index, sources, tokenizer, max_text_length)
    index.verify()
    _check_generated(index)
    if index.left_out and on_bad_image == "error":
        text = f"{len(index.left_out):,} images left out, now data.on_bad_image='error'"
        _refuse(index, [f"bad images: built with {text}"])
    kept = len(index.sizes)
    faults.check_budget(index.left_out, kept, index.corpora, bad_image_budget)
    faults.warn(index)
    return index


def _check_same(
    index: Index,
    sources: Sequence[Source],
    tokenizer: Any,
    max_text_length: int,
) -> None:
    """Compares an opened index with the arguments of `build_or_open`.

    Raises:
      InputError: they differ; all differences are in one message.
    """
    header, differences = index.header, []

    def compare(what: str, built: Any, asked: Any) -> None:
        if built != asked:
            differences.append(f"{what}: built with {built}, now {asked}")

    compare("corpora", header["corpora"], [source.name for source in sources])
    compare("max_text_length", header["max_text_length"], max_text_length)
    compare("tokenizer", header["tokenizer"][:12], tokenizer.fingerprint[:12])
    if not differences:
        for built, asked in zip(
            header["identities"], index_build.identities(sources), strict=True
        ):
            for name in sorted({*built, *asked}):
                compare(f"{name} of a source", built.get(name), asked.get(name))
        for built, asked in itertools.zip_longest(
            header["files"], index_build.stat_files(sources), fillvalue={}
        ):
            compare("annotation file", built, asked)
    _refuse(index, differences)


def _check_generated(index: Index) -> None:
    """Compares an undamaged index with what its generated sources give now.

    Raises:
      InputError: they differ.
    """
    differences = [
        f"{source.name}: it now generates other scenes"
        for c, source in enumerate(index.sources)
        if not source.files() and not _spot_check(index, c, source)
    ]
    _refuse(index, differences)


def _refuse(index: Index, differences: Sequence[str]) -> None:
    if differences:
        raise InputError(
            f"Index {index.folder} does not fit the data; {REBUILD}.\n  "
            + "\n  ".join(differences)
        )


def _spot_check(index: Index, c: int, source: Source) -> bool:
    """Returns whether a generated source still gives the first records of its index.

    A new version of its code may generate others, and there is no file to compare.
    """
    first = index.header["image_rows"][c][0]
    for row, record in enumerate(itertools.islice(source.images(), SPOT_CHECK), first):
        size = (record.height, record.width)
        if (index.key(row), tuple(index.sizes[row])) != (record.key, size):
            return False
    texts = itertools.islice(source.texts(), SPOT_CHECK)
    for row, (images, text, *annotation) in enumerate(texts):
        key = images if isinstance(images, str) else images[0]
        stored = (index.key(index.text_image(c)[row]), index.caption(c, row))
        if stored != (key, text):
            return False
        if annotation and index.annotation(c, row) != annotation[0]:
            return False
    return True
