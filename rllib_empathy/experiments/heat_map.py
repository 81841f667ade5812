"""A tournament as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rllib_empathy.experiments.tournament import Tournament


def draw_heat_map(tournament: Tournament, path: Path) -> None:
    """Draws the focal agents' mean returns, with half widths of their 95 % intervals, as a PNG.

    Args:
        tournament: what was played.
        path: the file.
    """
    count = len(tournament.agents)
    figure = Figure(figsize=(2.6 + 0.85 * count, 1.8 + 0.6 * count), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(tournament.returns, cmap="viridis", aspect="auto")
    middle = (np.min(tournament.returns) + np.max(tournament.returns)) / 2
    for (row, column), value in np.ndenumerate(tournament.returns):
        half = tournament.half_widths[row, column]
        text = f"{value:.3g}" + ("" if np.isnan(half) else f"\n±{half:.2g}")
        colour = "white" if value < middle else "black"
        axis.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(count), tournament.agents, rotation=40, ha="right", fontsize=8)
    axis.set_yticks(range(count), tournament.agents, fontsize=8)
    axis.set_xlabel("co-players")
    axis.set_ylabel("focal agent")
    axis.set_title(f"{tournament.world}: mean return of the focal agent", loc="left", fontsize=10)
    figure.colorbar(image, ax=axis, shrink=0.8)
    figure.savefig(path, dpi=130)
