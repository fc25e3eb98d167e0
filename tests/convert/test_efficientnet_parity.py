"""EfficientNet-Lite's imported weights give what torch gives, in float32."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pixel_bert_jax import trees
from pixel_bert_jax.convert import efficientnet_lite
from pixel_bert_jax.convert.tensors import Tensor
from pixel_bert_jax.models.efficientnet_lite import EfficientNetLite
from pixel_bert_jax.ops.image import RGB_MEAN, RGB_STD
from pixel_bert_jax.types import InputError
from tests.convert import torch_models
from tests.convert.test_torch_parity import cnn_shapes, tensors
from tests.convert.torch_models import difference

TOLERANCE = 1e-4
# Written by hand from the published tables: blocks, kernel, stride, expansion, width.
STAGES = {
    0: (
        *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
        *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
    ),
    4: (
        *((1, 3, 1, 1, 24), (4, 3, 2, 6, 32), (4, 5, 2, 6, 56), (6, 3, 2, 6, 112)),
        *((6, 5, 1, 6, 160), (8, 5, 2, 6, 272), (1, 3, 1, 6, 448)),
    ),
}


def model_of(variant):
    torch.manual_seed(0)
    return torch_models.randomize(torch_models.EfficientNetLite(STAGES[variant]).eval())


def compare(variant, size):
    """Returns the largest difference of the stem, of every block and of the head."""
    model, module = model_of(variant), EfficientNetLite(variant, norm="frozen")
    shapes = cnn_shapes(module)
    arrays, report = efficientnet_lite.import_efficientnet_lite(
        tensors(model), shapes, "model"
    )
    assert set(arrays) == set(shapes) and not report.missing
    pixels = np.random.default_rng(0).uniform(0, 255, (1, *size, 3))
    theirs = ((pixels - 127) / 128).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        wanted = [x.numpy() for x in model(torch.tensor(theirs))]
    canvas = np.full((1, size[0] + 37, size[1] + 22, 3), 5.0, np.float32)
    canvas[:, : size[0], : size[1]] = (pixels - RGB_MEAN) / RGB_STD
    tree = trees.unflatten(arrays)
    variables = {c: tree[c]["backbone"] for c in ("params", "batch_stats")}
    names = ("stem_norm", *(f"block{n}" for n in range(len(wanted) - 2)), "head_norm")

    @jax.jit
    def run(image):
        _, state = module.apply(
            variables,
            image,
            np.array([size], np.int32),
            train=False,
            capture_intermediates=lambda m, _: m.name in names,
        )
        found = [state["intermediates"][name]["__call__"][0] for name in names]
        ends = jax.nn.relu6(found[0]), jax.nn.relu6(found[-1])
        return [ends[0], *found[1:-1], ends[1]]

    return [
        difference(
            np.asarray(ours).transpose(0, 3, 1, 2)[:, :, : x.shape[2], : x.shape[3]], x
        )
        for ours, x in zip(run(canvas), wanted, strict=True)
    ]


@pytest.mark.parametrize("size", [(65, 94), (96, 64)])
def test_lite0_gives_the_same_in_every_block(size):
    assert max(compare(0, size)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("variant, size", [(0, (213, 299)), (4, (300, 187))])
def test_full_photos_give_the_same_in_every_block(variant, size):
    differences = compare(variant, size)
    print(f"EfficientNet-Lite{variant}, {size}: {max(differences):.1e}")
    assert max(differences) <= TOLERANCE


def test_there_and_back():
    model, module = model_of(0), EfficientNetLite()
    shapes = cnn_shapes(module)
    arrays, _ = efficientnet_lite.import_efficientnet_lite(
        tensors(model), shapes, "model"
    )
    out = efficientnet_lite.export_efficientnet_lite(arrays)
    state = model.state_dict()
    left = {n for n in state if not n.startswith("_fc") and "num_batches" not in n}
    assert set(out) == left
    for name, x in out.items():
        np.testing.assert_array_equal(x, state[name].numpy(), name)


def test_another_variant_is_refused():
    weights = tensors(model_of(0))
    with pytest.raises(InputError, match="does not fit this model as EfficientNet-Li"):
        efficientnet_lite.import_efficientnet_lite(
            weights, cnn_shapes(EfficientNetLite(4)), "lite0"
        )
    weights["_conv_more.weight"] = Tensor((1,), lambda: np.ones(1))
    with pytest.raises(InputError, match=r"_conv_more\.weight"):
        efficientnet_lite.import_efficientnet_lite(
            weights, cnn_shapes(EfficientNetLite()), "lite0"
        )
