"""Reference models in torch, and their weights in the files that people have.

Imported only where torch is installed.
"""

import numpy as np
import torch
import transformers
from torch import nn


def difference(ours, theirs):
    """max|d| of activations in units of the reference's deviation."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape and np.isfinite(ours).all()
    return float(np.abs(ours - theirs).max() / max(theirs.std(), 1e-6))


def bert(seed=0, **fields):
    """Hugging Face's `BertForPreTraining` with random weights, small if not told."""
    torch.manual_seed(seed)
    small = dict(
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=24,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    config = transformers.BertConfig(**(small | fields))
    model = transformers.BertForPreTraining(config).eval()
    return randomize(model)


def randomize(model):
    """Moves what starts at 0 or 1 away from it, so that nothing passes by accident."""
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if not x.is_floating_point():
                continue
            if name.endswith("running_var"):
                x.copy_(torch.rand_like(x) + 0.5)
            elif x.ndim == 1:
                x.add_(torch.randn_like(x) * 0.2)
    return model


class Bottleneck(nn.Module):
    """1x1, 3x3 in groups with the stride, 1x1; torchvision's names."""

    def __init__(self, entering, inner, features, stride, groups):
        super().__init__()
        self.conv1 = nn.Conv2d(entering, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(
            inner, inner, 3, stride, padding=1, groups=groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, features, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(features)
        self.downsample = None
        if stride > 1 or entering != features:
            self.downsample = nn.Sequential(
                nn.Conv2d(entering, features, 1, stride, bias=False),
                nn.BatchNorm2d(features),
            )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet or, with groups, ResNeXt, in torchvision's names; returns every stage."""

    def __init__(self, depths, widths, inner, groups=1):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.stages = len(depths)
        entering = 64
        for stage, (depth, width, middle) in enumerate(
            zip(depths, widths, inner, strict=True), 1
        ):
            blocks = []
            for block in range(depth):
                stride = 2 if stage > 1 and block == 0 else 1
                blocks.append(Bottleneck(entering, middle, width, stride, groups))
                entering = width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.max_pool2d(x, 3, 2, padding=1)
        stages = []
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
            stages.append(x)
        return stages


def resnet(depths, widths, inner, groups=1, seed=0):
    """A `ResNet` with random weights and statistics."""
    torch.manual_seed(seed)
    return randomize(ResNet(depths, widths, inner, groups).eval())


def hugging_face_resnet(depths, widths, seed=0):
    """Hugging Face's model; its bottlenecks' inner width is a quarter."""
    torch.manual_seed(seed)
    config = transformers.ResNetConfig(
        embedding_size=64,
        hidden_sizes=list(widths),
        depths=list(depths),
        layer_type="bottleneck",
        downsample_in_bottleneck=False,
    )
    return randomize(transformers.ResNetModel(config).eval())


class SameConv(nn.Conv2d):
    """TensorFlow's "SAME" padding: half of what is missing, the larger half behind."""

    def forward(self, x):
        before_after = []
        for n, k, s in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            missing = max((-(-n // s) - 1) * s + k - n, 0)
            before_after += [missing // 2, missing - missing // 2]
        return super().forward(nn.functional.pad(x, before_after))


class InvertedResidual(nn.Module):
    """A block of EfficientNet-Lite in the published names."""

    def __init__(self, entering, features, expansion, kernel, stride):
        super().__init__()
        inner = entering * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(entering, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = SameConv(
            inner, inner, kernel, stride, groups=inner, bias=False
        )
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = nn.Conv2d(inner, features, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(features, eps=1e-3)

    def forward(self, x):
        y = x
        if self.expands:
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite of given (blocks, kernel, stride, expansion, width) a stage."""

    def __init__(self, stages):
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks, entering = [], 32
        for depth, kernel, stride, expansion, width in stages:
            for n in range(depth):
                step = stride if n == 0 else 1
                blocks.append(
                    InvertedResidual(entering, width, expansion, kernel, step)
                )
                entering = width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(entering, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        """Returns the outputs of the stem, of every block, and of the head."""
        outputs = [nn.functional.relu6(self._bn0(self._conv_stem(x)))]
        for block in self._blocks:
            outputs.append(block(outputs[-1]))
        head = self._bn1(self._conv_head(outputs[-1]))
        return [*outputs, nn.functional.relu6(head)]
