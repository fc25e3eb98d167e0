import jax
import numpy as np
import pytest

from pixel_bert_jax.data import fields, targets
from pixel_bert_jax.ops.image import prepare_images

SIZES = {"M": 2, "K": 3, "L": 5, "S": 8, "H": 6, "W": 4, "A": 7}
GROUPS = 2


def _arrays(held):
    shapes = fields.shapes(held, SIZES)
    return {
        n: np.zeros((GROUPS, *shape), dtype) for n, (shape, dtype) in shapes.items()
    }


def test_shapes_put_numbers_for_letters():
    held = {**fields.FIELDS, **targets.AnswerTargets.fields}
    shapes = fields.shapes(held, SIZES)
    assert list(shapes) == list(held)
    assert shapes["image"] == ((2, 8, 8, 3), np.uint8)
    assert shapes["example_id"] == ((3, 2), np.uint32)
    assert shapes["corpus"] == ((), np.int32)
    assert shapes["answer_scores"] == ((3, 7), np.float32)
    with pytest.raises(KeyError, match="A"):
        fields.shapes(held, {k: v for k, v in SIZES.items() if k != "A"})


def test_prepared_fields_are_what_preparing_gives():
    held = {**fields.FIELDS, **fields.EVALUATION_FIELDS, **targets.TruthTargets.fields}
    canvas = SIZES["H"], SIZES["W"]
    out = jax.eval_shape(lambda batch: prepare_images(batch, canvas), _arrays(held))
    expected = fields.shapes(fields.prepared(held), SIZES)
    assert out.keys() == expected.keys()
    for name, (shape, dtype) in expected.items():
        assert (out[name].shape, out[name].dtype) == ((GROUPS, *shape), dtype), name


def test_only_images_stay_on_their_devices():
    names = ["features", "image", "other_features", "other_image"]
    assert sorted(fields.LARGE) == names
    large = [n for n, f in fields.prepared(fields.FIELDS).items() if f.large]
    assert large == ["image"]
