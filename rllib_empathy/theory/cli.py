"""`rllib-empathy theory`: analyses that need no training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="What the agents do in games simple enough to work out.", no_args_is_help=True)


@app.command()
def lase(
    out: Annotated[Path, typer.Option(help="Folder of the picture.")] = Path("runs/theory"),
    starts: Annotated[int, typer.Option(min=1, help="Random starts in each game.")] = 30,
    resolution: Annotated[int, typer.Option(min=3, help="Games along each of T and S.")] = 80,
    seed: Annotated[int, typer.Option(min=0, help="Of the starts.")] = 0,
) -> None:
    """Where two LASE agents end in all 2x2 games, by iteration and in closed form: a table and a picture."""
    import numpy as np
    from rich.console import Console

    from rllib_empathy.theory.lase import converge, plane
    from rllib_empathy.theory.picture import draw_plane
    from rllib_empathy.theory.summary import closed_form_table, regions_table

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"no folder can be made there: {error}. Name another.", param_hint="--out") from None
    games = plane(resolution)
    random = np.random.default_rng(seed)
    ends, converged = converge(random.random((2, starts, resolution, resolution)), *games)
    console = Console()
    console.print(regions_table(ends, *games))
    console.print(closed_form_table(ends, converged, *games, random))
    picture = out / "lase_theory.png"
    draw_plane(ends.mean((0, 1)), picture)
    console.print(f"picture: {picture}", soft_wrap=True, highlight=False)
