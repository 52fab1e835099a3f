"""A drawing of a trace: the indirect effect by layer."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from moe_patch.io.figure import new_figure, save_figure
from moe_patch.io.plain_text import plain_text
from moe_patch.io.wording import counted
from moe_patch.tracing.report import TraceReport
from moe_patch.tracing.sites import Kind

LABELS: dict[Kind, str] = {
    "moe": "feed-forward block",
    "stream": "output of the layer",
    "attention": "attention",
}
_INCHES_A_LAYER = 0.25
_MARGIN = 4  # inches


def draw_trace(report: TraceReport, path: Path, *, chosen: Collection[int] = ()) -> None:
    """Draw each kind's effects with their standard errors; `chosen` layers are shaded, dense ones hollow.

    Raises:
        ConfigError: matplotlib is missing, or the file's ending is unknown.
        OutputError: the file cannot be written.
    """
    figure = new_figure(path, _MARGIN + _INCHES_A_LAYER * len(report.layers), 4)
    axes = figure.add_subplot()
    for layer in chosen:
        axes.axvspan(layer - 0.5, layer + 0.5, color="0.9")
    for kind, label in LABELS.items():
        found = [
            (each.layer, each.effects[kind], each.experts) for each in report.layers if kind in each.effects
        ]
        if not found:
            continue
        layers = [layer for layer, _, _ in found]
        means = [100 * effect.mean for _, effect, _ in found]
        errors = [100 * effect.error for _, effect, _ in found]
        (line, *_) = axes.errorbar(layers, means, yerr=errors, label=label, marker="o", capsize=2)
        dense = [(layer, mean) for (layer, _, experts), mean in zip(found, means, strict=True) if not experts]
        if dense and kind == "moe":
            axes.plot(
                *zip(*dense, strict=True), "o", mfc="white", mec=line.get_color(), zorder=3, label="dense"
            )
    axes.axhline(100 * report.total.mean, color="0.5", linestyle="--", label="total effect of the noise")
    axes.set_xlabel("layer")
    axes.set_ylabel("points of probability brought back")
    name = plain_text(report.base, 80).replace("$", r"\$")  # a pair of $ would begin a formula
    axes.set_title(
        f"{name}: {counted(len(report.facts), 'fact')}, {counted(report.samples, 'sample')} of noise each"
    )
    axes.legend()
    save_figure(figure, path)
