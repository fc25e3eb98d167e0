"""Where images and texts come from: one file per on-disk format.

A new format is a file with a `build` function, a line in `SOURCES` and a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import (
    coco,
    flickr,
    jsonl,
    karpathy,
    nlvr2,
    own,
    scenes,
    visual_genome,
    visual_genome_questions,
    vqa,
)
from pixel_bert_jax.data.sources.base import Source
from pixel_bert_jax.data.sources.scenes import tasks as scenes_tasks

# `source` of a corpus in `config.data.corpora` -> build(its config, split, root).
SOURCES: dict[str, Callable[[Mapping[str, Any], str, Path | None], Source]] = {
    "coco": coco.build,
    "flickr": flickr.build,
    "jsonl": jsonl.build,
    "karpathy": karpathy.build,
    "nlvr2": nlvr2.build,
    "own": own.build,
    "scenes": scenes.build,
    "scenes_nlvr2": scenes_tasks.build_statements,
    "scenes_vqa": scenes_tasks.build_questions,
    "visual_genome": visual_genome.build,
    "visual_genome_questions": visual_genome_questions.build,
    "vqa": vqa.build,
}
