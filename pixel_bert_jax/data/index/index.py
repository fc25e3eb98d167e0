"""The index: all sources compiled once into a folder of memory-mapped blocks.

Reading COCO's annotations takes seconds, Visual Genome's take minutes and gigabytes,
and tokenising six million texts takes minutes, so this is done once. Afterwards a run
maps the blocks, parses no annotation file, and reads a text or the size of an image by
one array access.

The folder holds `header.json` and one raw little-endian file per block. It is written
under another name, flushed to disk and renamed. It is therefore complete or absent, and
any number of processes may open or build it at once without a lock.

Blocks, with I images and, for corpus c, T texts:

  sizes [I, 2], image_ids [I], image_corpus [I], coco_ids, flickr_ids [I]
  keys, key_offsets [I + 1]
  text_image.c [T], or [T, M] where a text belongs to M images
  tokens.c, token_offsets.c [T + 1]
  captions.c, caption_offsets.c [T + 1]
  annotations.c, annotation_offsets.c [T + 1]: JSON, if texts are annotated
  left_out, left_out_offsets: JSON, if images were left out

All but coco_ids and flickr_ids are part of the fingerprint.
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

from pixel_bert_jax.data import durable, plan
from pixel_bert_jax.data.index.blocks import REBUILD, map_block
from pixel_bert_jax.data.sources import numbers
from pixel_bert_jax.data.sources.base import Source
from pixel_bert_jax.types import InputError

FORMAT = 1
HEADER_FILE = "header.json"


class Index:
    """An opened index, with the sources that its images are read from.

    Image rows are counted through all corpora; text rows start at 0 in each corpus.

    Attributes:
      folder: folder of the index.
      header: the parsed `header.json`.
      corpora: names of the corpora; corpus c is the one at position c.
      sizes: int32 [I, 2], (height, width) of every image, pixels.
      image_ids: int32 [I], equal numbers for rows of the same COCO photo.
      image_corpus: int32 [I], corpus of every image.
      max_text_length: L, the greatest number of tokens of a text.
      pad_id: id of the padding token.
      truncated: {name of a corpus: number of texts longer than L}.
      fingerprint: SHA-256 (hex) of the content, whatever the folder.
      left_out: (corpus, key, reason) of images that were missing or broken.
      texts_left_out: {name of a corpus: number of texts of images left out}.
      upright: for each corpus, whether the EXIF orientation of its photos is applied.
      coco_ids: int64 [I], COCO's number of the photo; -1 if it has none.
      flickr_ids: int64 [I], Flickr's number of the photo; -1 if it is not known.
      sources: the sources, in the order of `corpora`.
    """

    def __init__(self, folder: str | Path, sources: Sequence[Source]):
        """Maps the blocks; `opening.build_or_open` also checks the content.

        Raises:
          InputError: the folder is not an index of this format, or is damaged.
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
            for name, block in self._block_entries().items()
        }
        # {corpus: [images, texts]} by `data.exclude`
        self.excluded: dict[str, list[int]] = self.header.get("excluded", {})
        self.texts_left_out: dict[str, int] = self.header.get("texts_left_out", {})
        self.left_out: list[tuple[int, str, str]] = [
            tuple(json.loads(entry))
            for entry in self._strings("left_out", "left_out_offsets")
        ]
        # An index from before this entry existed has the sizes of photos as stored.
        self.upright = tuple(self.header.get("upright", [False] * len(self.corpora)))
        self.sizes = self._blocks["sizes"]
        self.image_ids = self._blocks["image_ids"]
        self.image_corpus = self._blocks["image_corpus"]

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def close(self) -> None:
        """Releases the mapped files; arrays returned before stay valid."""
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

        Raises:
          IndexError: a row does not exist.
        """
        rows = np.asarray(rows, np.int64)
        offsets = self._blocks[f"token_offsets.{c}"]
        tokens = self._blocks[f"tokens.{c}"]
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
        """Returns the original text of text row `row` of corpus c."""
        return self._string(f"captions.{c}", f"caption_offsets.{c}", row)

    def annotation(self, c: int, row: int) -> Any:
        """Returns the source's annotation of text row `row` of corpus c."""
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
        """COCO's number of every photo; see the class."""
        if "coco_ids" in self._blocks:
            return self._blocks["coco_ids"]
        # An index from before this block existed: only file names have the numbers.
        found = (numbers.coco_id(key) for key in self.keys())
        return np.array([-1 if i is None else i for i in found], np.int64)

    @property
    def knows_flickr(self) -> bool:
        """Whether numbers at Flickr are kept, if the images are files."""
        files_there = any(source.path("") is not None for source in self.sources)
        return "flickr_ids" in self._blocks or not files_there

    @functools.cached_property
    def flickr_ids(self) -> np.ndarray:
        """See the class; an index from before they were kept has none."""
        nothing = np.full(len(self.sizes), -1)
        return self._blocks.get("flickr_ids", nothing)

    def describe(self, image_row: int) -> str:
        """Returns the corpus and the file, or key, of an image, for messages."""
        c, key = self.image_corpus[image_row], self.key(image_row)
        path = self.sources[c].path(key)
        return f"corpus {self.corpora[c]!r}, image {str(path) if path else key!r}"

    def read(self, image_row: int) -> bytes | np.ndarray:
        """Returns an image as its source gives it: an encoded file, or pixels."""
        source = self.sources[self.image_corpus[image_row]]
        return source.read(self.key(image_row))

    def plan_corpus(self, c: int, weight: float = 1.0) -> plan.Corpus:
        """Returns corpus c for a plan, without images that have no text.

        Args:
          c: position in `corpora`.
          weight: times each text is shown in a training epoch, see `plan.Corpus`.
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
        damaged = [
            name
            for name, block in self._block_entries().items()
            if durable.sha256(self.folder / f"{name}.bin") != block["sha256"]
        ]
        if damaged:
            raise InputError(
                f"Index {self.folder} does not match its checksums: damaged blocks "
                f"{', '.join(damaged)}; {REBUILD}."
            )

    def _block_entries(self) -> dict[str, Any]:
        return self.header["blocks"] | self.header.get("blocks_beside", {})

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
