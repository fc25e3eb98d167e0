"""The index: all sources compiled once into a folder of memory-mapped blocks.

Reading COCO's json takes seconds, Visual Genome's minutes and gigabytes; word pieces
of six million texts take minutes. So that is done once. Afterwards a run maps a few
blocks, opens no json, and any text or image size is one array access.

The folder holds `header.json` and one raw little-endian file a block. It is written
under another name, flushed to disk and renamed, hence it is complete or absent, and
any number of processes may open or build it at once without a lock.

Blocks, with I images and, for corpus c, T texts:

  sizes [I, 2], image_ids [I], image_corpus [I], keys and key_offsets [I + 1]
  text_image.c [T], or [T, M] where a text belongs to M images, tokens.c and
  token_offsets.c [T + 1], captions.c and caption_offsets.c [T + 1], and of annotated
  texts annotations.c and annotation_offsets.c [T + 1], json
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax.data import plan
from pixel_bert_jax.data.index import build as index_build
from pixel_bert_jax.data.index.build import FORMAT, HEADER_FILE, header_checksum
from pixel_bert_jax.data.sources.base import Source
from pixel_bert_jax.types import InputError

REBUILD = "pass --rebuild_index to build it again"
SPOT_CHECK = 8
"""Records of a generated source compared with its index whenever that is opened."""


def build_or_open(
    sources: Sequence[Source],
    tokenizer: Any,
    max_text_length: int,
    folder: str | Path,
    *,
    rebuild: bool = False,
) -> Index:
    """Opens the index in `folder`, building it first if there is none.

    Args:
      sources: the corpora, in order; constructed, but not yet read.
      tokenizer: a `text.WordPiece`.
      max_text_length: greatest number of tokens of a text, [CLS] and [SEP] included.
      folder: where the index is or shall be; its parents are made.
      rebuild: replace an index that is there.

    Raises:
      InputError: the annotations are faulty (all faults in one message), or the index
        that is there was made of other files, another tokenizer or other options, or
        is damaged.
    """
    folder = Path(folder).expanduser()
    if rebuild or not (folder / HEADER_FILE).is_file():
        index_build.build(sources, tokenizer, max_text_length, folder, replace=rebuild)
    index = Index(folder, sources)
    _check_same(index, sources, tokenizer, max_text_length)
    index.verify()
    _check_generated(index)
    return index


class Index:
    """An opened index, with the sources that its images are read from.

    Rows of images count through all corpora; rows of texts start at 0 in each corpus.

    Attributes:
      folder: where it lies.
      header: the parsed `header.json`.
      corpora: names, in order; "corpus c" is a position in it.
      sizes: int32 [I, 2], (height, width) of every image, pixels.
      image_ids: int32 [I], number of the picture in one table for all corpora: equal
        for two rows that show the same COCO photo.
      image_corpus: int32 [I], corpus of every image.
      max_text_length: L.
      pad_id: the token that fills up `texts`.
      truncated: texts longer than L, by name of corpus.
      fingerprint: SHA-256 (hex) of everything the index holds, wherever it lies.
      sources: the sources, in the order of `corpora`.
    """

    def __init__(self, folder: str | Path, sources: Sequence[Source]):
        """Maps the blocks; most callers want `build_or_open`.

        Raises:
          InputError: the folder is no index of this format, or is damaged.
        """
        self.folder = Path(folder)
        self.header = _read_header(self.folder)
        self.corpora = tuple(self.header["corpora"])
        self.max_text_length: int = self.header["max_text_length"]
        self.pad_id: int = self.header["pad_id"]
        self.truncated: dict[str, int] = self.header["truncated"]
        self.fingerprint: str = self.header["fingerprint"]
        self.sources = tuple(sources)
        self._blocks = {
            name: _map_block(self.folder, name, block)
            for name, block in self.header["blocks"].items()
        }
        self.sizes = self._blocks["sizes"]
        self.image_ids = self._blocks["image_ids"]
        self.image_corpus = self._blocks["image_corpus"]

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the mapped files; arrays handed out before stay valid."""
        self._blocks = {}

    def num_texts(self, c: int) -> int:
        """Returns the number of texts of corpus c."""
        return len(self._blocks[f"text_image.{c}"])

    def text_image(self, c: int) -> np.ndarray:
        """Returns int64 [T]: the (first) image row of every text of corpus c."""
        rows = self._blocks[f"text_image.{c}"]
        return rows if rows.ndim == 1 else rows[:, 0]

    def texts(self, c: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tokens of texts of corpus c.

        Args:
          c: position in `corpora`.
          rows: int [n]; -1 gives a text of padding only.

        Returns:
          ids int32 [n, L] and mask bool [n, L], True = real token.
        """
        rows = np.asarray(rows, np.int64)
        offsets, tokens = (
            self._blocks[f"token_offsets.{c}"],
            self._blocks[f"tokens.{c}"],
        )
        if rows.size and not -1 <= rows.min() <= rows.max() < len(offsets) - 1:
            raise IndexError(
                f"Expected text rows of corpus {self.corpora[c]!r} from -1 to "
                f"{len(offsets) - 2}, received {rows.min()} to {rows.max()}."
            )
        present = rows >= 0
        start = np.where(present, offsets[np.maximum(rows, 0)], 0)
        length = np.where(present, offsets[np.maximum(rows, 0) + 1] - start, 0)
        column = np.arange(self.max_text_length)
        mask = column < length[:, None]
        ids = np.full(mask.shape, self.pad_id, np.int32)
        ids[mask] = tokens[(start[:, None] + column)[mask]]
        return ids, mask

    def caption(self, c: int, row: int) -> str:
        """Returns the original text of row `row` of corpus c."""
        return self._string(f"captions.{c}", f"caption_offsets.{c}", row)

    def annotation(self, c: int, row: int) -> Any:
        """Returns what the source says of row `row` of corpus c beside the text."""
        names = f"annotations.{c}", f"annotation_offsets.{c}"
        return json.loads(self._string(*names, row))

    def key(self, image_row: int) -> str:
        """Returns the key of an image inside its source."""
        return self._string("keys", "key_offsets", image_row)

    def describe(self, image_row: int) -> str:
        """Returns the corpus and the key, or file, of an image, for messages."""
        c, key = self.image_corpus[image_row], self.key(image_row)
        path = self.sources[c].path(key)
        return f"corpus {self.corpora[c]!r}, image {str(path) if path else key!r}"

    def read(self, image_row: int) -> bytes | np.ndarray:
        """Returns an image as its source gives it: a file's bytes, or pixels."""
        source = self.sources[self.image_corpus[image_row]]
        return source.read(self.key(image_row))

    def plan_corpus(self, c: int, weight: float = 1.0) -> plan.Corpus:
        """Returns corpus c as the plan wants it; a unit is what a text belongs to.

        Images without a text are left out: they could not fill a slot.
        """
        several = self._blocks[f"text_image.{c}"]
        if several.ndim > 1:
            units, unit_of_text = np.unique(several, axis=0, return_inverse=True)
            return plan.Corpus(
                name=self.corpora[c],
                weight=weight,
                unit_images=units,
                text_unit=unit_of_text.reshape(-1).astype(np.int32),
                pictures=np.asarray(self.image_ids[units[:, 0]]),
            )
        first, last = self.header["image_rows"][c]
        local = np.asarray(self.text_image(c)) - first
        described = np.zeros(last - first, bool)
        described[local] = True
        unit_of_image = np.cumsum(described, dtype=np.int32) - 1
        images = first + np.flatnonzero(described)
        return plan.Corpus(
            name=self.corpora[c],
            weight=weight,
            unit_images=images[:, None],
            text_unit=unit_of_image[local],
            pictures=np.asarray(self.image_ids[images]),
        )

    def verify(self) -> None:
        """Compares every block with its checksum.

        Raises:
          InputError: some differ; all are named.
        """
        damaged = [
            name
            for name, block in self.header["blocks"].items()
            if _file_digest(self.folder / f"{name}.bin") != block["sha256"]
        ]
        if damaged:
            raise InputError(
                f"Index {self.folder} does not match its checksums: damaged blocks "
                f"{', '.join(damaged)}; {REBUILD}."
            )

    def _string(self, blob: str, offsets: str, row: int) -> str:
        if not 0 <= row < len(self._blocks[offsets]) - 1:
            raise IndexError(
                f"{blob}: expected a row from 0 to {len(self._blocks[offsets]) - 2}, "
                f"received {row}."
            )
        start, stop = self._blocks[offsets][row : row + 2].tolist()
        return self._blocks[blob][start:stop].tobytes().decode("utf-8")


def _check_same(
    index: Index,
    sources: Sequence[Source],
    tokenizer: Any,
    max_text_length: int,
) -> None:
    """Compares an opened index with what it is asked for.

    Raises:
      InputError: something differs; all differences in one message.
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
    """Compares an undamaged index with what generated sources give now.

    Raises:
      InputError: it is something else.
    """
    _refuse(
        index,
        [
            f"{source.name}: it now generates other scenes"
            for c, source in enumerate(index.sources)
            if not source.files() and not _spot_check(index, c, source)
        ],
    )


def _refuse(index: Index, differences: Sequence[str]) -> None:
    if differences:
        raise InputError(
            f"Index {index.folder} does not fit the data; {REBUILD}.\n  "
            + "\n  ".join(differences)
        )


def _spot_check(index: Index, c: int, source: Source) -> bool:
    """Whether a generated source still gives the first records of its index.

    It has no file whose change could be seen; a new version of its code is such one.
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


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER_FILE
    try:
        header = json.loads(path.read_text("utf-8"))
        version, checksum = header["format"], header["checksum"]
    except FileNotFoundError as error:
        raise InputError(f"No index in {folder}: {HEADER_FILE} is missing.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); {REBUILD}.") from error
    if version != FORMAT:
        raise InputError(
            f"{path}: expected format {FORMAT}, received {version}; {REBUILD}."
        )
    if checksum != header_checksum(header):
        raise InputError(f"{path} does not match its checksum; {REBUILD}.")
    return header


def _map_block(folder: Path, name: str, block: dict[str, Any]) -> np.ndarray:
    path, shape = folder / f"{name}.bin", tuple(block["shape"])
    dtype = np.dtype(block["dtype"])
    expected = dtype.itemsize * int(np.prod(shape))
    received = os.path.getsize(path) if path.is_file() else -1
    if received != expected:
        raise InputError(
            f"{path}: expected {expected} bytes, received "
            f"{'no file' if received < 0 else received}; {REBUILD}."
        )
    if not expected:  # an empty file cannot be mapped
        return np.zeros(shape, dtype)
    # A plain array over the map: np.memmap itself costs microseconds at every access.
    return np.memmap(path, dtype, "r", shape=shape).view(np.ndarray)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
