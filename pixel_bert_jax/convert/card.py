"""The model card of an exported model, its README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

LIBRARY = "pixel_bert_jax"
TAGS = ["pixel-bert", "vision-language", "image-text", "jax", "flax"]
# Figures of a corpus are named "corpus/figure".
TEMPLATE = """---
{header}
---

# {title}

A Pixel-BERT ([arXiv 2004.00849](https://arxiv.org/abs/2004.00849)) in JAX and Flax:
a CNN over the whole image and one transformer over its pixels and the words of a text.

| | |
|---|---|
{facts}

## Use

```python
import pixel_bert_jax

pretrained = pixel_bert_jax.from_pretrained("FOLDER_OR_HUB_ID")
inputs = pretrained.inputs([open("photo.jpg", "rb").read()], ["a dog on a sofa"])
encoded = pretrained.model.apply(pretrained.variables, **inputs)
encoded.pooled  # [1, {width}], the output at [CLS]
```

The folder can be evaluated and trained further by
`--config.init.model=FOLDER_OR_HUB_ID` of `python -m pixel_bert_jax.main`.
{figures}
## Limits

It knows what its training data showed, with their biases; nobody has tested it for any
other use.
"""


def text(
    config: Mapping[str, Any], provenance: Mapping[str, Any], parameters: int
) -> str:
    """Returns the card.

    Args:
      config: of the training run.
      provenance: of `convert/pretrained.py`.
      parameters: numbers in the file, running statistics included.
    """
    title = f"Pixel-BERT {config['preset']}".strip()
    model, data = config["model"], config["data"]
    cnn = model["backbone"]
    figures = provenance.get("figures") or {}
    results = [
        EvalResult(
            task_type=config["task"]["name"],
            dataset_type=name.rpartition("/")[0],
            dataset_name=name.rpartition("/")[0],
            metric_type=name.rpartition("/")[2],
            metric_value=round(value, 4),
        )
        for name, value in figures.items()
        if value is not None
    ]
    header = ModelCardData(
        library_name=LIBRARY,
        tags=TAGS,
        model_name=title,
        eval_results=results or None,
    )
    facts = {
        "task": config["task"]["name"],
        "transformer": f"{model['layers']} layers of width {model['features']}, "
        f"{model['heads']} heads",
        "CNN": f"{cnn['stem']}, blocks {tuple(cnn['depths'])}, widths "
        f"{tuple(cnn['widths'])}",
        "numbers": f"{parameters:,} in float32",
        "images": f"shorter side {data['short_side']}, longer at most "
        f"{data['long_side']} pixels",
        "trained on": ", ".join(corpus["name"] for corpus in data["corpora"]),
        "command": f"`{provenance['command']}`" if provenance.get("command") else "",
        "step": provenance.get("step", ""),
        "SHA-256 of the training state": provenance.get("sha256", ""),
        "SHA-256 of the variables": provenance["variables_sha256"],
    }
    return TEMPLATE.format(
        header=header.to_yaml().strip(),
        title=title,
        facts="\n".join(f"| {k} | {v} |" for k, v in facts.items() if v != ""),
        width=model["features"],
        figures=_figures(figures),
    )


def _figures(figures: Mapping[str, float]) -> str:
    if not figures:
        return ""
    rows = "\n".join(f"| {n} | {_format(v)} |" for n, v in figures.items())
    return f"\n## Held-out figures\n\n| figure | value |\n|---|---|\n{rows}\n"


def _format(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
