"""Published weights of ResNet and ResNeXt: torchvision, Hugging Face, Detectron.

Our bottlenecks have their stride in the 3x3 convolution. Models that have it in a 1x1
convolution are rejected: Detectron's ResNets without groups, and Hugging Face's with
`downsample_in_bottleneck` (by their config, see `starting.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from pixel_bert_jax.convert.rules import (
    CONV,
    Report,
    Rule,
    Table,
    export_weights,
    import_weights,
)
from pixel_bert_jax.convert.tensors import Tensor
from pixel_bert_jax.models.norm import EPSILON
from pixel_bert_jax.types import InputError

STEM = "params/backbone/stem/conv/kernel"


def norm_rules(source: str, path: str) -> list[Rule]:
    """Returns the rules of a batch norm of torch."""
    return [
        Rule(f"{source}.weight", f"params/backbone/{path}/scale"),
        Rule(f"{source}.bias", f"params/backbone/{path}/bias"),
        Rule(f"{source}.running_mean", f"batch_stats/backbone/{path}/mean"),
        Rule(f"{source}.running_var", f"batch_stats/backbone/{path}/var"),
        Rule(f"{source}.num_batches_tracked", ""),
    ]


def conv_rule(source: str, path: str) -> Rule:
    """Returns the rule of a convolution's kernel."""
    return Rule(source, f"params/backbone/{path}/conv/kernel", CONV)


_BLOCK = "stage{s}_block{b}"
TORCHVISION = Table(
    name="torchvision's ResNet",
    prefix="",
    rules=(
        conv_rule("conv1.weight", "stem"),
        *norm_rules("bn1", "stem_norm"),
        conv_rule("layer{s}.{b}.conv{k}.weight", _BLOCK + "/conv{k}"),
        *norm_rules("layer{s}.{b}.bn{k}", _BLOCK + "/norm{k}"),
        conv_rule("layer{s}.{b}.downsample.0.weight", _BLOCK + "/shortcut"),
        *norm_rules("layer{s}.{b}.downsample.1", _BLOCK + "/shortcut_norm"),
        Rule("fc.weight", ""),
        Rule("fc.bias", ""),
    ),
)

_LAYER, _PATH = "encoder.stages.{s}.layers.{b}.", "stage{s+1}_block{b}/"
HUGGING_FACE = Table(
    name="Hugging Face's ResNet",
    prefix="resnet.",
    rules=(
        conv_rule("embedder.embedder.convolution.weight", "stem"),
        *norm_rules("embedder.embedder.normalization", "stem_norm"),
        conv_rule(f"{_LAYER}layer.{{k}}.convolution.weight", _PATH + "conv{k+1}"),
        *norm_rules(f"{_LAYER}layer.{{k}}.normalization", _PATH + "norm{k+1}"),
        conv_rule(f"{_LAYER}shortcut.convolution.weight", _PATH + "shortcut"),
        *norm_rules(f"{_LAYER}shortcut.normalization", _PATH + "shortcut_norm"),
        Rule("classifier.1.weight", ""),
        Rule("classifier.1.bias", ""),
    ),
)


def _affine(source: str, path: str) -> list[Rule]:
    return [
        Rule(f"{source}_s", f"params/backbone/{path}/scale"),
        Rule(f"{source}_b", f"params/backbone/{path}/bias"),
    ]


_BRANCHES = (("branch2a", "1"), ("branch2b", "2"), ("branch2c", "3"))
DETECTRON = Table(
    name="Detectron's ResNeXt",
    prefix="",
    rules=(
        conv_rule("conv1_w", "stem"),
        *_affine("res_conv1_bn", "stem_norm"),
        *(
            rule
            for branch, k in _BRANCHES
            for rule in (
                conv_rule(f"res{{s+1}}_{{b}}_{branch}_w", f"{_BLOCK}/conv{k}"),
                *_affine(f"res{{s+1}}_{{b}}_{branch}_bn", f"{_BLOCK}/norm{k}"),
            )
        ),
        conv_rule("res{s+1}_{b}_branch1_w", f"{_BLOCK}/shortcut"),
        *_affine("res{s+1}_{b}_branch1_bn", f"{_BLOCK}/shortcut_norm"),
        Rule("fc1000_w", ""),
        Rule("fc1000_b", ""),
    ),
    # Its norms are affine maps: `_from_detectron` adds statistics that change nothing.
    optional=(r"batch_stats/.*",),
)
# Name that occurs in only one kind of file -> table of that kind.
KINDS = {
    "conv1_w": DETECTRON,
    "conv1.weight": TORCHVISION,
    "embedder.embedder.convolution.weight": HUGGING_FACE,
    "resnet.embedder.embedder.convolution.weight": HUGGING_FACE,
}


def import_resnet(
    weights: Mapping[str, Tensor],
    target: Mapping[str, tuple[int, ...]],
    where: str,
    *,
    groups: int,
    norm: str,
) -> tuple[dict[str, np.ndarray], Report]:
    """Converts the weights of a CNN; see `rules.import_weights`.

    Detectron's images are BGR, so the input channels of its stem are reversed. Its
    ResNeXt models use the mean and standard deviation of `ops/image.py`, ImageNet's.

    Args:
      weights: source name -> tensor, see `open_weights`.
      target: our path -> shape, of the CNN's parameters and running statistics.
      where: names the file in messages.
      groups: config.model.backbone.groups.
      norm: config.model.norm.

    Raises:
      InputError: as `import_weights`; also if the file is of no known kind, or of
        Detectron with `groups` 1 or a `norm` other than "frozen".
    """
    table = next((t for name, t in KINDS.items() if name in weights), None)
    if table is None:
        raise InputError(
            f"{where}: not a known kind of ResNet; expected one of the tensors "
            f"{', '.join(KINDS)}"
        )
    if table is DETECTRON and groups == 1:
        raise InputError(
            f"{where}: Detectron's ResNets have their stride in the 1x1 convolutions "
            "and read images of another scale; expected its ResNeXt, or torchvision's"
        )
    if table is DETECTRON and norm != "frozen":
        raise InputError(
            f"{where}: Detectron folds batch norms into affine maps; expected "
            f"model.norm = 'frozen', received {norm!r}"
        )
    arrays, report = import_weights(weights, table, target, where)
    if table is DETECTRON:
        _from_detectron(arrays, target)
    return arrays, report


def _from_detectron(
    arrays: dict[str, np.ndarray], target: Mapping[str, tuple[int, ...]]
) -> None:
    arrays[STEM] = np.ascontiguousarray(arrays[STEM][:, :, ::-1])
    for path, shape in target.items():
        if path.endswith("/mean"):
            arrays[path] = np.zeros(shape, np.float32)
        elif path.endswith("/var"):
            arrays[path] = np.full(shape, 1 - EPSILON, np.float32)


export_torchvision = partial(export_weights, table=TORCHVISION)
export_hugging_face = partial(export_weights, table=HUGGING_FACE)
