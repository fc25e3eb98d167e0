"""All fields of a config, with type, valid values, default and meaning.

The defaults are those of the paper or of its authors' later code; docs/differences.md
names the source of each. A preset of `configs/` fills in sizes and data. `resolve`
checks the values and makes the objects.

Annotations carry what `resolve` checks: `Literal` lists choices, the aliases below add
ranges and forms. A mapping without named fields ("open") belongs to a table of
implementations, which defines and checks its fields.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, NamedTuple


class Range(NamedTuple):
    """Valid values of a number, both ends included."""

    least: float = -math.inf
    greatest: float = math.inf


class Form(NamedTuple):
    """What a value means beyond its type, with a valid example for messages."""

    name: str
    example: Any


Positive = Annotated[int, Range(1)]
Count = Annotated[int, Range(0)]
Fraction = Annotated[float, Range(0.0, 1.0)]
NonNegative = Annotated[float, Range(0.0)]
# Lengths of training, see `training.durations`; the total cannot be a percentage.
Duration = Annotated[str | int, Form("duration", "5 %")]
Total = Annotated[str | int, Form("total", "2000 steps")]
# A path on a machine, which does not decide what is trained.
Place = Annotated[str, Form("place", "data/coco")]
Rules = tuple[tuple[str, str], ...]  # (pattern of parameter paths, value), in order
Open = Mapping[str, Any]
Corpus = Annotated[
    Open, Form("corpus", {"source": "scenes", "name": "scenes", "weight": 1.0})
]


class Section:
    """A group of fields."""

    def to_dict(self) -> dict[str, Any]:
        """Returns nested plain dicts, whose sequences are tuples."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh(Section):
    """Sizes of the device mesh's axes; at most one is -1, all remaining devices."""

    data: int = -1
    fsdp: int = 1
    model: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Section):
    """What is trained and predicted."""

    name: str = "pretrain"  # a key of `tasks.TASKS`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masking(Section):
    """Masked words; see `objectives/views.py`."""

    probability: Fraction = 0.15
    warmup_probability: Fraction = 0.15  # during the first `warmup_steps`
    warmup_steps: Count = 0
    whole_words: bool = False
    slots: Count = 0  # predictions per text; 0: ceil(probability x max_text_length) + 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remat(Section):
    """Activations kept for the backward pass; see `models/remat.py`.

    "none" keeps all, "dots" the results of products and convolutions, "full" only the
    inputs of blocks.
    """

    backbone: Literal["none", "dots", "full"] = "none"
    encoder: Literal["none", "dots", "full"] = "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Section):
    """The CNN, its front end and the transformer."""

    # `name` and fields of the CNN; the default is torchvision's ResNet-50.
    backbone: Open = field(
        default_factory=lambda: dict(
            name="resnet",
            depths=(3, 4, 6, 3),
            widths=(256, 512, 1024, 2048),
            strides=(1, 2, 2, 2),
            inner=(64, 128, 256, 512),  # () = basic blocks
            groups=1,
            stem="conv7_pool",
            frozen_stages=1,  # the stem and stage 1 are frozen; -1: nothing is
        )
    )
    # `name` and fields of the module that turns feature maps into visual tokens.
    front_end: Open = field(
        default_factory=lambda: dict(
            name="pixels",
            order="conv_pool",
            kernel=1,
            bias=True,
            norm="none",
            activation="none",
            positions="none",
        )
    )
    norm: Literal["batch", "frozen"] = "batch"  # "frozen": statistics are constants
    norm_momentum: Fraction = 0.9
    features: Positive = 768
    layers: Positive = 12
    heads: Positive = 12
    hidden: Positive = 3072
    dropout: Annotated[float, Range(0.0, 0.999)] = 0.1
    max_positions: Positive = 512
    init_std: NonNegative = 0.02
    attention_init: Literal["independent", "similar"] = "independent"  # models/bert.py
    sample_pixels: Count = 100  # per image, in pre-training; 0 keeps all
    # Dtype of products; parameters, losses and statistics are float32.
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    remat: Remat = Remat()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Section):
    """Corpora, texts, and the sizes of images."""

    root: Place = ""  # "": the environment variable PIXEL_BERT_DATA
    index_dir: Place = "~/.cache/pixel_bert_jax/index"
    corpora: tuple[Corpus, ...] = ()  # `source` and its fields; see data/sources
    # Fields of all corpora whose source is "scenes"; a corpus's own ones win.
    scenes: Open = field(
        default_factory=lambda: dict(
            seed=0, train_scenes=20000, evaluate_scenes=1000, captions_per_scene=5
        )
    )
    tokenizer: str = ""
    answers: str = ""  # "scenes", a json file, or "": counted in the training split
    answer_minimum: Positive = 9  # questions that a counted answer belongs to
    max_text_length: Annotated[int, Range(3)] = 32  # at least [CLS], a word, [SEP]
    short_side: Positive = 800
    long_side: Positive = 1333
    # In training; see data/augment.py.
    random_short_side: Count = 0  # smallest drawn shorter side; 0: always `short_side`
    mirror: bool = False
    canvases: tuple[str, ...] = (
        "1088x800",
        "1216x800",
        "1344x800",
        "800x1088",
        "800x1344",
    )
    source_canvases: tuple[Positive, ...] = (640, 1344)
    # (width, height, share) of images, for --dry_run; five shapes of COCO.
    size_shares: tuple[tuple[Positive, Positive, NonNegative], ...] = (
        (640, 480, 0.363),
        (640, 427, 0.322),
        (640, 360, 0.069),
        (480, 640, 0.127),
        (427, 640, 0.119),
    )
    # Whether a frozen CNN runs over each photo once, before training, and its features
    # are kept in a folder; see tasks/features.py.
    cache_features: bool = False
    feature_dir: Place = "~/.cache/pixel_bert_jax/features"
    # Photos that are dropped from training; see data/exclude.py.
    exclude: tuple[Open, ...] = ()
    # Splits whose photos may be trained on too: their metrics are named trained_on/...
    allow_overlap: tuple[str, ...] = ()
    blank_images: bool = False  # True: no pixels, for a text-only baseline
    on_bad_image: Literal["error", "skip"] = "error"
    # Share of images that may fail; if all failed, there would be nothing to learn.
    bad_image_budget: Annotated[float, Range(0.0, 0.99)] = 0.001
    workers: Count = 2  # threads that read images; 0: one per core
    prefetch: Positive = 2  # batches prepared ahead


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sgd(Section):
    """SGD with momentum; the decay is added to the gradient, as in torch."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: NonNegative = 1e-2
    weight_decay: NonNegative = 5e-4
    momentum: Fraction = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Section):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: NonNegative = 1e-4
    weight_decay: NonNegative = 1e-2
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: NonNegative = 1e-6


OptimGroup = Sgd | AdamW  # chosen by `kind`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim(Section):
    """Optimizers, the parameters that each trains, and their schedule."""

    groups: Mapping[str, OptimGroup] = field(
        default_factory=lambda: {"cnn": Sgd(), "transformer": AdamW()}
    )
    # Values are names of `groups`, or "frozen".
    rules: Rules = ((r"backbone/.*", "cnn"), (r".*", "transformer"))
    clip_norm: NonNegative = 10.0  # norm of all gradients together; 0: no clipping
    warmup: Duration = "1000 steps"
    warmup_factor: Fraction = 1 / 3  # factor of the rates at the first step
    # After the warm-up: "steps", a factor at each of `decays`; "linear" or "cosine", to
    # zero at the end of the run.
    schedule: Literal["steps", "linear", "cosine"] = "steps"
    decays: tuple[Duration, ...] = ("25 epochs", "35 epochs")
    decay_factor: Fraction = 0.1
    accumulate: Positive = 1  # micro-batches per step
    non_finite_budget: Count = 10  # consecutive updates


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint(Section):
    """When the state is saved, and which states are kept."""

    every: Duration = "500 steps"
    keep: Positive = 2
    best_metric: str = ""  # name of an evaluation's metric; "": no best is kept
    best_mode: Literal["max", "min"] = "max"
    fallback: bool = False  # resume from an older checkpoint if the newest is damaged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval(Section):
    """Evaluation, during training and of trained models."""

    every: Duration = "1 epochs"
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    groups: Positive = 32  # images per batch
    sample_pixels: Count = 0  # pixels of each image that are kept; 0: all
    oracle: bool = False  # also compute the ceilings of generated data
    # For retrieval: objectives that score pairs and make shortlists; "": the model's
    # own, see evaluators/retrieval.py.
    score: str = ""
    shortlist_by: str = ""
    # Texts scored at once with each of `groups` images.
    texts: Positive = 64
    fold: Count = 0  # images per fold, over which metrics are averaged; 0: no folds
    # Texts per image and images per text that are scored; 0: all pairs.
    shortlist: Count = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log(Section):
    """Logged metrics."""

    every: Positive = 50  # steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watchdog(Section):
    """Seconds without a sign of life; 0: never."""

    warn: NonNegative = 600.0  # stacks are printed
    limit: NonNegative = 3600.0  # the process is ended


@dataclasses.dataclass(frozen=True, kw_only=True)
class DryRun(Section):
    """What --dry_run cannot know, since it opens neither data nor tokenizer."""

    shards: Positive = 1  # devices of the mesh
    vocab_size: Positive = 30522
    answers: Positive = 3129
    images: Positive = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Init(Section):
    """Weights to start from: a trained model, or text and CNN separately."""

    model: str = ""
    text: str = ""
    cnn: str = ""
    allow_scratch: bool = True  # parts without weights are initialised at random


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Everything that decides a run."""

    preset: str = ""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    total: Total = "40 epochs"
    groups: int = 832  # G, images per step
    texts_per_group: Positive = 5  # K, texts that share one pass of the CNN
    mesh: Mesh = Mesh()
    # Partition rules. `mesh.model` splits attention by heads, feed-forward networks by
    # hidden units.
    sharding: Rules = (
        (r"encoder/.*/(query|key|value|hidden)/kernel", "columns"),
        (r"encoder/.*/(query|key|value|hidden)/bias", "rows"),
        (r"encoder/.*/(attention_out|out)/kernel", "rows"),
        (r".*", "fsdp"),
    )
    sharding_tolerance: Fraction = 0.02  # share of parameters fsdp may leave whole
    compile_cache: Place = "~/.cache/pixel_bert_jax/xla"
    task: Task = Task()
    # Name -> fields of an objective; see `objectives.OBJECTIVES`.
    objectives: Mapping[str, Open] = field(
        default_factory=lambda: dict(
            mlm={"weight": 1.0, "on_swapped": True, "view": "swapped_masked"},
            itm={"weight": 1.0, "view": "swapped_masked"},
        )
    )
    masking: Masking = Masking()
    model: Model = Model()
    data: Data = Data()
    optim: Optim = Optim()
    checkpoint: Checkpoint = Checkpoint()
    eval: Eval = Eval()
    # Name -> `type` and fields of an evaluator; {}: the task's default evaluator.
    evals: Mapping[str, Open] = field(default_factory=dict)
    log: Log = Log()
    watchdog: Watchdog = Watchdog()
    dry_run: DryRun = DryRun()
    init: Init = Init()


def flat(config: Section | Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"optim.accumulate": 1, ...}; an empty mapping adds no entry."""
    values = config if isinstance(config, Mapping) else config.to_dict()
    out = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= {f"{name}.{inner}": leaf for inner, leaf in flat(value).items()}
        else:
            out[name] = value
    return out
