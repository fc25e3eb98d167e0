"""Pixel-BERT composed in torch from other libraries' parts, and its training step.

The CNN runs on every photo alone and without padding, batch norms excepted; the encoder
is Hugging Face's; optimizers, clipping and schedule are torch's.
"""

import numpy as np
import torch
import transformers
from torch import nn

from pixel_bert_jax.convert import bert, resnet
from tests.convert import torch_models


class PixelBert(nn.Module):
    """CNN, 1x1 convolution, 2x2 max pooling, s_v, BERT, two heads."""

    def __init__(self, model, vocab_size):
        """Builds it from our config.model."""
        super().__init__()
        cnn, features = model.backbone, model.features
        self.cnn = torch_models.ResNet(
            cnn["depths"], cnn["widths"], cnn["inner"], cnn["groups"]
        )
        self.project = nn.Conv2d(cnn["widths"][-1], features, 1)
        self.segment = nn.Parameter(torch.zeros(features))
        self.bert = transformers.BertForPreTraining(
            transformers.BertConfig(
                vocab_size=vocab_size,
                hidden_size=features,
                num_hidden_layers=model.layers,
                num_attention_heads=model.heads,
                intermediate_size=model.hidden,
                max_position_embeddings=model.max_positions,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                attn_implementation="eager",
            )
        )
        self.itm = nn.Linear(features, 2)

    def pixels(self, photos):
        """Maps n photos [3, h, w] each to its feature map [D, h, w]."""
        sizes = {tuple(photo.shape) for photo in photos}
        if len(sizes) == 1:  # one batch, as live norms need it
            maps = self._map(torch.stack(photos))
        else:
            maps = [self._map(photo[None])[0] for photo in photos]
        return [x + self.segment[:, None, None] for x in maps]

    def _map(self, images):
        return nn.functional.max_pool2d(self.project(self.cnn(images)[-1]), 2)

    def forward(self, ids, mask, visual, visual_mask):
        """Maps B texts [B, L] and their pixels [B, P, D] to the outputs [B, T, D]."""
        words = self.bert.bert.embeddings(ids)
        x = torch.cat([words, visual], dim=1)
        real = torch.cat([mask, visual_mask], dim=1)
        blocked = torch.zeros(real.shape, dtype=x.dtype)
        blocked = blocked.masked_fill(~real, torch.finfo(x.dtype).min)[:, None, None]
        for layer in self.bert.bert.encoder.layer:
            x = layer(x, attention_mask=blocked)
            x = x[0] if isinstance(x, tuple) else x
        return x

    def words(self, hidden):
        """Maps outputs [n, D] to logits [n, V]."""
        predictions = self.bert.cls.predictions
        table = self.bert.bert.embeddings.word_embeddings.weight
        return predictions.transform(hidden) @ table.T + predictions.bias


def named(flat):
    """Our arrays {"params/...": x} under the names of `PixelBert` above."""
    params = {
        path.removeprefix("params/"): x
        for path, x in flat.items()
        if path.startswith("params/")
    }
    out = {f"cnn.{n}": x for n, x in resnet.export_torchvision(flat).items()}
    if "text/word" in params:
        text = bert.export_bert(params)
        segments = bert.PREFIX + bert.SEGMENTS
        out |= {f"bert.{n}": x for n, x in text.items() if n != segments}
    out["project.weight"] = params["front_end/project/kernel"].T[:, :, None, None]
    out["project.bias"] = params["front_end/project/bias"]
    out["segment"] = params["front_end/segment"]
    out["itm.weight"] = params["heads/itm/classifier/kernel"].T
    out["itm.bias"] = params["heads/itm/classifier/bias"]
    return out


def load(model, flat):
    """Gives the model our variables; what is left over must be of no use to it."""
    state = {n: torch.tensor(np.ascontiguousarray(x)) for n, x in named(flat).items()}
    nn.init.zeros_(model.bert.bert.embeddings.token_type_embeddings.weight)
    left = model.load_state_dict(state, strict=False)
    assert not left.unexpected_keys, left.unexpected_keys
    unused = ("pooler", "seq_relationship", "decoder", "token_type", "num_batches")
    rest = [n for n in left.missing_keys if not any(u in n for u in unused)]
    assert not rest, rest


def losses(model, step):
    """Runs one step forward.

    Args:
      model: a `PixelBert`.
      step: photos (one a group, None where it failed), cells [G, P] of the canvas'
        grid (rows x columns) and their mask, and the view: ids, mask, match, real, and
        masked positions, labels and weights.

    Returns:
      logits of words [n, V] at the n predicted tokens and of matches [B, 2], and the
      two losses.
    """
    groups, texts, length = step["ids"].shape
    shown = [g for g in range(groups) if step["photos"][g] is not None]
    maps = dict(
        zip(shown, model.pixels([step["photos"][g] for g in shown]), strict=True)
    )
    kept = step["cells"].shape[1]
    width = model.segment.shape[0]
    visual = []
    for g in range(groups):
        rows = []
        for cell, real in zip(step["cells"][g], step["cell_mask"][g], strict=True):
            if real:  # out of the photo's own map: an error of the sampling
                row, column = divmod(int(cell), step["columns"])
                rows.append(maps[g][:, row, column])
            else:
                rows.append(torch.zeros(width, dtype=model.segment.dtype))
        visual.append(torch.stack(rows))
    visual = torch.stack(visual).repeat_interleave(texts, dim=0)
    visual_mask = step["cell_mask"].repeat_interleave(texts, dim=0)
    hidden = model(
        step["ids"].reshape(-1, length),
        step["mask"].reshape(-1, length),
        visual,
        visual_mask,
    )
    assert visual.shape[1] == kept
    pairs, slots = step["weights"].reshape(groups * texts, -1).nonzero(as_tuple=True)
    positions = step["positions"].reshape(groups * texts, -1)[pairs, slots]
    labels = step["labels"].reshape(groups * texts, -1)[pairs, slots]
    words = model.words(hidden[pairs, positions])
    match = model.itm(hidden[:, 0])
    real = step["real"].reshape(-1)
    return {
        "words": words,
        "match": match,
        "mlm": nn.functional.cross_entropy(words, labels),
        "itm": nn.functional.cross_entropy(
            match[real], step["match"].reshape(-1)[real].long()
        ),
    }


def optimizers(model, optim, frozen_stages):
    """Torch's SGD and AdamW with their schedules, over what is trained."""
    frozen = ("conv1.", "bn1.", *(f"layer{n}." for n in range(1, frozen_stages + 1)))
    cnn, rest = [], []
    for name, parameter in model.named_parameters():
        unused = ("pooler", "seq_relationship", "token_type")
        in_cnn = name.startswith("cnn.")
        stopped = frozen_stages >= 0 and name.removeprefix("cnn.").startswith(frozen)
        if any(u in name for u in unused) or (in_cnn and stopped):
            parameter.requires_grad_(False)
        else:
            (cnn if in_cnn else rest).append(parameter)
    sgd, adam = optim["groups"]["cnn"], optim["groups"]["transformer"]
    both = [
        torch.optim.SGD(
            cnn,
            lr=sgd["learning_rate"],
            momentum=sgd["momentum"],
            weight_decay=sgd["weight_decay"],
        ),
        torch.optim.AdamW(
            rest,
            lr=adam["learning_rate"],
            betas=(adam["beta1"], adam["beta2"]),
            eps=adam["epsilon"],
            weight_decay=adam["weight_decay"],
        ),
    ]
    schedules = [
        torch.optim.lr_scheduler.ChainedScheduler(
            [
                torch.optim.lr_scheduler.LinearLR(
                    one, optim["warmup_factor"], total_iters=optim["warmup"]
                ),
                torch.optim.lr_scheduler.MultiStepLR(
                    one, optim["decays"], optim["decay_factor"]
                ),
            ],
            optimizer=one,
        )
        for one in both
    ]
    return both, schedules, [*cnn, *rest]
