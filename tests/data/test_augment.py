"""Random sizes and mirrored images: drawn per example, within the plan's canvas."""

import numpy as np
import pytest

from pixel_bert_jax.data import geometry
from pixel_bert_jax.data.augment import Augmentation
from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.pipeline import Stream
from pixel_bert_jax.data.plan import TrainPlan
from pixel_bert_jax.types import InputError
from tests.data.conftest import PhotoFolder

SHORT, LONG, LEAST = 96, 128, 64


@pytest.fixture
def index(tokenizer, tmp_path):
    folder = PhotoFolder(tmp_path / "data", count=40)
    return build_or_open([folder.source()], tokenizer, 8, tmp_path / "index")


def steps(index, augmentation, groups=4, rows=None, start=0):
    plan = TrainPlan(
        [index.plan_corpus(0)],
        index.sizes,
        seed=3,
        groups=groups,
        texts_per_group=3,
        short=SHORT,
        long=LONG,
        canvases=[(LONG, SHORT), (SHORT, LONG)],
        source_canvases=[128],
    )
    options = dict(start=start, stop=12, augmentation=augmentation, rows=rows)
    with Stream(plan, index, **options) as stream:
        return list(stream)


def test_sizes_and_mirrors_are_drawn_anew_and_keep_the_rest(index):
    plain = steps(index, None)
    drawn = steps(index, Augmentation.of(7, LEAST, SHORT, mirror=True))
    sides, mirrored = [], []
    for before, after in zip(plain, drawn, strict=True):
        assert before.canvas == after.canvas
        for key in set(before.batch) - {"image", "image_size"}:
            np.testing.assert_array_equal(before.batch[key], after.batch[key])
        for g in np.flatnonzero(before.batch["example_mask"].any(1)):
            height, width = before.batch["source_size"][g, 0]
            old, new = (x.batch["image_size"][g, 0] for x in (before, after))
            assert (new <= old).all() and (new <= after.canvas).all()
            # The aspect ratio stays, up to rounding and the least side.
            scale = new.max() / old.max()
            want = np.maximum(old * scale, geometry.MINIMUM_SIDE)
            np.testing.assert_allclose(new, want, atol=1.01)
            sides.append(new.max() / old.max())
            old, new = (x.batch["image"][g, 0] for x in (before, after))
            old, new = old[:height, :width], new[:height, :width]
            mirrored.append(np.array_equal(new, old[:, ::-1]))
            assert mirrored[-1] or np.array_equal(new, old)
    assert len(set(sides)) > 10 and min(sides) < 0.75 and max(sides) > 0.95
    assert 0.3 < np.mean(mirrored) < 0.7


def test_a_draw_belongs_to_its_example_and_step(index):
    augmentation = Augmentation.of(7, LEAST, SHORT, mirror=True)
    whole = steps(index, augmentation)
    part = steps(index, augmentation, rows=np.array([1, 3]), start=5)
    for one, other in zip(whole[5:], part, strict=True):
        assert one.step == other.step
        for key in ("image", "image_size"):
            np.testing.assert_array_equal(one.batch[key][[1, 3]], other.batch[key])
    again = steps(index, augmentation._replace(seed=8))
    assert any(
        (a.batch["image_size"] != b.batch["image_size"]).any()
        for a, b in zip(whole, again, strict=True)
    )


def test_one_of_both_alone(index):
    ids = np.arange(400, dtype=np.uint32).reshape(100, 2, 2)
    short, mirrored = Augmentation.of(0, 0, SHORT, mirror=True).draw(0, ids, 2)
    assert (short == SHORT).all() and 0.4 < mirrored.mean() < 0.6
    short, mirrored = Augmentation.of(0, LEAST, SHORT, mirror=False).draw(0, ids, 2)
    assert not mirrored.any()
    assert (short.min(), short.max()) == (LEAST, SHORT)
    assert not Augmentation.of(0, 0, SHORT, mirror=False)
    for least in (63, 97):
        with pytest.raises(InputError, match="random_short_side is"):
            Augmentation.of(0, least, SHORT, mirror=False)
