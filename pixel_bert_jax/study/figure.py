"""A figure of a study: a panel per column, a bar with its error per row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pixel_bert_jax.study.table import Mean
from pixel_bert_jax.types import InputError

BAR = "#4c78a8"


def check_figure(path: Path) -> None:
    """Checks that a figure can be drawn.

    Raises:
      InputError: matplotlib is not installed, or it has no such format.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise InputError(
            "a figure needs matplotlib: pip install -e '.[figures]'"
        ) from error
    valid = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.removeprefix(".").lower() not in valid:
        raise InputError(f"{path}: expected a name that ends in .{', .'.join(valid)}")


def draw(rows: Mapping[str, Mapping[str, Mean]], path: Path) -> None:
    """Draws means over seeds with two standard errors to each side.

    Args:
      rows: {row: {column: mean}}.
      path: file that `check_figure` accepts.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    figure = Figure(figsize=(3.0 * len(columns), 0.42 * len(rows) + 1.2))
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    names = list(rows)
    for panel, column in zip(panels, columns, strict=True):
        found = [rows[name].get(column) for name in names]
        places = [n for n, one in enumerate(found) if one and one.seeds]
        shown = [found[n] for n in places]
        panel.barh(
            places,
            [one.value for one in shown],
            xerr=[2 * one.error if one.error == one.error else 0 for one in shown],
            color=BAR,
            ecolor="black",
            capsize=3,
        )
        panel.set_title(column)
        panel.set_yticks(range(len(names)), names)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[0].invert_yaxis()  # the first row on top
    figure.tight_layout()
    figure.savefig(path, dpi=150)
