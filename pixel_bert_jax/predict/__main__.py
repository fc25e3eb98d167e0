"""Asks a trained model about photos.

    pixel-bert answer dog.jpg "what is on the sofa?"
    pixel-bert match dog.jpg "a dog sleeps"
    pixel-bert fill dog.jpg "a [MASK] sleeps on the [MASK]"
    pixel-bert true-or-false left.jpg right.jpg "both photos show a dog"
    pixel-bert rank holiday/ --text "a sunset at the beach" --text "people eating"

PHOTO is an image file, a folder of them, or a text file (.txt) with a path on each
line, relative to the current folder. The model is a folder or a name on the Hugging
Face hub; which commands it can do depends on what it was trained for. `python -m
pixel_bert_jax.predict` is the same program. Exit codes: 0 done, 2 bad input, also if
only some of the photos are bad: they are named, and the others are done.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pixel_bert_jax.types import EXIT_BAD_INPUT, EXIT_DONE, InputError

MODEL = "PIXEL_BERT_MODEL"  # environment variable
LISTS = (".txt", ".lst")


class Result(NamedTuple):
    """What is printed for a photo, or for a text.

    Attributes:
      name: path of the photo, or the text.
      lines: for readers.
      record: for programs.
    """

    name: str
    lines: list[str]
    record: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    options = parser().parse_args(arguments)
    if options.command == "doctor":
        from pixel_bert_jax.predict import doctor

        return doctor.main()
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may have any bytes
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if options.top < 1:
            raise InputError(f"--top is {options.top}, expected at least 1")
        if not options.model:
            raise InputError(
                f"no model is named; give --model=FOLDER or set {MODEL}, such as to "
                "checkpoints/scenes_tiny_long"
            )
        return _run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:  # whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _run(options: argparse.Namespace) -> int:
    """Loads the model, runs the command over all photos, and prints."""
    photos = list(_photos(options.photos))
    import tqdm  # imported late, so that a wrong command line is reported at once

    from pixel_bert_jax.predict.predictor import Predictor

    predictor = Predictor.from_pretrained(options.model)
    several = len(photos) > 1
    results = (_rank if options.command == "rank" else _each)(
        predictor, photos, options
    )
    code, quiet = EXIT_DONE, not several or not sys.stderr.isatty()
    for result in tqdm.tqdm(results, total=len(photos), unit="photo", disable=quiet):
        if error := result.record.get("error"):
            code = EXIT_BAD_INPUT
            print(f"error: {error}", file=sys.stderr)
        if options.json:
            print(json.dumps(result.record), flush=True)
        else:
            before = f"{result.name}: " if several else ""
            for line in result.lines:
                print(f"{before}{line}", flush=True)
    return code


def _each(
    predictor: Any, photos: list[str], options: argparse.Namespace
) -> Iterator[Result]:
    """Yields the result of each photo; a photo that cannot be read gives an error."""
    from pixel_bert_jax.data.images import ImageError

    function = COMMANDS[options.command]
    for photo in photos:
        try:
            lines, record = function(predictor, photo, options)
        except ImageError as error:
            lines, record = [], {"error": f"{photo}: {error}"}
        yield Result(photo, lines, {"photo": photo, **record})


def _answer(
    predictor: Any, photo: str, options: argparse.Namespace
) -> tuple[list[str], dict[str, Any]]:
    found = predictor.answer(photo, options.text, top_k=options.top)
    lines = [f"{one.answer}  {one.probability:.3f}" for one in found]
    return lines, {
        "question": options.text,
        "answers": [one._asdict() for one in found],
    }


def _match(
    predictor: Any, photo: str, options: argparse.Namespace
) -> tuple[list[str], dict[str, Any]]:
    chances = predictor.match(photo, [options.text])
    record = {"text": options.text, "probability": chances[0]}
    return [f"{chances[0]:.3f}  {options.text}"], record


def _fill(
    predictor: Any, photo: str, options: argparse.Namespace
) -> tuple[list[str], dict[str, Any]]:
    found = predictor.fill_mask(photo, options.text, top_k=options.top)
    lines = [
        ", ".join(f"{one.word} {one.probability:.3f}" for one in words)
        for words in found
    ]
    masks = [[one._asdict() for one in words] for words in found]
    return lines, {"text": options.text, "masks": masks}


def _judge(
    predictor: Any, photo: str, options: argparse.Namespace
) -> tuple[list[str], dict[str, Any]]:
    from pixel_bert_jax.convert.photos import to_pixels
    from pixel_bert_jax.data.images import ImageError

    try:
        (right,) = to_pixels(options.right)
    except ImageError as error:  # of this photo, not of the left one
        raise InputError(f"{options.right}: {error}") from error
    chance = predictor.true_or_false(photo, right, options.text)
    word = "true" if chance >= 0.5 else "false"
    record = {"right": options.right, "statement": options.text, "probability": chance}
    return [f"{word}  {chance:.3f}"], record


COMMANDS = {"answer": _answer, "match": _match, "fill": _fill, "true-or-false": _judge}


def _rank(
    predictor: Any, photos: list[str], options: argparse.Namespace
) -> Iterator[Result]:
    """Yields for each photo its best texts, then for each text its best photos."""
    texts = list(options.text or [])
    if options.texts:
        texts += _lines(options.texts)
    if not texts:
        raise InputError("expected --text TEXT or --texts FILE")
    from pixel_bert_jax.convert.photos import to_pixels
    from pixel_bert_jax.data.images import ImageError

    good = []
    for photo in photos:  # first of all, so that one bad photo does not end it
        try:
            to_pixels(photo)
            good.append(photo)
        except ImageError as error:
            error_of = f"{photo}: {error}"
            yield Result(photo, [], {"photo": photo, "error": error_of})
    if not good:
        return
    found = predictor.rank(good, texts, by=options.by)
    for n, photo in enumerate(good):
        best = found.texts[n, : options.top].tolist()
        scored = [{"text": texts[t], "score": float(found.scores[n, t])} for t in best]
        lines = [f"{one['score']:.3f}  {one['text']}" for one in scored]
        yield Result(photo, lines, {"photo": photo, "texts": scored})
    if len(good) > 1:
        for t, text in enumerate(texts):
            best = found.images[t, : options.top].tolist()
            scored = [
                {"photo": good[n], "score": float(found.scores[n, t])} for n in best
            ]
            lines = [f"{one['score']:.3f}  {one['photo']}" for one in scored]
            yield Result(text, lines, {"text": text, "photos": scored})


def _photos(places: Sequence[str]) -> Iterator[str]:
    """Yields the paths of photos that are named, in folders, or in lists.

    Raises:
      InputError: a place does not exist, or has no photo.
    """
    from pixel_bert_jax.data.images import SUFFIXES

    for place in places:
        try:
            path = Path(place).expanduser()
            folder, there = path.is_dir(), path.exists()
            inside = sorted(path.iterdir()) if folder else []
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{place[:100]!r} cannot be read: {error}") from error
        if folder:
            inside = [one for one in inside if one.suffix.lower() in SUFFIXES]
            if not inside:
                raise InputError(f"{path} has no photos ({', '.join(SUFFIXES)})")
            yield from map(str, inside)
        elif there and path.suffix.lower() in LISTS:
            yield from _lines(place)
        elif there:
            yield str(path)
        else:
            raise InputError(f"{path} does not exist; expected a photo or a folder")


def _lines(file: str) -> list[str]:
    """Returns the lines of a text file that are not empty.

    Raises:
      InputError: it cannot be read, or is empty.
    """
    try:
        lines = Path(file).expanduser().read_text("utf-8-sig").split("\n")
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise InputError(f"{file} is empty")
    return found


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    description, _, usage = __doc__.partition("\n")
    whole = argparse.ArgumentParser(
        prog="pixel-bert",
        description=description,
        epilog=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--model",
        default=os.environ.get(MODEL, ""),
        help=f"folder or hub id; default: ${MODEL}",
    )
    common.add_argument("--json", action="store_true", help="print JSON lines")
    common.add_argument("--top", type=int, default=3, help="results; default: 3")
    commands = whole.add_subparsers(dest="command", required=True)

    def add(name: str, about: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=about, description=about, parents=[common])
        one.add_argument("photos", nargs="+", metavar="PHOTO", help="see pixel-bert -h")
        return one

    one = add("answer", "Answer a question about each photo.")
    one.add_argument("text", metavar="QUESTION")
    one = add("match", "How probably does a text describe each photo?")
    one.add_argument("text", metavar="TEXT")
    one = add("fill", "Fill in the words that [MASK] stands for.")
    one.add_argument("text", metavar="TEXT", help='such as "a [MASK] on a sofa"')
    one = commands.add_parser(
        "true-or-false",
        help="Is a statement about two photos true?",
        parents=[common],
    )
    one.add_argument("photos", nargs=1, metavar="LEFT")
    one.add_argument("right", metavar="RIGHT")
    one.add_argument("text", metavar="STATEMENT")
    one = add("rank", "The best texts for each photo, and the best photos for each.")
    one.add_argument("--text", action="append", help="may be given several times")
    one.add_argument("--texts", metavar="FILE", help="a text on each line")
    one.add_argument("--by", default="", help="head that scores; see Predictor.rank")
    commands.add_parser("doctor", help="What this machine has, and what to do next.")
    return whole


if __name__ == "__main__":
    sys.exit(main())
