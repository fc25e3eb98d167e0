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
  texts annotations.c and annotation_offsets.c [T + 1], json; left_out and
  left_out_offsets, json, if images were left out; beside the content, coco_ids [I]
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax.data import plan
from pixel_bert_jax.data.index.blocks import REBUILD, file_digest, map_block
from pixel_bert_jax.data.sources import files
from pixel_bert_jax.data.sources.base import Source
from pixel_bert_jax.types import InputError

FORMAT = 1
HEADER_FILE = "header.json"


class Index:
    """An opened index, with the sources that its images are read from.

    Rows of images count through all corpora; rows of texts start at 0 in each corpus.

    Attributes:
      folder: where it lies.
      header: the parsed `header.json`.
      corpora: names, in order; "corpus c" is a position in it.
      sizes: int32 [I, 2], (height, width) of every image, pixels.
      image_ids: int32 [I], number of the image in one table for all corpora: equal
        for two rows that show the same COCO photo.
      image_corpus: int32 [I], corpus of every image.
      max_text_length: L.
      pad_id: the token that fills up `texts`.
      truncated: texts longer than L, by name of corpus.
      fingerprint: SHA-256 (hex) of everything the index holds, wherever it lies.
      left_out: (corpus, key, reason) of images that were missing or broken.
      texts_left_out: texts of these, by name of corpus.
      upright: bool for each corpus: its photos are turned by their EXIF orientation.
      coco_ids: int64 [I], COCO's number of the photo; -1 if it is none.
      sources: the sources, in the order of `corpora`.
    """

    def __init__(self, folder: str | Path, sources: Sequence[Source]):
        """Maps the blocks; most callers want `opening.build_or_open`.

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
            name: map_block(self.folder, name, block)
            for name, block in self.header["blocks"].items()
        }
        beside = self.header.get("blocks_beside", {})
        self._blocks |= {n: map_block(self.folder, n, b) for n, b in beside.items()}
        self.texts_left_out: dict[str, int] = self.header.get("texts_left_out", {})
        self.left_out: list[tuple[int, str, str]] = [
            tuple(json.loads(entry))
            for entry in self._strings("left_out", "left_out_offsets")
        ]
        # An index from before there was the rule has the sizes of photos as stored.
        self.upright = tuple(self.header.get("upright", [False] * len(self.corpora)))
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

    def num_texts_of(self, c: int, image_rows: Collection[int]) -> int:
        """Returns how many texts of corpus c belong to any of these images."""
        images = self._blocks[f"text_image.{c}"].reshape(self.num_texts(c), -1)
        return int(np.isin(images, list(image_rows)).any(axis=1).sum())

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

    def keys(self) -> Iterator[str]:
        """Yields the keys of all images, in order of rows."""
        yield from self._strings("keys", "key_offsets")

    @functools.cached_property
    def coco_ids(self) -> np.ndarray:
        """See the class."""
        if "coco_ids" in self._blocks:
            return self._blocks["coco_ids"]
        # An index from before they were kept: as far as the files' names tell.
        found = (files.coco_id(key) for key in self.keys())
        return np.array([-1 if i is None else i for i in found], np.int64)

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
        """Returns corpus c as the plan wants it.

        Images without a text are left out: they could not fill a slot.
        """
        several = self._blocks[f"text_image.{c}"]
        if several.ndim > 1:
            image_sets, set_of_text = np.unique(several, axis=0, return_inverse=True)
            return plan.Corpus(
                name=self.corpora[c],
                weight=weight,
                set_images=image_sets,
                text_set=set_of_text.reshape(-1).astype(np.int32),
                image_ids=np.asarray(self.image_ids[image_sets[:, 0]]),
            )
        first, last = self.header["image_rows"][c]
        local = np.asarray(self.text_image(c)) - first
        described = np.zeros(last - first, bool)
        described[local] = True
        set_of_image = np.cumsum(described, dtype=np.int32) - 1
        images = first + np.flatnonzero(described)
        return plan.Corpus(
            name=self.corpora[c],
            weight=weight,
            set_images=images[:, None],
            text_set=set_of_image[local],
            image_ids=np.asarray(self.image_ids[images]),
        )

    def verify(self) -> None:
        """Compares every block with its checksum.

        Raises:
          InputError: some differ; all are named.
        """
        blocks = self.header["blocks"] | self.header.get("blocks_beside", {})
        damaged = [
            name
            for name, block in blocks.items()
            if file_digest(self.folder / f"{name}.bin") != block["sha256"]
        ]
        if damaged:
            raise InputError(
                f"Index {self.folder} does not match its checksums: damaged blocks "
                f"{', '.join(damaged)}; {REBUILD}."
            )

    def _strings(self, blob: str, offsets: str) -> Iterator[str]:
        """Yields all strings of a block, none if there is no such block."""
        if blob in self._blocks:
            content = self._blocks[blob].tobytes()
            for start, stop in itertools.pairwise(self._blocks[offsets].tolist()):
                yield content[start:stop].decode("utf-8")

    def _string(self, blob: str, offsets: str, row: int) -> str:
        if not 0 <= row < len(self._blocks[offsets]) - 1:
            raise IndexError(
                f"{blob}: expected a row from 0 to {len(self._blocks[offsets]) - 2}, "
                f"received {row}."
            )
        start, stop = self._blocks[offsets][row : row + 2].tolist()
        return self._blocks[blob][start:stop].tobytes().decode("utf-8")


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


def header_checksum(header: dict[str, Any]) -> str:
    """Returns the SHA-256 (hex) of a header without its own "checksum"."""
    content = {k: v for k, v in header.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
