"""The figure of a study."""

import math

import pytest
from PIL import Image

from pixel_bert_jax.study import figure
from pixel_bert_jax.study.table import Mean, mean
from pixel_bert_jax.types import InputError


def test_a_figure_has_a_bar_for_each_mean(tmp_path):
    pytest.importorskip("matplotlib")
    table = {
        "none": {"VQA": mean([50.0, 52.0]), "TR": Mean(3.0, math.nan, 1)},
        "both": {"VQA": mean([60.0, 62.0])},
    }
    path = tmp_path / "table.png"
    figure.draw(table, path)
    with Image.open(path) as image:
        pixels = image.convert("RGB")
        blue = tuple(int(figure.BAR[n : n + 2], 16) for n in (1, 3, 5))
        count = sum(n for n, colour in pixels.getcolors(1 << 24) if colour == blue)
        assert count > 0.05 * pixels.width * pixels.height
    with pytest.raises(InputError, match="nothing"):
        figure.check_figure(tmp_path / "table.nothing")
    figure.check_figure(path)
