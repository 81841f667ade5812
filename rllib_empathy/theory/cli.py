"""`rllib-empathy theory`: analyses of games that are simple enough to work out, or to learn in minutes."""

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

    _make(out)
    games = plane(resolution)
    random = np.random.default_rng(seed)
    ends, converged = converge(random.random((2, starts, resolution, resolution)), *games)
    console = Console()
    console.print(regions_table(ends, *games))
    console.print(closed_form_table(ends, converged, *games, random))
    picture = out / "lase_theory.png"
    draw_plane(ends.mean((0, 1)), picture)
    console.print(f"picture: {picture}", soft_wrap=True, highlight=False)


@app.command()
def ipd(
    out: Annotated[Path, typer.Option(help="Folder of the picture.")] = Path("runs/theory"),
    starts: Annotated[int, typer.Option(min=1, help="Random starts of each pair.")] = 30,
    updates: Annotated[int, typer.Option(min=1, help="Steps of both learners.")] = 200,
    gamma: Annotated[float, typer.Option(min=0, max=0.999, help="Discount.")] = 0.96,
    meta_episodes: Annotated[int, typer.Option(min=1, help="That each meta-agent is trained for.")] = 32,
    meta_pairs: Annotated[int, typer.Option(min=2, help="That play at once while M-FOS is trained.")] = 256,
    meta_steps: Annotated[int, typer.Option(min=1, help="Games of a meta-episode.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of starts and training.")] = 0,
) -> None:
    """Naive learners, LOLA, Reciprocators, M-FOS and M-MAML with memory-one policies in the prisoner's dilemma, exactly."""
    from rich.console import Console

    from rllib_empathy.experiments.display import ProgressBar
    from rllib_empathy.theory.ipd_pairs import play_all
    from rllib_empathy.theory.ipd_summary import draw_courses, pairs_table
    from rllib_empathy.theory.mfos import MetaTraining

    _make(out)
    console = Console()
    training = MetaTraining(meta_episodes, meta_pairs, meta_steps)
    with ProgressBar(console, "meta-agents are being trained", total=1.0) as progress:

        def show(share: float, name: str) -> None:
            progress.show(share, f"{name} is being trained")

        courses = play_all(starts, updates, gamma, training, seed, show)
    console.print(pairs_table(courses))
    picture = out / "ipd_theory.png"
    draw_courses({name: rewards.numpy() for name, (rewards, _) in courses.items()}, picture)
    console.print(f"picture: {picture}", soft_wrap=True, highlight=False)


@app.command()
def coins(
    games: Annotated[int, typer.Option(min=1, help="Random games that estimators are fitted to.")] = 1024,
    gamma: Annotated[float, typer.Option(min=0, max=1, help="Discount.")] = 0.99,
    seed: Annotated[int, typer.Option(min=0, help="Of games and networks.")] = 0,
) -> None:
    """How near the Reciprocators' estimators come to the exact value influence in the 3x3 coin game: a table."""
    from rich.console import Console

    from rllib_empathy.theory.coins import estimators_table

    Console().print(estimators_table(gamma, games, seed))


@app.command()
def mfos(
    out: Annotated[Path, typer.Option(help="Folder of the picture.")] = Path("runs/theory"),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each pair.")] = 3,
    meta_episodes: Annotated[int, typer.Option(min=1, help="That each M-FOS agent is trained for.")] = 24,
    meta_games: Annotated[int, typer.Option(min=1, help="Side by side; each has a naive learner of its own.")] = 16,
    games: Annotated[int, typer.Option(min=1, help="Coin games of a meta-game.")] = 8,
    inner_episodes: Annotated[int, typer.Option(min=1, help="Of a meta-episode; learners learn after each.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="The first one.")] = 1000,
) -> None:
    """M-FOS in the 3x3 coin game: against naive learners while they learn, and against itself."""
    from rich.console import Console

    from rllib_empathy.experiments.display import ProgressBar
    from rllib_empathy.theory.coins_pairs import MetaCoins, play_all
    from rllib_empathy.theory.coins_summary import draw_returns, meta_table

    _make(out)
    console = Console()
    sizes = MetaCoins(meta_episodes, meta_games, games, inner_episodes)
    with ProgressBar(console, "M-FOS agents are being trained", total=1.0) as progress:

        def show(share: float, name: str) -> None:
            progress.show(share, f"{name} is being trained")

        courses = play_all(sizes, range(seed, seed + seeds), show)
    console.print(meta_table(courses))
    picture = out / "coins_meta.png"
    draw_returns(courses, picture)
    console.print(f"picture: {picture}", soft_wrap=True, highlight=False)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"no folder can be made there: {error}. Name another.", param_hint="--out") from None
