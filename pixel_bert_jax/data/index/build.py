"""Builds an index in one pass over all sources; all faults are reported together."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from pixel_bert_jax.data import durable
from pixel_bert_jax.data.index.blocks import Block, Ragged
from pixel_bert_jax.data.index.faults import BROKEN, Unknown, check_budget, raise_if_any
from pixel_bert_jax.data.index.index import FORMAT, HEADER_FILE, header_checksum
from pixel_bert_jax.data.sources.base import MISSING, ImageRecord, Problems, Source
from pixel_bert_jax.types import InputError

CHUNK = 4096
"""Number of texts tokenised at once: enough to use all threads of the tokenizer."""


class _Builder:
    """Fills the blocks of one index from its sources, corpus by corpus."""

    def __init__(
        self, folder: Path, tokenizer: Any, max_text_length: int, *, skip: bool
    ):
        self._folder = folder
        self._skip = skip
        self._tokenizer = tokenizer
        self._max_text_length = max_text_length
        self._token_dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
        self._sizes = Block(folder, "sizes", "int32", columns=2)
        self._image_ids = Block(folder, "image_ids", "int32")
        self._image_corpus = Block(folder, "image_corpus", "int32")
        self._keys = Ragged(folder, "keys", "key_offsets", "uint8")
        self._blocks = [
            *(self._sizes, self._image_ids, self._image_corpus),
            *(self._keys.data, self._keys.offsets),
        ]
        self._coco_ids = Block(folder, "coco_ids", "int64")
        self._flickr_ids = Block(folder, "flickr_ids", "int64")
        self._image_id_of: dict[tuple[Any, ...], int] = {}
        self._coco_sizes: dict[int, tuple[str, int, int]] = {}
        self._scaled = Problems()  # of the current corpus
        self._unusable: dict[str, str] = {}  # key -> reason, of the current corpus
        self._excluded: set[str] = set()  # keys, of the current corpus
        self.problems = Problems()
        self.image_rows: list[tuple[int, int]] = []  # first and last + 1, by corpus
        self.truncated: dict[str, int] = {}
        self.left_out: list[tuple[int, str, str]] = []  # corpus, key, reason
        self.texts_left_out: dict[str, int] = {}
        self.excluded: dict[str, tuple[int, int]] = {}  # images and texts
        self.unknown: dict[str, dict[str, Any]] = {}

    def add(self, c: int, source: Source) -> str:
        """Adds corpus c and returns a summary of it, with notes on further lines."""
        self._scaled = Problems()
        row_of_key = self._add_images(c, source)
        texts, described = self._add_texts(c, source, row_of_key)
        self.problems.update(source.problems)
        if not source.problems and not texts:
            self.problems.add(
                "corpus without a text", f"{source.name}: {len(row_of_key)} images"
            )
        report = f"{source.name}: {len(row_of_key):,} images, {texts:,} texts"
        if truncated := self.truncated[source.name]:
            report += f", {truncated:,} cut to {self._max_text_length} tokens"
        if bare := len(row_of_key) - described:
            report += f", {bare:,} images without a text left out"
        if unknown := self.unknown[source.name]["tokens"]:
            report += f", {unknown:,} tokens unknown"
        if source.name in self.excluded:
            images, number = self.excluded[source.name]
            report += f", {images:,} images and {number:,} texts excluded"
        return "\n  ".join([report, *source.notes, *str(self._scaled).splitlines()])

    def finish(self) -> dict[str, Any]:
        """Completes the blocks; returns their entries for the header."""
        if self.left_out:
            block = Ragged(self._folder, "left_out", "left_out_offsets", "uint8")
            block.extend_strings(json.dumps(entry) for entry in self.left_out)
            self._blocks += [block.data, block.offsets]
        return {block.name: block.finish() for block in self._blocks}

    def finish_beside(self) -> dict[str, Any]:
        """Completes the blocks that are not part of the index's fingerprint."""
        beside = self._coco_ids, self._flickr_ids
        return {block.name: block.finish() for block in beside}

    def _add_images(self, c: int, source: Source) -> dict[str, int]:
        """Adds the images of corpus c; returns {key: row}."""
        problems = source.problems
        first = self.image_rows[-1][1] if self.image_rows else 0
        row_of_key: dict[str, int] = {}
        sizes, image_ids, coco_ids, flickr_ids = [], [], [], []
        self._unusable, self._excluded = {}, set()
        for record in _progress(source.images(), f"{source.name} images"):
            if record.key in row_of_key or record.key in self._unusable:
                problems.add("duplicate image", f"{source.name}: {record.key}")
                continue
            if source.excluded.has(record):
                self._excluded.add(record.key)
                continue
            if record.fault and self._skip:
                self._unusable[record.key] = record.fault
                continue
            if record.fault:
                where = str(source.path(record.key) or record.key)
                if record.fault == MISSING:
                    problems.add(MISSING, where)
                else:
                    problems.add(BROKEN, f"{where}: {record.fault}")
            row_of_key[record.key] = first + len(row_of_key)
            sizes.append((record.height, record.width))
            # A COCO photo has the same image id in all corpora.
            coco_id = record.coco_id
            identity = (c, record.key) if coco_id is None else ("coco", coco_id)
            image_ids.append(
                self._image_id_of.setdefault(identity, len(self._image_id_of))
            )
            coco_ids.append(-1 if coco_id is None else coco_id)
            flickr_ids.append(-1 if record.flickr_id is None else record.flickr_id)
            if coco_id is not None and not record.fault:
                self._compare_shape(source, record)
        self.left_out += [(c, key, why) for key, why in self._unusable.items()]
        self._sizes.append(np.array(sizes, np.int32).reshape(-1, 2))
        self._image_ids.append(image_ids)
        self._coco_ids.append(coco_ids)
        self._flickr_ids.append(flickr_ids)
        self._image_corpus.append(np.full(len(image_ids), c))
        self._keys.extend_strings(row_of_key)
        self.image_rows.append((first, first + len(row_of_key)))
        return row_of_key

    def _compare_shape(self, source: Source, record: ImageRecord) -> None:
        """Compares the size of a COCO photo with its size in earlier corpora.

        A photo that was scaled is noted. One of another shape is a fault: it is another
        image, or its COCO number is wrong.
        """
        name = source.name
        where, height, width = self._coco_sizes.setdefault(
            record.coco_id, (name, record.height, record.width)
        )
        wide, high = record.width * height, record.height * width
        # Each side was rounded to whole pixels, by up to half a pixel in either corpus.
        same_shape = abs(wide - high) <= max(height, width, record.height, record.width)
        if same_shape and (height, width) == (record.height, record.width):
            return
        text = (
            f"COCO's photo {record.coco_id}: {width}x{height} (width x height) in "
            f"{where}, {record.width}x{record.height} in {name} ({record.key})"
        )
        if same_shape:
            self._scaled.add("image of two sizes, each used as it is", text)
        else:
            source.problems.add("image of two shapes", text)

    def _add_texts(
        self, c: int, source: Source, row_of_key: dict[str, int]
    ) -> tuple[int, int]:
        """Adds the texts of corpus c; returns their number and that of their images."""
        problems = source.problems
        folder, total, truncated, left_out, excluded = self._folder, 0, 0, 0, 0
        unknown = Unknown(self._tokenizer)
        columns = source.images_per_text if source.images_per_text > 1 else 0
        text_image = Block(folder, f"text_image.{c}", "int64", columns)
        tokens = Ragged(folder, f"tokens.{c}", f"token_offsets.{c}", self._token_dtype)
        captions = Ragged(folder, f"captions.{c}", f"caption_offsets.{c}", "uint8")
        self._blocks += [text_image, tokens.data, tokens.offsets]
        self._blocks += [captions.data, captions.offsets]
        annotations = None
        if source.annotated:
            names = f"annotations.{c}", f"annotation_offsets.{c}"
            annotations = Ragged(folder, *names, "uint8")
            self._blocks += [annotations.data, annotations.offsets]
        described: set[int] = set()
        texts = _progress(source.texts(), f"{source.name} texts")
        for chunk in _chunks(texts, CHUNK):
            known = []
            for images, text, *annotation in chunk:
                keys = (images,) if isinstance(images, str) else images
                if all(key in row_of_key for key in keys):
                    known.append((keys, text, *annotation))
                elif any(key in self._excluded for key in keys):
                    excluded += 1
                elif all(key in row_of_key or key in self._unusable for key in keys):
                    left_out += 1
                else:
                    problems.add(
                        "text of an image that is not listed",
                        f"{source.name}: image {images!r}, text {text[:60]!r}",
                    )
            if not known:
                continue
            rows = [[row_of_key[key] for key in keys] for keys, *_ in known]
            encoded, cut = self._tokenizer.encode(
                [text for _, text, *_ in known], self._max_text_length
            )
            for (keys, text, *_), ids in zip(known, encoded, strict=True):
                if len(ids) <= 2:  # [CLS] [SEP]: there is no token to mask
                    problems.add(
                        "text without a single token",
                        f"{source.name}: image {keys[0]!r}, text {text[:60]!r}",
                    )
            unknown.add([text for _, text, *_ in known], encoded)
            text_image.append(rows)
            tokens.extend(encoded)
            captions.extend_strings(text for _, text, *_ in known)
            if annotations is not None:
                annotations.extend_strings(json.dumps(x) for *_, x in known)
            described.update(itertools.chain.from_iterable(rows))
            total, truncated = total + len(known), truncated + cut
        self.truncated[source.name] = truncated
        self.texts_left_out[source.name] = left_out
        if self._excluded:
            self.excluded[source.name] = len(self._excluded), excluded
        self.unknown[source.name] = unknown.entry()
        return total, len(described)


def build(
    sources: Sequence[Source],
    tokenizer: Any,
    max_text_length: int,
    folder: Path,
    *,
    replace: bool = False,
    on_bad_image: str = "error",
    bad_image_budget: float = 0.0,
) -> None:
    """Builds an index in `folder`, which appears there complete or not at all.

    Args:
      sources, tokenizer, max_text_length, folder, on_bad_image, bad_image_budget: see
        `opening.build_or_open`.
      replace: replace the index that is there.

    Raises:
      InputError: the annotations are faulty; all faults are in one message.
      BadImageBudgetError: more images are missing or broken than the budget allows.
    """
    skip = on_bad_image == "skip"
    names = [source.name for source in sources]
    _check_names(names)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        builder = _Builder(work, tokenizer, max_text_length, skip=skip)
        # Before any file is read, so that a change meanwhile is detected at opening.
        files = stat_files(sources)
        report = [builder.add(c, source) for c, source in enumerate(sources)]
        blocks = builder.finish()
        raise_if_any(builder.problems)
        kept = builder.image_rows[-1][1]
        check_budget(builder.left_out, kept, names, bad_image_budget)
        header = {
            "format": FORMAT,
            "corpora": names,
            "identities": identities(sources),
            "files": files,
            "tokenizer": tokenizer.fingerprint,
            "pad_id": int(tokenizer.pad_id),
            "max_text_length": max_text_length,
            "image_rows": builder.image_rows,
            "truncated": builder.truncated,
            "blocks": blocks,
            "blocks_beside": builder.finish_beside(),
            "upright": [source.upright for source in sources],
            "unknown": builder.unknown,
            "texts_left_out": builder.texts_left_out,
            "excluded": builder.excluded,
        }
        # Without the entries that were added to format 1 later, so that the fingerprint
        # of an index does not change.
        content = ("corpora", "tokenizer", "max_text_length", "image_rows", "blocks")
        header["fingerprint"] = header_checksum(
            {name: header[name] for name in content}
        )
        header["checksum"] = header_checksum(header)
        durable.write(work / HEADER_FILE, json.dumps(header, indent=1).encode())
        os.chmod(work, 0o755)  # mkdtemp's 0o700 would hide it from other users
        _publish(work, folder, replace)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"Index {folder}", *report, sep="\n  ", file=sys.stderr, flush=True)


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise InputError("Expected at least one corpus in config.data.corpora, got 0.")
    if len(set(names)) != len(names):
        raise InputError(f"Expected corpora of different names, received {names}.")
    if len(names) > 255:  # the plan has 8 bits for the corpus in an example id
        raise InputError(f"Expected at most 255 corpora, received {len(names)}.")


def identities(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Returns what besides files decides each source's content, as JSON values."""
    # Through JSON and back, because it is compared with that of a header.
    return [json.loads(json.dumps(dict(source.identity))) for source in sources]


def stat_files(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Returns path, size (bytes) and modification time (ns) of all annotation files.

    Raises:
      InputError: one is missing or unreadable.
    """
    entries = []
    for source in sources:
        for path in source.files():
            try:
                stat = path.stat()
            except OSError as error:
                raise InputError(
                    f"Corpus {source.name!r}: annotation file {path} is missing or "
                    f"unreadable ({error.strerror})."
                ) from error
            size, mtime_ns = stat.st_size, stat.st_mtime_ns
            path = str(path.resolve())
            entries.append({"path": path, "size": size, "mtime_ns": mtime_ns})
    return entries


def _publish(work: Path, folder: Path, replace: bool) -> None:
    """Renames a complete index to its final name."""
    if replace and folder.exists():
        # Processes that mapped the old blocks can use them until they close them.
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
        os.rename(folder, aside / "index")
        os.rename(work, folder)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        try:
            os.rename(work, folder)
        except OSError:
            # Another process was faster. Opening checks that its index is the same.
            if not (folder / HEADER_FILE).is_file():
                raise
    durable.flush(folder.parent)


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yields lists of up to `size` items; itertools.batched needs Python 3.12."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _progress(items: Iterable[Any], name: str) -> Iterable[Any]:
    return tqdm.tqdm(
        items, desc=name, unit="", mininterval=0.5, disable=not sys.stderr.isatty()
    )
