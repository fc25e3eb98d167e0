"""Asks a trained model about photos.

    pixel-bert answer dog.jpg "what is on the sofa?"
    pixel-bert match dog.jpg "a dog sleeps" "a boat at sea"
    pixel-bert fill dog.jpg "a [MASK] sleeps on the [MASK]"
    pixel-bert true-or-false left.jpg right.jpg "both photos show a dog"
    pixel-bert rank holiday/ --text "a sunset at the beach" --text "people eating"

PHOTO is an image file, a folder of them, or a text file with a path on each line. The
model is a folder or a name on the Hugging Face hub; which commands it can do depends on
what it was trained for. `python -m pixel_bert_jax.predict` is the same program. Exit
codes: 0 done, 2 bad input, also if only some of the photos are bad.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pixel_bert_jax.types import EXIT_BAD_INPUT, EXIT_DONE, InputError

MODEL = "PIXEL_BERT_MODEL"  # environment variable
IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
LISTS = (".txt", ".lst")


class Result(NamedTuple):
    """What is printed for a photo.

    Attributes:
      photo: its path.
      lines: for readers.
      record: for programs.
    """

    photo: str
    lines: list[str]
    record: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    options = parser().parse_args(arguments)
    if options.command == "doctor":
        from pixel_bert_jax.predict import doctor

        return doctor.main()
    try:
        if options.top < 1:
            raise InputError(f"--top is {options.top}, expected at least 1")
        if not options.model:
            raise InputError(
                f"no model is named; give --model=FOLDER or set {MODEL}, such as to "
                "checkpoints/photos_small"
            )
        return _run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _run(options: argparse.Namespace) -> int:
    """Loads the model, runs the command over all photos, and prints."""
    photos = list(_photos(options.photos))
    import tqdm  # imported late, so that a wrong command line is reported at once

    from pixel_bert_jax.data.images import ImageError
    from pixel_bert_jax.predict.predictor import Predictor

    predictor = Predictor.from_pretrained(options.model)
    code, several, total = EXIT_DONE, len(photos) > 1, len(photos)
    quiet = not several or not sys.stderr.isatty()
    if options.command == "rank":
        results: Iterator[Result] = _rank(predictor, photos, options)
    else:
        function = COMMANDS[options.command]
        results = _each(predictor, photos, function, options)
    with tqdm.tqdm(total=total, unit="photo", disable=quiet) as bar:
        while True:
            try:
                result = next(results, None)
            except ImageError as error:
                print(f"error: {error}", file=sys.stderr)
                return EXIT_BAD_INPUT
            if result is None:
                return code
            bar.update(1)
            if "error" in result.record:
                code = EXIT_BAD_INPUT
                print(f"error: {result.record['error']}", file=sys.stderr)
            if options.json:
                print(json.dumps(result.record), flush=True)
            elif "error" not in result.record:
                before = f"{result.photo}: " if several else ""
                for line in result.lines:
                    print(f"{before}{line}", flush=True)


def _each(
    predictor: Any, photos: list[str], function: Any, options: argparse.Namespace
) -> Iterator[Result]:
    """Yields the result of each photo; a photo that cannot be read gives an error."""
    from pixel_bert_jax.data.images import ImageError

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
    chance = predictor.true_or_false(photo, options.right, options.text)
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
    found = predictor.rank(photos, texts, by=options.by)
    for n, photo in enumerate(photos):
        best = found.texts[n, : options.top].tolist()
        scored = [{"text": texts[t], "score": float(found.scores[n, t])} for t in best]
        lines = [f"{one['score']:.3f}  {one['text']}" for one in scored]
        yield Result(photo, lines, {"photo": photo, "texts": scored})
    if len(photos) > 1:
        for t, text in enumerate(texts):
            best = found.images[t, : options.top].tolist()
            scored = [
                {"photo": photos[n], "score": float(found.scores[n, t])} for n in best
            ]
            lines = [f"{one['score']:.3f}  {one['photo']}" for one in scored]
            yield Result(text, lines, {"text": text, "photos": scored})


def _photos(places: Sequence[str]) -> Iterator[str]:
    """Yields the paths of photos that are named, in folders, or in lists.

    Raises:
      InputError: a place does not exist, or has no photo.
    """
    for place in places:
        path = Path(place).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES)
            if not inside:
                raise InputError(f"{path} has no photos ({', '.join(IMAGES)})")
            yield from map(str, inside)
        elif path.suffix.lower() in LISTS:
            yield from _lines(place)
        elif path.exists():
            yield str(path)
        else:
            raise InputError(f"{path} does not exist; expected a photo or a folder")


def _lines(file: str) -> list[str]:
    """Returns the lines of a text file that are not empty.

    Raises:
      InputError: it cannot be read, or is empty.
    """
    try:
        lines = Path(file).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
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
