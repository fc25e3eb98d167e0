"""Base classes and functions of the sources that read annotation files and photos."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pixel_bert_jax.data import images
from pixel_bert_jax.data.sources import base
from pixel_bert_jax.data.sources.base import MISSING, ImageRecord, Problems
from pixel_bert_jax.types import InputError

# Fields of a corpus that name files or folders, in any format.
PATH_FIELDS = (
    *("annotations", "questions", "answers"),
    *("sizes", "split_list", "images"),
)


class Listed(NamedTuple):
    """An image in an annotation file.

    Attributes:
      size: (height, width) in pixels, None if the file does not give it.
      key, image_id, coco_id, flickr_id: see `base.ImageRecord`.
    """

    key: str
    image_id: int
    size: tuple[int, int] | None
    coco_id: int | None
    flickr_id: int | None = None


class AnnotatedPhotos(base.Source):
    """Annotation files and a folder of photos.

    Subclasses implement `_listed` and `_texts`, which are called once, in this order,
    when the index is built.

    Attributes:
      annotations: the annotation files, of which the first holds the texts.
      folder: folder of the photos; a key is a path relative to it.
      captions_per_image: number of captions that are used of each image. Fewer are a
        fault; of more, the first are used and a note is added. 0: all are used.
    """

    captions_per_image = 0

    def __init__(self, name: str, annotations: Path | Sequence[Path], folder: Path):
        super().__init__(name, {"images": str(folder.resolve())})
        several = not isinstance(annotations, Path)
        self.annotations = tuple(annotations) if several else (annotations,)
        self.folder = folder
        self._keys: list[str] = []  # of all images

    def files(self) -> list[Path]:
        """Returns the annotation files."""
        return list(self.annotations)

    def path(self, key: str) -> Path:
        """Returns the file of an image."""
        return self.folder / key

    def read(self, key: str) -> bytes:
        """Returns the bytes of an image file."""
        return self.path(key).read_bytes()

    def images(self) -> Iterator[ImageRecord]:
        """Yields the images; reads the size and checks the end of each file."""
        for image in self._listed():
            size, fault = self._measure(image.key)
            if size and image.size not in (None, size):
                self.problems.add(
                    "size that is not the file's",
                    f"{self.path(image.key)}: {image.size[1]}x{image.size[0]} (width x "
                    f"height) in {self.annotations[-1]}, {size[1]}x{size[0]} in the "
                    f"file{', turned upright' if self.upright else ''}",
                )
            # An image with a fault is listed too: otherwise its texts would be faults.
            height, width = size or (1, 1)
            self._keys.append(image.key)
            yield ImageRecord(
                image.key,
                image.image_id,
                height,
                width,
                image.coco_id,
                image.flickr_id,
                fault,
            )

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yields (image key, caption)."""
        wanted = self.captions_per_image
        if not wanted:
            yield from self._texts()
            return
        counts = dict.fromkeys(self._keys, 0)
        for key, caption in self._texts():
            counts[key] = counts.get(key, 0) + 1
            if counts[key] <= wanted:
                yield key, caption
        more = Problems()
        for key, count in counts.items():
            text = f"{self.path(key)}: {count}"
            if count < wanted:
                self.problems.add(f"image with fewer than {wanted} captions", text)
            elif count > wanted:
                more.add(f"image with more than {wanted} captions, cut to these", text)
        self.notes += str(more).splitlines()

    def limit_captions(self, number: int) -> None:
        """Sets `captions_per_image`.

        Raises:
          InputError: it is not an integer, or negative.
        """
        if not is_integer(number) or number < 0:
            raise InputError(
                f"Corpus {self.name!r}: captions_per_image is {number!r}, expected an "
                "integer, with 0 for all captions"
            )
        if number:  # without a limit, indexes from before the field stay valid
            self.captions_per_image = number
            self.identity = {**self.identity, "captions_per_image": number}

    def _listed(self) -> Iterator[Listed]:
        """Yields the images in the files; adds faults to `problems`."""
        raise NotImplementedError

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Yields the texts as `texts` does; adds faults to `problems`."""
        raise NotImplementedError

    def is_caption(self, text: Any, where: str, path: Path | None = None) -> bool:
        """Returns whether a text can be used; adds a fault if not.

        Args:
          text: value in the annotation file, of any type.
          where: names the record in the fault.
          path: the annotation file; default: the first.
        """
        where = f"{path or self.annotations[0]}, {where}"
        if not isinstance(text, str):
            self.problems.add("caption that is no text", f"{where}: {text!r}")
        elif not text.strip():
            self.problems.add("empty caption", f"{where}: {text!r}")
        elif not is_unicode(text):
            self.problems.add("caption with half a character", f"{where}: {text!r}")
        else:
            return True
        return False

    def _measure(self, key: str) -> tuple[tuple[int, int] | None, str]:
        """Returns ((height, width), "") of an image file, or (None, fault).

        Raises:
          InputError: the file cannot be read, such as for lack of permission.
        """
        path = self.path(key)
        try:
            return images.measure(path, upright=self.upright), ""
        except images.ImageError as error:
            return None, str(error)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None, MISSING
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None, MISSING
            raise InputError(f"Cannot read {path}: {error.strerror}.") from error


class JsonPhotos(AnnotatedPhotos):
    """Photos whose annotation files are small enough to be read whole.

    Subclasses implement `_parse`.

    Attributes:
      listed: the images.
      captions: the texts, as `texts` yields them.
    """

    def __init__(self, name: str, annotations: Path | Sequence[Path], folder: Path):
        super().__init__(name, annotations, folder)
        self.listed: list[Listed] = []
        self.captions: list[tuple[Any, ...]] = []
        self._parsed = False

    def add_caption(self, key: str, text: Any, where: str) -> None:
        """Adds a caption of the image `key`, or a fault; see `is_caption`."""
        if self.is_caption(text, where):
            self.captions.append((key, text))

    def _listed(self) -> Iterator[Listed]:
        self._load()
        yield from self.listed

    def _texts(self) -> Iterator[tuple[Any, ...]]:
        self._load()
        yield from self.captions

    def _load(self) -> None:
        if not self._parsed:
            self._parsed = True
            self._parse()

    def _parse(self) -> None:
        """Fills `listed`, `captions` and `problems` from the annotation files."""
        raise NotImplementedError


def lines(path: Path, opener: Callable[..., Any] = open) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line) of a text file in UTF-8.

    Args:
      path: the file.
      opener: `open`, or `gzip.open` for a compressed file.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            yield from enumerate(file, 1)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}.") from error


def parse_line(line: str) -> tuple[str, dict[str, Any]]:
    """Returns ("", object) of a line of a JSON Lines file, or (fault, {})."""
    try:
        record = json.loads(line)
    except ValueError as error:
        return f"line that is no json ({error.args[0].split(':')[0]})", {}
    if not isinstance(record, dict):
        return "line that is no json object", {}
    return "", record


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file in UTF-8, with or without a byte order mark.

    Raises:
      InputError: the file cannot be read or parsed; the message gives the position.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8, received byte 0x{error.object[error.start]:02x} "
            f"at position {error.start}."
        ) from error
    except json.JSONDecodeError as error:
        end = " (the file ends there: cut short?)" * (error.pos >= len(error.doc))
        raise InputError(
            f"{path}: broken json at line {error.lineno}, column {error.colno}, "
            f"character {error.pos}{end}: {error.msg}."
        ) from error


def records(content: Any, field: str, path: Path) -> list[Any]:
    """Returns the list `field` of `content`, the JSON object in the file `path`.

    Raises:
      InputError: `content` is not an object, or has no such list.
    """
    found = content.get(field) if isinstance(content, dict) else None
    if isinstance(found, list):
        return found
    fields = ", ".join(content) if isinstance(content, dict) else "no object at all"
    raise InputError(
        f"{path}: expected an object with a list {field!r}; it has {fields}."
    )


def is_integer(value: Any) -> bool:
    """Returns whether a JSON value is an integer that fits in 64 bits."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number and -(2**63) <= value < 2**63


def has_integers(record: Any, *fields: str) -> bool:
    """Returns whether a JSON value is an object with integers in these fields."""
    return isinstance(record, dict) and all(is_integer(record.get(f)) for f in fields)


def split_names(
    config: Mapping[str, Any], split: str, default: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """Returns the names that a split has in a corpus's files.

    Args:
      config: one element of `config.data.corpora`, whose field "splits" gives one or
        more names for each split: {"train": ("train", "restval"), "evaluate": "val"}.
      split: "train", "evaluate" or "predict".
      default: used if the field is missing.

    Raises:
      InputError: "splits" is of another form, has no name for the split, or has a name
        both for training and for evaluation or prediction.
    """
    where = f"Corpus {config.get('name')!r}: splits"
    given = config.get("splits") or default
    splits: dict[str, tuple[str, ...]] = {}
    for ours, theirs in given.items() if isinstance(given, Mapping) else ():
        several = isinstance(theirs, list | tuple)
        splits[ours] = tuple(theirs) if several else (theirs,)
    names = [name for several in splits.values() for name in several]
    if not splits or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"{where} is {given!r}, expected the names that each split has in the "
            "file, such as {'train': 'train', 'evaluate': 'val'}."
        )
    if not splits.get(split):
        raise InputError(f"{where} has none for {split!r}, received {splits}.")
    held_out = {*splits.get("evaluate", ()), *splits.get("predict", ())}
    both = set(splits.get("train", ())) & held_out
    if both - {""}:  # "" stands for the records of a file without splits
        raise InputError(
            f"{where}: {', '.join(sorted(both))} would be trained on and evaluated."
        )
    return splits[split]


def resolve(
    config: Mapping[str, Any],
    field: str,
    split: str,
    root: Path | None,
    default: str = "",
) -> Path:
    """Returns the path of a file or folder of a corpus.

    Args:
      config: one element of `config.data.corpora`.
      field: name of a field that holds a path, or a path for each split:
        {"train": ..., ...}.
      split: "train", "evaluate" or "predict".
      root: folder to which relative paths are relative.
      default: the path if the field is missing.

    Raises:
      InputError: the config has no path for the split, or nothing exists there.
    """
    value = config.get(field) or default
    wanted = [config[f] for f in PATH_FIELDS if config.get(f)]
    expected = f"Expected in it: {' and '.join(map(str, wanted))}."
    if isinstance(value, Mapping):
        if split not in value:
            raise InputError(
                f"config.data.corpora: {config.get('name')!r} has no {field!r} for the "
                f"split {split!r}; it has {', '.join(map(str, value))}."
            )
        value = value[split]
    if not isinstance(value, str | Path) or not value:
        raise InputError(
            f"Corpus {config.get('name')!r}: {field} is {value!r}, expected a path."
        )
    path = Path(value).expanduser()
    if not path.is_absolute():
        if root is None:
            raise InputError(
                f"Corpus {config.get('name')!r}: {field} = {value!r} is relative, but "
                "no data folder is given: set --config.data.root=FOLDER or the "
                f"environment variable PIXEL_BERT_DATA. {expected}"
            )
        path = Path(root).expanduser() / path
    if not path.exists():
        raise InputError(
            f"Corpus {config.get('name')!r}: no {path} ({field} = {value!r} under the "
            f"data folder {root}). Set --config.data.root or PIXEL_BERT_DATA to the "
            f"folder that holds it. {expected}"
        )
    return path


def is_unicode(text: str) -> bool:
    """Returns whether a text can be encoded: JSON may contain lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
