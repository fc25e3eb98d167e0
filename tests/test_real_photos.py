"""Real photos through the true geometry: 800/1333, five canvases, original sizes."""

import dataclasses
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import numpy as np
import pytest
from PIL import Image

from pixel_bert_jax.data import sources, text
from pixel_bert_jax.data.geometry import parse_canvas, target_sizes
from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.pipeline import Stream
from pixel_bert_jax.data.plan import Corpus, EvaluationPlan
from pixel_bert_jax.ops.image import RGB_MEAN, RGB_STD, prepare_images

pytestmark = pytest.mark.slow

CANVASES = ("1088x800", "1216x800", "1344x800", "800x1088", "800x1344", "1344x1344")
SQUARE = (1344, 1344)


@pytest.fixture(scope="module")
def index(real_data, tmp_path_factory):
    corpus = {
        "source": "coco",
        "name": "coco",
        "annotations": "annotations/captions_val2014.json",
        "images": "val2014",
    }
    source = sources.SOURCES["coco"](corpus, "evaluate", real_data / "coco")
    tokenizer = text.load_tokenizer(real_data / "bert" / "vocab.txt")
    folder = tmp_path_factory.mktemp("index")
    return build_or_open([source], tokenizer, 32, folder / "coco")


def plan_of(index, corpus, groups):
    return EvaluationPlan(
        [corpus],
        index.sizes,
        seed=0,
        groups=groups,
        texts_per_group=5,
        short=800,
        long=1333,
        canvases=[parse_canvas(c) for c in CANVASES],
        source_canvases=[640, 1344],
    )


def prepared(step):
    """The step's images as the CNN gets them, back in 0..255."""
    keys = ("image", "source_size", "image_size")
    batch = {key: step.batch[key] for key in keys}
    out = prepare_images(jax.tree.map(jax.numpy.asarray, batch), canvas=step.canvas)
    return np.asarray(out["image"]) * np.array(RGB_STD) + np.array(RGB_MEAN)


def check_photo(index, row, pixels, size):
    """Compares with Pillow's resize of the same file and looks at the padding."""
    corpus = index.sources[0]
    photo = Image.open(corpus.path(index.key(row))).convert("RGB")
    size_of_photo = np.array((photo.height, photo.width))
    height, width = target_sizes(size_of_photo, 800, 1333).tolist()
    assert tuple(size) == (height, width)
    wanted = photo.resize((width, height), Image.Resampling.BILINEAR)
    difference = np.abs(pixels[:height, :width] - np.asarray(wanted, np.float32))
    # Pillow rounds to whole numbers after each of its two passes.
    assert difference.max() < 2.01
    assert difference.mean() < 0.5
    padding = np.array(pixels)
    padding[:height, :width] = RGB_MEAN
    np.testing.assert_allclose(padding, np.broadcast_to(RGB_MEAN, padding.shape))
    return difference.max()


def test_every_photo_on_its_canvas(index):
    started = time.monotonic()
    seen, canvases, worst = set(), {}, 0.0
    plan = plan_of(index, index.plan_corpus(0), groups=4)
    with Stream(plan, index) as stream:
        for step in stream:
            pixels = prepared(step)
            for g, row in enumerate(plan.batch(step.step).images[:, 0]):
                if row < 0:
                    assert (step.batch["image_size"][g] == 0).all()
                    continue
                size = step.batch["image_size"][g, 0]
                worst = max(worst, check_photo(index, row, pixels[g, 0], size))
                seen.add(int(row))
                canvases[step.canvas] = canvases.get(step.canvas, 0) + 1
    assert len(seen) == len(index.sizes) == 159
    assert set(canvases) == {parse_canvas(c) for c in CANVASES} - {SQUARE}
    sizes = len(np.unique(index.sizes, axis=0))
    print(
        f"\n{len(seen)} photos of {sizes} sizes, photos a canvas {canvases}, largest "
        f"difference from Pillow {worst:.2f} of 255, {time.monotonic() - started:.0f} s"
    )


def test_a_pair_of_a_landscape_and_a_portrait_lies_on_the_square(index):
    wide = int(np.argmax(index.sizes[:, 1] / index.sizes[:, 0]))
    tall = int(np.argmax(index.sizes[:, 0] / index.sizes[:, 1]))
    single = index.plan_corpus(0)
    corpus = dataclasses.replace(
        single,
        set_images=np.array([[wide, tall]]),
        text_set=np.zeros_like(single.text_set),
        image_ids=single.image_ids[:1],
    )
    assert isinstance(corpus, Corpus)
    plan = plan_of(index, corpus, groups=1)
    with Stream(plan, index, stop=1) as stream:
        step = next(iter(stream))
    assert step.canvas == SQUARE
    pixels = prepared(step)
    for m, row in enumerate((wide, tall)):
        check_photo(index, row, pixels[0, m], step.batch["image_size"][0, m])
