"""Imported weights give what their own framework gives, in float32."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pixel_bert_jax import trees
from pixel_bert_jax.convert import bert, resnet
from pixel_bert_jax.convert.weights import Tensor, open_weights
from pixel_bert_jax.models.bert import Encoder, TextEmbedding
from pixel_bert_jax.models.heads import MaskedWordHead
from pixel_bert_jax.models.resnet import ResNet
from pixel_bert_jax.types import InputError
from tests.convert import torch_models
from tests.convert.torch_models import difference

TOLERANCE = 1e-4  # on activations of unit variance
V, L, D, N, HIDDEN, LAYERS, POSITIONS = 96, 11, 32, 4, 64, 3, 24
EMBEDDING = TextEmbedding(V, POSITIONS, D, 0.0, 0.02)
ENCODER = Encoder(LAYERS, D, N, HIDDEN, 0.0, 0.02)
HEAD = MaskedWordHead(D, V, 0.02)


def tensors(model):
    """The state dict as `open_weights` would list it."""
    return {
        name: Tensor(tuple(x.shape), x.detach().numpy)
        for name, x in model.state_dict().items()
    }


def bert_shapes(embedding=EMBEDDING, encoder=ENCODER, head=HEAD):
    def make():
        key, ids = jax.random.key(0), jnp.zeros((1, L), jnp.int32)
        x = jnp.zeros((1, L, embedding.features))
        mask = jnp.ones((1, L), bool)
        word = jnp.zeros((embedding.vocab_size, embedding.features))
        return {
            "text": embedding.init(key, ids, train=False)["params"],
            "encoder": encoder.init(key, x, mask, train=False)["params"],
            "heads": {"mlm": head.init(key, x, word)["params"]},
        }

    flat = trees.flatten(jax.eval_shape(make))
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def compare_bert(model, embedding, encoder, head):
    """Returns the largest differences of embedding and layers, and of logits."""
    shapes = bert_shapes(embedding, encoder, head)
    arrays, report = bert.import_bert(tensors(model), shapes, "model")
    assert set(arrays) == set(shapes) and not report.missing
    params = trees.unflatten(arrays)
    random = np.random.default_rng(0)
    ids = random.integers(0, embedding.vocab_size, (4, L))
    mask = np.arange(L) < np.array([L, 7, 3, 1])[:, None]
    with torch.no_grad():
        out = model.bert(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask.astype(np.int64)),
            output_hidden_states=True,
        )
        logits = model.cls.predictions(out.last_hidden_state)
    x = embedding.apply({"params": params["text"]}, ids, train=False)
    y, state = encoder.apply(
        {"params": params["encoder"]},
        x,
        jnp.asarray(mask),
        train=False,
        capture_intermediates=lambda module, _: (module.name or "").startswith("layer"),
    )
    layers = [
        state["intermediates"][f"layer{n}"]["__call__"][0]
        for n in range(encoder.layers)
    ]
    hidden = [
        difference(np.asarray(ours)[mask], theirs.numpy()[mask])
        for ours, theirs in zip([x, *layers], out.hidden_states, strict=True)
    ]
    word = params["text"]["word"]
    found = head.apply({"params": params["heads"]["mlm"]}, y, word)
    return max(hidden), difference(np.asarray(found)[mask], logits.numpy()[mask])


def test_bert_gives_the_same_in_every_layer():
    found = compare_bert(torch_models.bert(), EMBEDDING, ENCODER, HEAD)
    assert max(found) <= TOLERANCE


@pytest.mark.slow
def test_bert_base_gives_the_same_in_every_layer():
    model = torch_models.bert(
        vocab_size=30522,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=512,
        initializer_range=0.02,
    )
    hidden, logits = compare_bert(
        model,
        TextEmbedding(30522, 512, 768, 0.0, 0.02),
        Encoder(12, 768, 12, 3072, 0.0, 0.02),
        MaskedWordHead(768, 30522, 0.02),
    )
    print(f"BERT-base: layers {hidden:.1e}, logits {logits:.1e}")
    assert max(hidden, logits) <= TOLERANCE


def test_bert_there_and_back():
    model = torch_models.bert()
    shapes = bert_shapes()
    arrays, _ = bert.import_bert(tensors(model), shapes, "model")
    out = bert.export_bert(arrays)
    back = {n: Tensor(x.shape, lambda x=x: x) for n, x in out.items()}
    again, _ = bert.import_bert(back, shapes, "export")
    assert set(again) == set(arrays)
    for path, array in arrays.items():
        np.testing.assert_array_equal(again[path], array)
    other = torch_models.bert(seed=1)
    state = {n: torch.tensor(x) for n, x in out.items()}
    left = other.load_state_dict(state, strict=False)
    assert not left.unexpected_keys
    assert all(
        "pooler" in n or "seq_rel" in n or "decoder" in n or "position_ids" in n
        for n in left.missing_keys
    )
    other.tie_weights()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        wanted = model(ids).prediction_logits
        found = other(ids).prediction_logits
    assert difference(found.numpy(), wanted.numpy()) <= TOLERANCE


def cnn_shapes(module):
    size = jnp.full((1, 2), 64, jnp.int32)
    made = jax.eval_shape(
        lambda: module.init(
            jax.random.key(0), jnp.zeros((1, 64, 64, 3)), size, train=False
        )
    )
    flat = trees.flatten({c: {"backbone": made[c]} for c in ("params", "batch_stats")})
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def import_cnn(model, module):
    return resnet.import_resnet(
        tensors(model), cnn_shapes(module), "model", groups=module.groups, norm="batch"
    )


def run_cnn(module, arrays, image, depths):
    """Every stage's output [N, C, h, w] on a larger canvas, cut to the image."""
    tree = trees.unflatten(arrays)
    variables = {c: tree[c]["backbone"] for c in ("params", "batch_stats")}
    count, _, height, width = image.shape
    canvas = np.zeros((count, height + 37, width + 22, 3), np.float32)
    canvas[:, :height, :width] = image.transpose(0, 2, 3, 1)
    size = np.tile([[height, width]], (count, 1)).astype(np.int32)
    last = {f"stage{n}_block{depth - 1}" for n, depth in enumerate(depths, 1)}
    _, state = module.apply(
        variables,
        canvas,
        size,
        train=False,
        capture_intermediates=lambda m, _: m.name in last,
    )
    return [
        np.asarray(state["intermediates"][name]["__call__"][0]).transpose(0, 3, 1, 2)
        for name in sorted(last)
    ]


CASES = {
    "resnet": dict(depths=(1, 2, 1), widths=(32, 64, 128), inner=(8, 16, 32), groups=1),
    "resnext": dict(
        depths=(1, 2, 1), widths=(32, 64, 128), inner=(16, 32, 64), groups=4
    ),
}


def module_of(depths, widths, inner, groups):
    strides = (1, *(2,) * (len(depths) - 1))
    return ResNet(
        depths, widths, strides, inner, groups, stem="conv7_pool", norm="frozen"
    )


WIDTHS = (256, 512, 1024, 2048)
FULL = {
    "ResNet-50": dict(
        depths=(3, 4, 6, 3), widths=WIDTHS, inner=(64, 128, 256, 512), groups=1
    ),
    "ResNeXt-152 32x8d": dict(
        depths=(3, 8, 36, 3), widths=WIDTHS, inner=WIDTHS, groups=32
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [(107, 161), (64, 96)])
def test_resnets_give_the_same_in_every_stage(name, size):
    assert max(compare_cnn(CASES[name], size, 2)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size_resnets_give_the_same_in_every_stage(name):
    differences = compare_cnn(FULL[name], (427, 641), 1)
    print(f"{name}, stages: {', '.join(f'{x:.1e}' for x in differences)}")
    assert max(differences) <= TOLERANCE


def compare_cnn(case, size, count):
    """Returns the largest difference of each stage."""
    model, module = torch_models.resnet(**case), module_of(**case)
    arrays, report = import_cnn(model, module)
    assert not report.missing
    image = np.random.default_rng(0).normal(0, 1, (count, 3, *size)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.tensor(image))
    found = run_cnn(module, arrays, image, case["depths"])
    return [
        difference(ours[:, :, : theirs.shape[2], : theirs.shape[3]], theirs.numpy())
        for ours, theirs in zip(found, wanted, strict=True)
    ]


def test_hugging_faces_resnet_equals_torchvisions_and_ours():
    case = CASES["resnet"]
    theirs = torch_models.hugging_face_resnet(case["depths"], case["widths"])
    module = module_of(**case)
    arrays, _ = import_cnn(theirs, module)
    # The reference of these tests, with groups = 1, against Hugging Face's.
    reference = torch_models.resnet(**case, seed=1)
    state = resnet.export_torchvision(arrays)
    left = reference.load_state_dict(
        {n: torch.tensor(x) for n, x in state.items()}, strict=False
    )
    assert not left.unexpected_keys
    assert all(n.endswith("num_batches_tracked") for n in left.missing_keys)
    image = torch.randn((2, 3, 75, 91), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = theirs(image, output_hidden_states=True).hidden_states[1:]
        other = reference(image)
    found = run_cnn(module, arrays, image.numpy(), case["depths"])
    for ours, a, b in zip(found, wanted, other, strict=True):
        height, width = a.shape[2:]
        assert difference(b.numpy(), a.numpy()) <= TOLERANCE
        assert difference(ours[:, :, :height, :width], a.numpy()) <= TOLERANCE
    out = resnet.export_hugging_face(arrays)
    again = torch_models.hugging_face_resnet(case["depths"], case["widths"], seed=2)
    bare = {n.removeprefix("resnet."): torch.tensor(x) for n, x in out.items()}
    left = again.load_state_dict(bare, strict=False)
    assert not left.unexpected_keys
    with torch.no_grad():
        found = again(image).last_hidden_state.numpy()
    assert difference(found, wanted[-1].numpy()) <= TOLERANCE


@pytest.mark.parametrize("kind", ["zip", "parameters", "nested", "legacy"])
def test_files_of_torch_are_read_without_torch(tmp_path, kind):
    model = torch_models.bert()
    state = model.state_dict()
    # A view with strides and an offset, another type, and a shared storage.
    table = torch.randn(6, 8)
    state["view"] = table.T[2:5, ::2]
    state["half"] = torch.randn(3, 4).half()
    state["bfloat16"] = torch.randn(3, 4).bfloat16()
    state["scalar"] = torch.tensor(7)
    if kind == "parameters":
        state = {
            n: torch.nn.Parameter(x, requires_grad=False) for n, x in state.items()
        }
    content = {"epoch": 3, "state_dict": state} if kind == "nested" else state
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    found = open_weights(path)
    assert list(found) == list(state)
    for name, x in state.items():
        array = found[name].read()
        assert found[name].shape == tuple(x.shape) == array.shape
        np.testing.assert_array_equal(
            array.astype(np.float32), x.detach().float().numpy(), name
        )


@pytest.mark.parametrize("cut", [3, 3000, 9990])
def test_truncated_files_of_old_versions_of_torch_are_refused(tmp_path, cut):
    path = tmp_path / "weights.pth"
    content = {"a": torch.randn(50, 50), "b": torch.ones(3)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with pytest.raises(InputError, match=r"weights\.pth cannot be read as weights"):
        open_weights(path)


def test_old_files_that_ask_for_code_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": Path}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"pathlib.*not part of any weights"):
        open_weights(path)


def test_truncated_files_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.randn(50, 50)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 3000])
    with pytest.raises(InputError, match=r"weights\.pth"):
        open_weights(path)["a"].read()
