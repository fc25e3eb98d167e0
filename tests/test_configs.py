"""Every preset builds, and the tiny ones have the paper's ideas at work."""

import ast
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, pretrain
from pixel_bert_jax import dry_run, experiment
from pixel_bert_jax.config import load, replace, resolve
from pixel_bert_jax.data import geometry
from pixel_bert_jax.data.plan import Corpus, TrainPlan
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.models.resnet import STEMS, ResNet
from pixel_bert_jax.training import durations
from pixel_bert_jax.types import InputError

FULL_SIZE = ("", "r50", "x152", "x152_32x4d")
TINY = [name for name in pretrain.PRESETS if name.startswith("tiny")]

# backbone, front end, text embedding, encoder, heads. ResNet-50 without its classifier
# has 23,508,032 parameters in torchvision too; ResNeXt-152 by the same constructor
# (Bottleneck, [3, 8, 36, 3], groups 32) 120,323,392 and 57,902,400. BERT-base without
# segments and pooler has 108,890,112, text embedding and encoder together.
PARAMETERS = {
    "": (23_508_032, 1_574_400, 23_835_648, 85_054_464, 624_188),
    "tiny": (300_464, 12_544, 37_632, 264_960, 17_514),
    "tiny_long": (300_464, 12_544, 37_632, 264_960, 17_514),
    # EfficientNet-Lite0 without its classifier, 4,652,008 - 1,281,000.
    "photos": (3_371_008, 492_288, 11_739_648, 10_646_784, 474_813),
    "photos_cnn": (3_371_008, 492_288, 11_739_648, 10_646_784, 474_813),
    "flickr8k": (558_888, 20_736, 3_913_216, 396_544, 78_070),
    "r50": (23_508_032, 1_574_400, 23_835_648, 85_054_464, 624_188),
    "x152": (120_323_392, 1_574_400, 23_835_648, 85_054_464, 624_188),
    "x152_32x4d": (57_902_400, 1_574_400, 23_835_648, 85_054_464, 624_188),
}
PARTS = ("backbone", "front_end", "text", "encoder", "heads")
SCENES = 300  # enough to see every canvas


def total_stride(model) -> int:
    # The pool after the projection has stride 2.
    return 2 * STEMS[model.backbone.stem] * math.prod(model.backbone.strides)


def grids(config) -> dict[str, int]:
    """Cells of each canvas' grid."""
    stride = total_stride(config.model)
    sizes = {text: geometry.parse_canvas(text) for text in config.data.canvases}
    return {text: math.prod(x // stride for x in size) for text, size in sizes.items()}


def test_the_table_of_parameters_misses_no_preset():
    assert set(PARAMETERS) == set(pretrain.PRESETS)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if "x152" in name else ())
        for name in PARAMETERS
    ],
)
def test_numbers_of_parameters_are_exact(name):
    config = resolve(pretrain.get_config(name))
    params = dry_run.Planned(config).variable_shapes["params"]
    assert set(params) == set(PARTS)
    counted = tuple(experiment.count_parameters(params[part]) for part in PARTS)
    assert counted == PARAMETERS[name]


@pytest.mark.parametrize("name", pretrain.PRESETS)
def test_preset_builds(name):
    config = pretrain.get_config(name)
    assert config.preset == (name or "r50") and config.is_locked
    assert config.model.features % config.model.heads == 0
    assert config.data.max_text_length <= config.model.max_positions
    backbone = config.model.backbone
    if backbone.name == "resnet":
        lists = ("depths", "widths", "strides")
        assert len({len(backbone[name]) for name in lists}) == 1
    total = durations.steps(config.total, steps_per_epoch=1000)
    for duration in (config.optim.warmup, *config.optim.decays, config.eval.every):
        assert durations.steps(duration, steps_per_epoch=1000, total=total) > 0
    geometry.choose_canvas(  # every shape of photo finds a canvas
        geometry.target_sizes(
            np.array([[[600, 800]], [[800, 600]], [[700, 700]]]),
            config.data.short_side,
            config.data.long_side,
        ),
        [geometry.parse_canvas(text) for text in config.data.canvases],
    )


@pytest.mark.parametrize("name", TINY)
def test_tiny_presets_have_the_papers_ideas_at_work(name):
    config = pretrain.get_config(name)
    assert total_stride(config.model) == 16
    assert config.texts_per_group > 1
    assert len(config.data.canvases) >= 3
    # The paper samples 100 of 252 cells; at least a third of them is dropped here.
    most = {"tiny": 0.5, "tiny_long": 2 / 3}[name]
    for canvas, cells in grids(config).items():
        assert cells >= 36, canvas
        assert 0.4 <= config.model.sample_pixels / cells <= most, canvas


@pytest.mark.parametrize("name", TINY)
def test_all_canvases_of_tiny_presets_occur_in_the_plan(name):
    config = resolve(pretrain.get_config(name))
    data, texts = config.data, config.texts_per_group
    fields = {**data.scenes, **data.corpora[0], "train_scenes": SCENES}
    records = list(SOURCES["scenes"](fields, "train", None).images())
    plan = TrainPlan(
        [
            Corpus(
                name="scenes",
                weight=1.0,
                set_images=np.arange(SCENES, dtype=np.int32)[:, None],
                text_set=np.repeat(np.arange(SCENES), texts),
                image_ids=np.arange(SCENES),
            )
        ],
        np.array([(r.height, r.width) for r in records], np.int32),
        seed=config.seed,
        groups=config.groups,
        texts_per_group=texts,
        short=data.short_side,
        long=data.long_side,
        canvases=[geometry.parse_canvas(text) for text in data.canvases],
        source_canvases=data.source_canvases,
    )
    wanted = {geometry.parse_canvas(text) for text in data.canvases}
    assert {bucket.canvas for bucket in plan.buckets} == wanted
    shown = {plan.batch(step).bucket.canvas for step in range(plan.steps_per_epoch)}
    assert shown == wanted


def test_flickr8k_is_as_small_as_its_budget():
    config = pretrain.get_config("flickr8k")
    model = config.model
    assert total_stride(model) == 32
    assert grids(config) == {"128x128": 16}
    assert config.data.max_text_length + 16 == 50
    assert model.layers <= 2 and model.features <= 128
    cnn = ResNet(
        model.backbone.depths,
        model.backbone.widths,
        model.backbone.strides,
        norm=model.norm,
    )
    image, size = jnp.zeros((1, 128, 128, 3)), jnp.full((1, 2), 128, jnp.int32)
    variables = jax.eval_shape(
        lambda: cnn.init(jax.random.key(0), image, size, train=False)
    )
    forward = jax.jit(lambda v: cnn.apply(v, image, size, train=False)[0])
    counted = forward.lower(variables).cost_analysis()["flops"]
    operations = 2 * convolutions(model.backbone, 128)
    assert operations <= 0.2e9
    # XLA leaves out products with padding and adds norms.
    assert 0.8 * operations < counted < 1.1 * operations


def convolutions(backbone, side: int) -> int:
    """Multiply-adds of all convolutions over a square image."""
    side = -(-side // 2)
    before = backbone.widths[0]
    total = side**2 * 9 * 3 * before
    for depth, width, stride in zip(
        backbone.depths, backbone.widths, backbone.strides, strict=True
    ):
        assert depth == 1
        side = -(-side // stride)
        total += side**2 * (9 * before * width + 9 * width**2)
        if stride > 1 or before != width:
            total += side**2 * before * width
        before = width
    return total


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_sizes_are_the_papers(name):
    config = pretrain.get_config(name)
    sides = (800, 1333) if name in ("", "r50") else (600, 1000)
    assert (config.data.short_side, config.data.long_side) == sides
    assert config.groups * config.texts_per_group == 4160  # for the paper's 4,096
    assert config.model.sample_pixels == 100
    assert total_stride(config.model) == 64
    steps = {"steps_per_epoch": 1437, "total": 40 * 1437}
    assert durations.steps(config.total, steps_per_epoch=1437) == 40 * 1437
    decays = [durations.steps(d, **steps) for d in config.optim.decays]
    assert decays == [25 * 1437, 35 * 1437]
    cnn, transformer = config.optim.groups.cnn, config.optim.groups.transformer
    assert (cnn.kind, cnn.learning_rate, cnn.weight_decay) == ("sgd", 1e-2, 5e-4)
    assert (transformer.kind, transformer.learning_rate) == ("adamw", 1e-4)
    assert transformer.weight_decay == 1e-2
    assert not config.init.allow_scratch
    canvas = max(
        (geometry.parse_canvas(c) for c in config.data.canvases), key=math.prod
    )
    assert canvas in ((800, 1344), (1344, 800), (600, 1024), (1024, 600))


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_sizes_say_which_data_they_lack(name, monkeypatch, tmp_path):
    monkeypatch.delenv("PIXEL_BERT_DATA", raising=False)
    config = resolve(pretrain.get_config(name))
    needs = [path for c in config.data.corpora for path, _ in c["needs"]]
    assert len(needs) == 7

    def refused(root):
        changed = replace(config, {"data.root": root})
        with pytest.raises(InputError) as raised:
            _ = experiment.Experiment(changed).train_index
        return str(raised.value)

    text = refused("")
    for needed in (
        "unset",
        "configs/pretrain.py:tiny",
        "--config.data.root",
        "https://cocodataset.org",
        "caption_datasets.zip",
        "visualgenome",
        *needs,
    ):
        assert needed in text
    (tmp_path / "coco" / "train2014").mkdir(parents=True)
    text = refused(str(tmp_path))
    assert str(tmp_path) in text
    assert "found    coco/train2014 " in text
    assert "missing  coco/val2014 " in text


def test_configs_import_the_schema_alone(repository):
    """So that choosing a config is quick, and a wrong one is answered at once."""
    for path in (repository / "configs").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            else:
                continue
            names = [name for name in names if name.startswith("pixel_bert_jax")]
            assert set(names) <= {"pixel_bert_jax.config"}, path


def test_a_config_file_is_loaded_from_anywhere(repository, tmp_path):
    file = repository / "configs" / "pretrain.py"
    code = (
        "import importlib.util as u;"
        f"s = u.spec_from_file_location('x', {str(file)!r});"
        "m = u.module_from_spec(s); s.loader.exec_module(m);"
        "print(m.get_config('tiny').preset)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.stdout == "tiny\n", process.stderr


def test_fields_of_scenes_can_be_set_by_name(repository, tmp_path):
    config = load(
        f"{repository}/configs/pretrain.py:tiny,data.scenes.seed=7",
        {"data.scenes.evaluate_scenes": 3, "data.index_dir": tmp_path},
    )
    index = experiment.Experiment(config).corpora.index("evaluate")
    assert (index.sources[0].seed, index.sources[0].num_scenes) == (7, 3)


def test_the_base_is_locked():
    config = common.base()
    with pytest.raises((KeyError, AttributeError)):
        config.optim.acumulate = 2
