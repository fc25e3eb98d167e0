"""Photos of one's own: a folder with a table of captions, or of questions, beside them.

    captions.csv                        questions.csv
    image,caption                       image,question,answer
    a.jpg,a dog on a sofa               a.jpg,what is on the sofa?,dog
    a.jpg,a dog sleeps                  a.jpg,how many dogs?,1

or captions.jsonl and questions.jsonl with the same fields in each line's object. A
photo may have any number of rows; "image" is its path relative to the folder. Answers
are normalised as VQA's evaluator does. Rows of questions without an answer are for
prediction. A further column is "split" ("train" or "evaluate"), for all rows or for
none. Without it, about a tenth of the photos is held out: those whose path's SHA-256
begins with a number below a tenth, so that they are the same in both tables, on every
machine, and when photos are added. If there is none in either table, it is the photo
with the smallest one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pixel_bert_jax.data.sources import base, files
from pixel_bert_jax.data.vqa_answers import clean, normalise
from pixel_bert_jax.types import InputError, nearest

KINDS = {"captions": ("image", "caption"), "questions": ("image", "question")}
OPTIONAL = {"captions": ("split",), "questions": ("answer", "split")}
ENDS = (".csv", ".jsonl")
SPLITS = ("train", "evaluate")
HELD_OUT = 0.1  # share of all photos, if no row has a split
PEOPLE = 10  # answers to each question in VQA's format, here all equal


class Row(NamedTuple):
    """A row of a table.

    Attributes:
      where: its place in the file.
      image: path of the photo.
      text: its caption or question.
      answer: "" if there is none.
      split: "" if there is none.
    """

    where: str
    image: str
    text: str
    answer: str
    split: str


class OwnPhotos(files.JsonPhotos):
    """The captions or questions of one split; an image's key is its path.

    Attributes:
      kind: key of KINDS.
      split: "train", "evaluate", or "predict" for all rows.
    """

    upright = True

    def __init__(self, name: str, table: Path, folder: Path, kind: str, split: str):
        super().__init__(name, table, folder)
        self.kind, self.split = kind, split
        self.annotated = kind == "questions"
        self.identity = {**self.identity, "kind": kind, "split": split}

    def _parse(self) -> None:
        rows = list(self._rows())
        chosen = self._chosen(rows)
        numbers = {key: n for n, key in enumerate(dict.fromkeys(r.image for r in rows))}
        self.listed = [
            files.Listed(key, n, None, None)
            for key, n in numbers.items()
            if key in chosen
        ]
        for number, row in enumerate(rows):
            if row.image not in chosen or not self.is_caption(row.text, row.where):
                continue
            if not self.annotated:
                self.captions.append((row.image, row.text))
                continue
            annotation = {"question_id": number, "image_id": numbers[row.image]}
            answer = normalise(clean(row.answer)).replace(",", "")
            if answer:
                annotation |= {
                    "question_type": "own",
                    "answer_type": "own",
                    "multiple_choice_answer": answer,
                    "answers": [
                        {"answer": answer, "answer_id": n} for n in range(PEOPLE)
                    ],
                }
            elif row.answer:
                fault = "answer of which normalisation leaves nothing"
                self.problems.add(fault, f"{self._at(row)}: {row.answer!r}")
                continue
            elif self.split != "predict":
                self.problems.add("question without an answer", self._at(row))
                continue
            self.captions.append((row.image, row.text, annotation))

    def _chosen(self, rows: list[Row]) -> set[str]:
        """Returns the photos of the split."""
        photos = list(dict.fromkeys(row.image for row in rows))
        if self.split == "predict":
            return set(photos)
        named = {row.image: row.split for row in rows if row.split}
        if named:
            for row in rows:
                if row.split != named.get(row.image):
                    fault = "photo in two splits" if row.split else "row without split"
                    self.problems.add(fault, self._at(row))
            return {photo for photo, split in named.items() if split == self.split}
        every = set(photos)
        for kind, table in find(self.folder).items():  # so that both hold out the same
            if kind != self.kind:
                other = OwnPhotos(self.name, table, self.folder, kind, self.split)
                every |= {row.image for row in other._rows()}
        if len(every) < 2 and not self.problems:
            raise InputError(
                f"{self.annotations[0]}: {len(every)} photos, expected at least 2, of "
                "which one is held out"
            )
        held_out = {photo for photo in every if _share(photo) < HELD_OUT}
        held_out = held_out or {min(every, key=_share, default="")}
        count = len(held_out.intersection(photos))
        self.notes.append(
            f"{count} of {len(photos)} photos are held out, chosen by their paths"
        )
        evaluated = self.split == "evaluate"
        return {photo for photo in photos if (photo in held_out) == evaluated}

    def _at(self, row: Row) -> str:
        return f"{self.annotations[0]}, {row.where}"

    def _rows(self) -> Iterator[Row]:
        """Yields the rows; adds faults to `problems`."""
        path = self.annotations[0]
        required = KINDS[self.kind]
        known = (*required, *OPTIONAL[self.kind])
        for where, record, fault in _records(path):
            fault = fault or _fault(record, required, known)
            if fault:
                self.problems.add(fault, f"{path}, {where}: {str(record)[:120]}")
                continue
            answer, split = record.get("answer"), record.get("split")
            yield Row(
                where,
                posixpath.normpath(record["image"].strip()),
                record[required[1]],
                "" if answer is None else str(answer).strip(),
                (split or "").strip(),
            )


def find(folder: Path) -> dict[str, Path]:
    """Returns the tables of a folder, by kind.

    Raises:
      InputError: there is none, or a kind has two.
    """
    found: dict[str, Path] = {}
    for kind in KINDS:
        tables = [folder / f"{kind}{end}" for end in ENDS]
        there = [table for table in tables if table.is_file()]
        if len(there) > 1:
            raise InputError(f"{there[0]} and {there[1].name}: expected one of them")
        if there:
            found[kind] = there[0]
    if not found:
        names = ", ".join(f"{kind}{end}" for kind in KINDS for end in ENDS)
        raise InputError(f"{folder} has no table of texts; expected {names}")
    return found


def build(config: Mapping[str, Any], split: str, root: Path | None) -> OwnPhotos:
    """Makes the source from one element of `config.data.corpora`.

    Args:
      config: name; texts: "captions" or "questions"; images: the folder of photos and
        tables (default: `root`).
      split: "train", "evaluate" or "predict".
      root: folder to which relative paths are relative.

    Raises:
      InputError: a field or a table is missing, or a field is unknown.
    """
    base.only(config, ["name", "texts"], ["images"])
    kind = config["texts"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(
            f"Corpus {config['name']!r}: texts is {kind!r}{nearest(kind, KINDS)}; "
            f"valid: {', '.join(KINDS)}"
        )
    folder = files.resolve(config, "images", split, root, default=".")
    tables = find(folder)
    if kind not in tables:
        there = ", ".join(path.name for path in tables.values())
        raise InputError(f"{folder} has {there}, expected {kind}.csv or {kind}.jsonl")
    return OwnPhotos(config["name"], tables[kind], folder, kind, split)


def _records(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yields (place in the file, record, fault)."""
    if path.suffix == ".jsonl":
        for number, line in files.lines(path):
            if line.strip():
                fault, record = files.parse_line(line)
                yield f"line {number}", line.strip() if fault else record, fault
        return
    text = "".join(line for _, line in files.lines(path))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    try:
        for values in reader:
            where = f"line {reader.line_num}"
            if not any(value.strip() for value in values):
                continue
            if not header:
                header = [value.strip() for value in values]
                if twice := {name for name in header if header.count(name) > 1}:
                    yield where, values, f"column {min(twice)!r} that comes twice"
                    return
            elif len(values) != len(header):
                fault = f"row that has not {len(header)} columns as the first"
                yield where, values, fault
            else:
                yield where, dict(zip(header, values, strict=True)), ""
    except csv.Error as error:
        yield f"line {reader.line_num}", "", f"broken csv ({error})"


def _fault(record: Any, required: tuple[str, str], known: tuple[str, ...]) -> str:
    """Returns the fault of a record, "" if there is none."""
    for field in record:
        if field not in known:
            return f"unknown column {field!r}{nearest(field, known)}"
    for field in required:
        if field not in record:
            return f"row without {field!r}"
    answer = record.get("answer")
    numbers = isinstance(answer, int | float) and not isinstance(answer, bool)
    if not (answer is None or isinstance(answer, str) or numbers):
        return "answer that is neither a text nor a number"
    image = record["image"]
    if not isinstance(image, str) or not image.strip():
        return "row without the path of a photo"
    if "\0" in image or not files.is_unicode(image):
        return "path with characters that no file has"
    path = posixpath.normpath(image.strip())
    if path.startswith(("/", "../")) or path in (".", ".."):
        return "path that is not inside the folder"
    split = record.get("split")
    if split and (not isinstance(split, str) or split.strip() not in ("", *SPLITS)):
        return f"split {str(split)[:30]!r}; expected {' or '.join(SPLITS)}"
    return ""


def _share(path: str) -> float:
    """Returns a number in [0, 1) that the path alone decides."""
    return int(hashlib.sha256(path.encode()).hexdigest()[:8], 16) / 2**32
