"""The picture of LASE in 2x2 games: what the iteration gives over the (T, S) plane, and the closed form beside it."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from rllib_empathy.theory.lase import IPD, REGIONS, Array, plane, predicted_end, symmetric_fixed_point

NAMES_AT = ((1.5, -0.88), (0.5, -0.88), (1.5, 0.88), (0.5, 0.88))
"""(T, S) of the regions' names, in the order of REGIONS."""

FINE = 500
"""Resolution of what needs no simulation."""

HALO = [withStroke(linewidth=3, foreground="white")]


def draw_plane(cooperation: Array, path: Path) -> None:
    """Draws P(C) over the plane, by iteration and in closed form, as a PNG.

    Args:
        cooperation: `[K, K]` mean P(C) of both agents over all starts, for the games of `plane(K)`.
        path: the file.
    """
    figure = Figure(figsize=(11, 5.7), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    image = _panel(left, cooperation, "Iteration, mean over random starts")
    _panel(right, predicted_end(*plane(FINE)).mean(0), "Closed form")
    right.fill([0, 0, 1], [-1, 0, -1], facecolor="white", edgecolor="#999999", hatch="///", linewidth=0, zorder=1)
    left.set_ylabel("S, the sucker's payoff")
    figure.colorbar(image, ax=[left, right], label="P(C), mean of both agents", pad=0.01)
    marks = (
        Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="", label="IPD of LASE"),
        Line2D([], [], color="black", linestyle="--", label="above: one agent cooperates more than the other"),
        Line2D(
            [], [], color="black", linestyle=":", label="below: both cooperate or both defect, depending on the start"
        ),
    )
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle("Where two LASE agents end in 2x2 games with R = 1 and P = 0", x=0.01, ha="left", weight="bold")
    figure.savefig(path, dpi=130)


def _panel(axis: Axes, cooperation: Array, title: str) -> AxesImage:
    image = axis.imshow(cooperation, cmap="viridis", vmin=0, vmax=1, origin="lower", extent=(0, 2, -1, 1))
    axis.axhline(0, color="black", linewidth=1)
    axis.axvline(1, color="black", linewidth=1)
    axis.plot([0, 1], [0, -1], color="black", linewidth=1.2, linestyle=":")
    games = plane(FINE)
    axis.contour(
        *games, symmetric_fixed_point(*games).apart, levels=[0], colors="black", linewidths=1.2, linestyles="--"
    )
    for name, (temptation, sucker) in zip(REGIONS, NAMES_AT, strict=True):
        axis.text(temptation, sucker, name, ha="center", va="center", weight="bold", path_effects=HALO)
    axis.plot(*IPD, "o", color="black", markerfacecolor="white", markersize=7)
    axis.annotate("IPD", IPD, xytext=(8, -4), textcoords="offset points", path_effects=HALO)
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel("T, the temptation to defect")
    axis.set(xlim=(0, 2), ylim=(-1, 1))
    return image
