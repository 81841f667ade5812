"""What the iteration over the (T, S) plane gave, in numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rllib_empathy.theory.lase import (
    ENDS,
    IPD,
    REGIONS,
    Array,
    converge,
    ends_by_kind,
    predicted_end,
    region,
    symmetric_fixed_point,
)


def regions_table(ends: Array, temptation: Array, sucker: Array) -> Table:
    """P(C) (mean of both agents) and kinds of ends over all starts in all games of each region.

    Args:
        ends: `[2, starts, K, K]`.
        temptation: T, `[K, K]`.
        sucker: S, `[K, K]`.
    """
    title = f"Ends of {ends.shape[1]} random starts in each of {temptation.size} games"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for name in REGIONS:
        table.add_column(name, justify="right")
    kinds, regions = ends_by_kind(ends), region(temptation, sucker)
    by_region = [regions == number for number in range(len(REGIONS))]
    cooperation = [ends.mean(0)[:, games] for games in by_region]
    table.add_row("P(C), mean", *(f"{values.mean():.3f}" for values in cooperation))
    table.add_row("  smallest", *(f"{values.min():.3f}" for values in cooperation))
    table.add_row("  largest", *(f"{values.max():.3f}" for values in cooperation))
    for kind, name in enumerate(ENDS):
        table.add_row(name, *(f"{(kinds[:, games] == kind).mean():.1%}" for games in by_region))
    return table


def closed_form_table(
    ends: Array, converged: NDArray[np.bool_], temptation: Array, sucker: Array, random: np.random.Generator
) -> Table:
    """What the closed form says, and how far the iteration is from it.

    Args:
        ends: `[2, starts, K, K]`.
        converged: `[starts, K, K]`.
        temptation: T, `[K, K]`.
        sucker: S, `[K, K]`.
        random: further starts are drawn from it.
    """
    table = Table(title="Closed form and iteration", title_justify="left", box=SIMPLE_HEAD, show_header=False)
    starts = converged.shape[0]
    symmetric, regions = symmetric_fixed_point(temptation, sucker), region(temptation, sucker)

    ipd = symmetric_fixed_point(*IPD)
    ipd_ends, _ = converge(random.random((2, starts)), *IPD)
    table.add_row(f"IPD, T = {IPD[0]}, S = {IPD[1]}: P(C) in closed form", f"{ipd.theta:.6f}")
    table.add_row("  its eigenvalues, together and apart", f"{ipd.together:.3f}, {ipd.apart:.3f}")
    table.add_row(f"  {starts} random starts end between", f"{ipd_ends.min():.6f} and {ipd_ends.max():.6f}")

    one = random.random((1, starts, *temptation.shape))
    alike, alike_converged = converge(np.concatenate([one, one]), temptation, sucker)
    interior = alike_converged & (ends_by_kind(alike) == 3)
    table.add_row("Converged symmetric starts, inside (0, 1)", f"{interior.mean():.1%}")
    table.add_row("  their largest difference to the closed form", _largest(alike - symmetric.theta, interior))

    predicted = predicted_end(temptation, sucker)
    known = converged & ~np.isnan(predicted[0])
    difference = np.sort(ends, 0)[::-1] - predicted[:, None]
    table.add_row("Converged random starts, one stable end", f"{known.mean():.1%}")
    table.add_row("  their largest difference to its closed form", _largest(difference, known))
    table.add_row("Random starts that had not converged", f"{(~converged).mean():.2%}")

    for number in (0, 2):
        share = (symmetric.apart < 0)[regions == number].mean()
        table.add_row(f"{REGIONS[number]}: games that end symmetric", f"{share:.1%}")
    defect = ends_by_kind(ends) == 1
    for condition, games in (("S + T < 0", sucker + temptation < 0), ("S + T >= 0", sucker + temptation >= 0)):
        share = defect[:, games & (regions == 1)].mean()
        table.add_row(f"Stag Hunt, {condition}: starts that end in defection", f"{share:.1%}")
    return table


def _largest(differences: Array, chosen: NDArray[np.bool_]) -> str:
    return f"{np.abs(differences[:, chosen]).max(initial=0):.1e}"
