"""Makes the golden files of `test_golden.py`; needs torch.

    python -m tests.convert.golden

Each file holds a small torch model's weights under their own names ("weight:..."), an
input and its outputs.
"""

from pathlib import Path

import numpy as np
import torch

from tests.convert import torch_models

FOLDER = Path(__file__).parent / "golden"
CNN = dict(depths=(1, 1), widths=(16, 32), inner=(8, 16), groups=2)


def main():
    """Writes the files."""
    FOLDER.mkdir(exist_ok=True)
    model = torch_models.bert()
    ids = torch.tensor([[2, 11, 95, 4, 3, 0, 0], [2, 5, 6, 7, 8, 9, 3]])
    mask = (ids > 0).long()
    with torch.no_grad():
        out = model.bert(ids, attention_mask=mask, output_hidden_states=True)
        logits = model.cls.predictions(out.last_hidden_state)
    hidden = {f"hidden{n}": x for n, x in enumerate(out.hidden_states)}
    # The decoder is the word embedding once more, and the pooler is of no use.
    left_out = ("cls.predictions.decoder", "bert.pooler")
    save(
        "bert", model, {"ids": ids, "mask": mask, "logits": logits, **hidden}, left_out
    )

    model = torch_models.resnet(**CNN)
    image = torch.randn((1, 3, 43, 65), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stages = {f"stage{n}": x for n, x in enumerate(model(image), 1)}
    save("resnext", model, {"image": image, **stages})


def save(name, model, arrays, left_out=()):
    """Writes one file."""
    weights = {
        f"weight:{n}": x
        for n, x in model.state_dict().items()
        if not n.startswith(tuple(left_out) or "-")
    }
    content = {n: x.detach().numpy() for n, x in {**weights, **arrays}.items()}
    np.savez_compressed(FOLDER / f"{name}.npz", **content)


if __name__ == "__main__":
    main()
