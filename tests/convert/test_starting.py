"""Starting weights that do not fit, or should not be trusted: refused, nothing run."""

import dataclasses
import json
import os
import pickle
import re
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from configs import nlvr2, pretrain, retrieval, vqa
from pixel_bert_jax import dry_run, trees
from pixel_bert_jax.config import Init, resolve
from pixel_bert_jax.convert import bert, resnet, starting
from pixel_bert_jax.convert.weights import open_weights
from pixel_bert_jax.types import InputError

VOCABULARY = [f"w{n}" for n in range(50)]


def config_of(**backbone):
    """The full model's config with a small transformer and CNN."""
    config = pretrain.get_config("r50")
    config.model.features, config.model.heads, config.model.layers = 32, 4, 2
    config.model.hidden, config.model.max_positions = 48, 32
    config.model.backbone.depths = (1, 1, 1, 1)
    config.model.backbone.widths = (16, 32, 48, 64)
    config.model.backbone.inner = (4, 8, 12, 16)
    config.model.backbone.update(backbone)
    config.dry_run.vocab_size = len(VOCABULARY)
    return resolve(config)


def variables_of(config):
    """Random variables of the whole model, {path: array}."""
    shapes = trees.flatten(dry_run.Planned(config).variable_shapes)
    random = np.random.default_rng(0)
    return {
        path: random.normal(0, 1, leaf.shape).astype(np.float32)
        for path, leaf in shapes.items()
    }


def load_into(variables, model, text="", cnn=""):
    shapes = trees.unflatten(
        {p: jax.ShapeDtypeStruct(x.shape, x.dtype) for p, x in variables.items()}
    )
    init = Init(text=str(text), cnn=str(cnn))
    return starting.load(init, model, shapes, VOCABULARY)


@pytest.fixture(scope="module")
def model():
    return config_of().model


@pytest.fixture(scope="module")
def variables():
    return variables_of(config_of())


@pytest.fixture
def text(variables, tmp_path):
    """A folder as Hugging Face's `save_pretrained` writes it."""
    folder = tmp_path / "bert"
    folder.mkdir()
    params = {p.removeprefix("params/"): x for p, x in variables.items()}
    save_file(bert.export_bert(params), folder / "model.safetensors")
    fields = dict(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        hidden_act="gelu",
    )
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture
def cnn(variables, tmp_path):
    """A file in torchvision's names."""
    path = tmp_path / "resnet.safetensors"
    save_file(resnet.export_torchvision(variables), path)
    return path


@pytest.fixture
def load(model, variables):
    """Returns a function that loads weights into the model."""
    return lambda text="", cnn="": load_into(variables, model, text, cnn)


def rewrite(path, change):
    """Changes the tensors of a safetensors file."""
    arrays = {n: np.array(x.read()) for n, x in open_weights(path).items()}
    change(arrays)
    save_file({n: np.ascontiguousarray(x) for n, x in arrays.items()}, path)


def test_both_parts_come_back_bit_for_bit(load, text, cnn, variables):
    arrays, reports = load(text, cnn)
    for path, array in arrays.items():
        np.testing.assert_array_equal(array, variables[path], path)
    rest = {path.split("/")[1] for path in variables.keys() - arrays.keys()}
    assert rest == {"front_end", "heads"}
    heads = [p for p in variables.keys() - arrays.keys() if "/heads/" in p]
    assert all("/itm/" in path for path in heads)
    for report in reports.values():
        assert not report.missing and not report.reshaped
    assert "tensors loaded" in str(reports["text"])


@pytest.mark.parametrize(
    ("configs", "preset"),
    [
        # Presets of one size differ in their heads alone; one of each kind has them.
        pytest.param(c, p, marks=() if p in ("tiny", "r50") else pytest.mark.slow)
        for c in (pretrain, vqa, nlvr2, retrieval)
        for p in c.PRESETS
        if p
    ],
)
def test_every_parameter_of_a_preset_is_accounted_for(configs, preset):
    config = resolve(configs.get_config(preset))
    paths = trees.flatten(dry_run.Planned(config).variable_shapes)
    heads = "itm|image_words|answers|truth|retrieval"
    own = rf"(params/front_end/.*|params/heads/({heads})/.*)"
    for path in paths:
        name = bert.TABLE.source_of(path.removeprefix("params/"))
        name = name or resnet.TORCHVISION.source_of(path)
        assert bool(name) != bool(re.fullmatch(own, path)), path
    if config.model.backbone["inner"]:
        names = [resnet.DETECTRON.source_of(p) for p in paths if "/backbone/" in p]
        statistics = [p for p in paths if p.startswith("batch_stats/")]
        assert sum(name is None for name in names) == len(statistics)


def test_prefixes_and_missing_heads(load, text, variables):
    """Files of the bare encoder have neither the prefix nor an MLM head."""

    def bare(arrays):
        for name in list(arrays):
            array = arrays.pop(name)
            if name.startswith("bert."):
                arrays[name.removeprefix("bert.")] = array

    rewrite(text / "model.safetensors", bare)
    arrays, reports = load(text)
    np.testing.assert_array_equal(
        arrays["params/text/word"], variables["params/text/word"]
    )
    assert all(path.startswith("heads/mlm/") for path in reports["text"].missing)
    assert len(reports["text"].missing) == 5
    assert "start anew" in str(reports["text"])


def test_segments_fold_into_positions_and_long_tables_are_cut(load, text, variables):
    def change(arrays):
        position = "bert.embeddings.position_embeddings.weight"
        more = np.ones((8, 32), np.float32)
        arrays[position] = np.concatenate([arrays[position], more])
        arrays["bert.embeddings.token_type_embeddings.weight"][0] = 0.5

    rewrite(text / "model.safetensors", change)
    arrays, reports = load(text)
    position = "params/text/position"
    np.testing.assert_array_equal(arrays[position], variables[position] + 0.5)
    assert reports["text"].reshaped == ["text/position"]


QUERY = "bert.encoder.layer.1.attention.self.query.weight"
INNER = "bert.encoder.layer.0.intermediate.dense.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop(QUERY), r"nothing for encoder/layer1/query/kernel"),
        (
            lambda a: a.update({QUERY + "s": a.pop(QUERY)}),
            r"weights: not a name of BERT",
        ),
        (
            lambda a: a.update({INNER: a[INNER].T}),
            r"received \(32, 48\), expected \(48, 32",
        ),
        (lambda a: a.update({INNER: a[INNER][:-1]}), r"received \(47, 32\)"),
        (
            lambda a: a.update(
                {n.replace("layer.1", "layer.2"): x for n, x in a.items()}
            ),
            r"16 differences.*\n.*encoder\.layer\.2\.\S+ \(32,\) has no place",
        ),
        (
            lambda a: a.update({"cls.predictions.decoder.weight": np.ones((50, 32))}),
            "decoder is not tied to cls|decoder is not tied to bert",
        ),
        (
            lambda a: a.pop("cls.predictions.transform.dense.weight"),
            "of its MLM head heads/mlm/transform/kernel is missing",
        ),
        (
            lambda a: a.update({QUERY.removeprefix("bert."): a[QUERY]}),
            "are both encoder/layer1/query/kernel",
        ),
        (
            lambda a: a.pop("bert.embeddings.token_type_embeddings.weight"),
            "token_type_embeddings.weight is missing",
        ),
    ],
)
def test_unfitting_tensors_are_refused(load, text, change, message):
    rewrite(text / "model.safetensors", change)
    with pytest.raises(InputError, match=message):
        load(text)


def test_another_vocabulary_is_refused(load, text):
    name = "bert.embeddings.word_embeddings.weight"
    rewrite(
        text / "model.safetensors", lambda a: a.update({name: np.ones((51, 32), "f")})
    )
    with pytest.raises(InputError, match=r"received \(51, 32\), expected \(50, 32\)"):
        load(text)


def test_what_shapes_do_not_tell_is_read_from_the_config(load, text):
    file = text / "config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps(fields | {"num_attention_heads": 8}))
    with pytest.raises(
        InputError, match=r"num_attention_heads is 8, model\.heads is 4"
    ):
        load(text)
    file.write_text(json.dumps(fields | {"hidden_act": "relu"}))
    with pytest.raises(InputError, match="hidden_act is 'relu'"):
        load(text)
    file.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        load(text)
    file.unlink()
    with pytest.raises(InputError, match=r"has no config\.json"):
        load(text)


@pytest.mark.parametrize("kept", [10, 5000])
def test_truncated_files_are_refused(load, cnn, kept):
    cnn.write_bytes(cnn.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"resnet\.safetensors cannot be read"):
        load(cnn=cnn)


def test_other_cnns_are_refused(load, cnn):
    rewrite(cnn, lambda a: a.update({"layer1.1.conv1.weight": np.ones((4, 16, 1, 1))}))
    with pytest.raises(InputError, match=r"layer1\.1\.conv1\.weight .* has no place"):
        load(cnn=cnn)
    rewrite(cnn, lambda a: a.pop("conv1.weight"))
    with pytest.raises(InputError, match="not a known kind of ResNet"):
        load(cnn=cnn)


def caffe2_file(path, variables):
    """Blobs as Detectron pickled them: BGR, norms that are affine maps."""
    blobs = {}
    for name, array in variables.items():
        if match := resnet.DETECTRON.source_of(name):
            blobs[match[0]] = match[1].to_source(array)
    blobs["conv1_w"] = np.ascontiguousarray(blobs["conv1_w"][:, ::-1])
    blobs["fc1000_w"] = np.ones((3, 64), np.float32)
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    return path


def test_detectrons_blobs(tmp_path):
    config = config_of(groups=2)
    variables = variables_of(config)
    path = caffe2_file(tmp_path / "X-152.pkl", variables)
    with pytest.raises(InputError, match=r"expected model\.norm = 'frozen'"):
        load_into(variables, config.model, cnn=path)
    frozen = dataclasses.replace(config.model, norm="frozen")
    arrays, reports = load_into(variables, frozen, cnn=path)
    for name, array in arrays.items():
        if name.startswith("params/"):
            np.testing.assert_array_equal(array, variables[name], name)
    norm = "backbone/stage2_block0/norm3"
    scale = arrays[f"params/{norm}/scale"]
    factor = scale / np.sqrt(arrays[f"batch_stats/{norm}/var"] + 1e-5)
    np.testing.assert_allclose(factor, scale, rtol=1e-6)
    assert not arrays[f"batch_stats/{norm}/mean"].any()
    assert reports["cnn"].unused == ["fc1000_w"]


def test_detectrons_resnets_without_groups_are_refused(load, variables, tmp_path):
    path = caffe2_file(tmp_path / "R-50.pkl", variables)
    with pytest.raises(InputError, match="their stride in the 1x1"):
        load(cnn=path)


def test_blobs_hold_numbers_only(load, tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"conv1_w": np.array([{}])}, protocol=2))
    with pytest.raises(InputError, match="an array of type 'O8', not of numbers"):
        load(cnn=path)


def test_hugging_faces_resnet_with_its_stride_elsewhere_is_refused(
    load, variables, tmp_path
):
    save_file(resnet.export_hugging_face(variables), tmp_path / "model.safetensors")
    fields = {"hidden_act": "relu", "downsample_in_bottleneck": False}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(fields))
    arrays, _ = load(cnn=tmp_path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, variables[name], name)
    config.write_text(json.dumps(fields | {"downsample_in_bottleneck": True}))
    with pytest.raises(InputError, match="downsample_in_bottleneck is True"):
        load(cnn=tmp_path)


def test_other_words_of_the_same_number_are_refused(load, text):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (text / "vocab.txt").write_text("\n".join([*special, *VOCABULARY[5:]]) + "\n")
    with pytest.raises(InputError, match="5 of the rows that both have differ"):
        load(text)


def test_a_model_without_masked_words_needs_no_head(variables, model, text):
    rest = {p: x for p, x in variables.items() if "/heads/mlm/" not in p}
    arrays, reports = load_into(rest, model, text)
    assert arrays.keys() <= rest.keys() and not reports["text"].missing


class Evil:
    """A pickle of it makes a file when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "caffe2"])
def test_a_pickle_that_runs_code_is_refused(load, tmp_path, kind):
    trap = tmp_path / "trap"
    content = pickle.dumps({"conv1.weight": Evil(trap)}, protocol=2)
    path = tmp_path / ("weights.pkl" if kind == "caffe2" else "weights.pth")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"asks for posix\.mkdir"):
        load(cnn=path)
    assert not trap.exists()
    pickle.loads(content)  # the trap works
    assert trap.exists()


def test_names_that_lead_nowhere(load, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="neither a file nor a folder"):
        load(text=tmp_path / "none")
    with pytest.raises(InputError, match="no weights in"):
        (tmp_path / "config.json").write_text("{}")
        load(text=tmp_path)
    odd = tmp_path / "weights.h5"
    odd.write_bytes(b"x")
    with pytest.raises(InputError, match=r"expected a file that ends with .*\.pkl"):
        load(cnn=odd)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="the hub does not provide it"):
        load(text="nobody/no-such-model@main")


def test_a_cnn_without_a_converter_is_refused(load, cnn, monkeypatch):
    monkeypatch.delitem(starting.CNNS, "resnet")
    with pytest.raises(InputError, match="no converter for the CNN 'resnet'"):
        load(cnn=cnn)
