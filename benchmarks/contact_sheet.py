"""Draws held-out photos with the captions that a model finds for them.

    python benchmarks/contact_sheet.py MODEL --output=sheet.png \
      --config=configs/pretrain.py:photos --config.data.root=FOLDER

shows the first photos of the held-out split, each with the three captions that fit it
best among all captions of the split, and with one of its own captions, of which one
word was masked and filled in by the model. Nothing is chosen by hand: photos come in
the split's order, the caption is the photo's first, the word is drawn by a seed.
"""

import argparse
import itertools
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from pixel_bert_jax import ImageError, Predictor
from pixel_bert_jax.config.command_line import parse
from pixel_bert_jax.convert.photos import to_pixels
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.types import EXIT_BAD_INPUT, InputError
from pixel_bert_jax.viz.held_out import Found, draw_found

MOST = 3  # captions shown for each photo


def has_word(caption: str) -> bool:
    """Returns whether a caption has a word of letters alone."""
    return any(re.fullmatch(r"[A-Za-z]+", word) for word in caption.split())


def masked(caption: str, random: np.random.Generator) -> tuple[list[str], int, str]:
    """Returns the words of a caption with one masked, its position, and that word."""
    words = caption.split()
    letters = [n for n, word in enumerate(words) if re.fullmatch(r"[A-Za-z]+", word)]
    place = int(random.choice(letters))
    truth, words[place] = words[place].lower(), "[MASK]"
    return words, place, truth


def main() -> int:
    """Draws the sheet and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", help="exported folder or hub id")
    parser.add_argument("--output", type=Path, required=True, help="PNG file")
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the masked words")
    given, flags = parser.parse_known_args()
    try:
        launch, _ = parse(["", *flags])
        index = Experiment(launch.config).corpora.index("evaluate")
        predictor = Predictor.from_pretrained(given.model)
        every = [index.caption(0, n) for n in range(index.num_texts(0))]
        tokenizer, most = (
            predictor.pretrained.tokenizer,
            predictor.pretrained.text_length,
        )
        fits = [not tokenizer.encode([caption], most)[1] for caption in every]
        print(f"{fits.count(False)} of {len(every)} captions are too long for it")
        captions = list(itertools.compress(every, fits))
        owner = index.text_image(0)[fits]
        rows = np.unique(owner)[: given.photos]
        photos = [index.read(int(row)) for row in rows]
        ranking = predictor.rank(photos, captions, by="contrast")
        random, shown = np.random.default_rng(given.seed), []
        for n, row in enumerate(rows):
            own = [captions[t] for t in np.flatnonzero(owner == row)]
            words, place, truth = masked(next(filter(has_word, own)), random)
            ((best, *_),) = predictor.fill_mask(photos[n], " ".join(words), top_k=1)
            texts = ranking.texts[n, :MOST]
            shown.append(
                Found(
                    image=to_pixels(photos[n])[0],
                    texts=[captions[t] for t in texts],
                    right=[owner[t] == row for t in texts],
                    words=words,
                    place=place,
                    guess=best.word,
                    truth=truth,
                )
            )
    except (InputError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    draw_found(shown, given.output)
    hits = sum(one.right[0] for one in shown)
    print(f"{given.output}: {hits} of {len(shown)} photos have an own caption first")
    return 0


if __name__ == "__main__":
    sys.exit(main())
