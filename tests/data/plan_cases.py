"""A small set of photos and texts, and what the tests of plans ask of its batches."""

import dataclasses
from collections import Counter

import numpy as np

from pixel_bert_jax.data.plan import Corpus, TrainPlan

CANVASES = [(800, 1088), (800, 1216), (800, 1344), (1088, 800), (1344, 800)]
PHOTOS = [(480, 640), (427, 640), (640, 480), (768, 1024), (640, 426), (300, 640)]
IMAGES = 300
SIZES = np.array(PHOTOS, np.int32)[np.random.default_rng(0).integers(0, 6, IMAGES)]
SETTINGS = {
    "seed": 3,
    "groups": 8,
    "texts_per_group": 4,
    "short": 800,
    "long": 1333,
    "canvases": CANVASES,
    "source_canvases": (640, 1344),
}


def make_corpus(name="five", first=0, image_sets=120, counts=None, weight=1.0, M=1):
    """Returns a corpus whose texts are in no order; two image sets share each image."""
    generator = np.random.default_rng(first)
    counts = np.full(image_sets, 5) if counts is None else counts
    images = first + np.arange(image_sets)
    return Corpus(
        name,
        weight,
        np.stack([np.roll(images, -7 * m) for m in range(M)], axis=1),
        generator.permutation(np.repeat(np.arange(image_sets), counts)).astype(
            np.int32
        ),
        images // 2,
    )


def many(weight=1.0):
    """Returns a corpus with 0 to 40 texts an image set."""
    counts = np.random.default_rng(5).integers(0, 41, 100)
    return make_corpus("many", first=150, image_sets=100, counts=counts, weight=weight)


def make_plan(*corpora, kind=TrainPlan, **changes):
    return kind(corpora or (make_corpus(), many()), SIZES, **(SETTINGS | changes))


def epoch_of(plan, epoch):
    first = epoch * plan.steps_per_epoch
    return [plan.batch(step) for step in range(first, first + plan.steps_per_epoch)]


def texts_of(batches):
    """Returns how often each (corpus, text row) occurs."""
    shown = Counter()
    for batch in batches:
        for corpus, texts in zip(batch.corpus, batch.texts, strict=True):
            shown.update((int(corpus), text) for text in texts[texts >= 0].tolist())
    return shown


def every_text_once(plan):
    return Counter(
        (c, t) for c, x in enumerate(plan.corpora) for t in range(len(x.text_set))
    )


def assert_same(left, right):
    for field in dataclasses.fields(left):
        np.testing.assert_equal(
            getattr(left, field.name), getattr(right, field.name), field.name
        )
