"""Parts of a model load in the classes of the libraries that they are written for."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
import transformers
from safetensors.torch import load_file

from configs import pretrain
from pixel_bert_jax import dry_run, models, trees
from pixel_bert_jax.config import Init, resolve
from pixel_bert_jax.convert import parts, starting
from pixel_bert_jax.convert.pretrained import Pretrained
from pixel_bert_jax.data.text import load_tokenizer
from pixel_bert_jax.models.bert import Encoder, TextEmbedding
from pixel_bert_jax.models.heads import MaskedWordHead
from pixel_bert_jax.types import InputError
from tests.convert import torch_models
from tests.convert.torch_models import difference

TOLERANCE = 1e-4
FEATURES, HEADS, LAYERS, HIDDEN = 32, 4, 2, 48


def random_model(**backbone):
    """The paper's layout, small, with random variables."""
    config = pretrain.get_config("r50")
    tokenizer = load_tokenizer("scenes")
    config.model.update(
        features=FEATURES, heads=HEADS, layers=LAYERS, hidden=HIDDEN, max_positions=32
    )
    config.model.backbone.update(
        depths=(1, 2), widths=(32, 64), inner=(8, 16), strides=(1, 2)
    )
    config.model.backbone.update(backbone)
    config.model.dtype = "float32"
    config.dry_run.vocab_size = tokenizer.vocab_size
    config = json.loads(config.to_json_best_effort())
    shapes = dry_run.Planned(config).variable_shapes
    random = np.random.default_rng(0)
    flat = {
        path: (
            random.uniform(0.5, 1.5, leaf.shape)
            if path.endswith(("scale", "var"))
            else random.normal(0, 0.2, leaf.shape)
        ).astype(np.float32)
        for path, leaf in trees.flatten(shapes).items()
    }
    return Pretrained.of(trees.unflatten(flat), config, tokenizer, {})


def test_text_loads_as_hugging_faces_bert(tmp_path):
    model = random_model()
    parts.export_text(model, tmp_path / "text")
    theirs, report = transformers.BertForMaskedLM.from_pretrained(
        tmp_path / "text", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "text")
    text = "a large red ring left of two discs"
    encoded = tokenizer(text, return_tensors="pt")
    (ids,), _ = model.tokenizer.encode([text], 22)
    assert encoded["input_ids"][0].tolist() == ids.tolist()
    with torch.no_grad():
        wanted = theirs.eval()(**encoded).logits.numpy()
    params = model.variables["params"]
    embed = TextEmbedding(model.tokenizer.vocab_size, 32, FEATURES, 0.0, 0.02)
    x = embed.apply({"params": params["text"]}, jnp.asarray(ids[None]), train=False)
    encoder = Encoder(LAYERS, FEATURES, HEADS, HIDDEN, 0.0, 0.02)
    mask = jnp.ones((1, len(ids)), bool)
    y = encoder.apply({"params": params["encoder"]}, x, mask, train=False)
    head = MaskedWordHead(FEATURES, model.tokenizer.vocab_size, 0.02)
    logits = head.apply({"params": params["heads"]["mlm"]}, y, params["text"]["word"])
    assert difference(np.asarray(logits), wanted) <= TOLERANCE


def features(model, image):
    """The CNN's last map [N, C, h, w] of images [N, 3, H, W] that fill their canvas."""
    cnn = resolve(model.config).model.backbone
    module = models.build(models.BACKBONES, "model.backbone", cnn, norm="frozen")
    variables = {c: model.variables[c]["backbone"] for c in ("params", "batch_stats")}
    size = np.tile([image.shape[2:]], (len(image), 1)).astype(np.int32)
    out, _ = module.apply(
        variables, jnp.asarray(image.transpose(0, 2, 3, 1)), size, train=False
    )
    return np.asarray(out).transpose(0, 3, 1, 2)


IMAGE = np.random.default_rng(0).normal(0, 1, (2, 3, 75, 91)).astype(np.float32)


@pytest.mark.parametrize("inner", [(8, 16), ()], ids=["bottleneck", "basic"])
def test_cnn_loads_as_hugging_faces_resnet(tmp_path, inner):
    model = random_model(inner=inner)
    parts.export_cnn(model, tmp_path / "cnn", "hugging_face")
    theirs, report = transformers.ResNetModel.from_pretrained(
        tmp_path / "cnn", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        wanted = theirs.eval()(torch.tensor(IMAGE)).last_hidden_state.numpy()
    assert difference(features(model, IMAGE), wanted) <= TOLERANCE


@pytest.mark.parametrize("groups", [1, 4])
def test_cnn_loads_in_torchvisions_names(tmp_path, groups):
    model = random_model(groups=groups)
    parts.export_cnn(model, tmp_path / "cnn", "torchvision")
    theirs = torch_models.ResNet((1, 2), (32, 64), (8, 16), groups).eval()
    theirs.load_state_dict(load_file(tmp_path / "cnn" / "model.safetensors"))
    with torch.no_grad():
        wanted = theirs(torch.tensor(IMAGE))[-1].numpy()
    assert difference(features(model, IMAGE), wanted) <= TOLERANCE


@pytest.mark.parametrize("layout", parts.LAYOUTS)
def test_parts_start_a_new_model_bit_for_bit(tmp_path, layout):
    model = random_model()
    parts.export_text(model, tmp_path / "text")
    parts.export_cnn(model, tmp_path / "cnn", layout)
    cnn = tmp_path / "cnn"
    if layout == "torchvision":
        cnn /= "model.safetensors"
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), model.variables
    )
    arrays, _ = starting.load(
        Init(text=str(tmp_path / "text"), cnn=str(cnn)),
        resolve(model.config).model,
        shapes,
        model.tokenizer.vocabulary,
    )
    flat = trees.flatten(model.variables)
    assert len(arrays) > 40
    for path, array in arrays.items():
        np.testing.assert_array_equal(array, flat[path], path)


def test_cnns_that_a_library_does_not_have(tmp_path):
    with pytest.raises(InputError, match="groups is 4, expected 1"):
        parts.export_cnn(random_model(groups=4), tmp_path / "cnn", "hugging_face")
    with pytest.raises(InputError, match="layout 'caffe'"):
        parts.export_cnn(random_model(), tmp_path / "cnn", "caffe")
    with pytest.raises(InputError, match=r"stem is 'conv3', expected 'conv7_pool'"):
        parts.export_cnn(random_model(stem="conv3"), tmp_path / "cnn", "torchvision")
    assert not (tmp_path / "cnn").exists()
