"""`rllib-empathy schelling`."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from rllib_empathy.cli.common import clear_errors, prepare, terminal


def schelling(
    world: Annotated[str, typer.Argument(help="A world's name: rllib-empathy envs.")],
    cooperator: Annotated[
        str, typer.Option(help="Who cooperates: a kind that needs no training, a run folder, or a checkpoint.")
    ] = "cooperator",
    defector: Annotated[str, typer.Option(help="Who defects.")] = "defector",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Set a rule of the world: episode_length=50. Repeatable.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=2, help="Whole episodes of each mixture.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of worlds, seats and actions.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of picture and numbers.")] = Path("runs/schelling"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Whether a world is a social dilemma: all mixtures of cooperators and defectors, as tables and a picture."""
    prepare()
    from rllib_empathy.experiments.experiment import overridden
    from rllib_empathy.schelling.picture import diagram_table, draw_diagram, verdict_table
    from rllib_empathy.schelling.playing import play_mixtures

    with clear_errors():
        env_config: dict = {}
        for override in overrides or ():
            env_config = overridden(env_config, override)
        diagram = play_mixtures(world, env_config, cooperator, defector, episodes, seed)
    found = {
        "world": world,
        "env_config": env_config,
        "cooperator": cooperator,
        "defector": defector,
        **diagram.to_json(),
    }
    text = json_format.dumps(found, indent=2)
    name = world.replace("/", "_").replace(":", "_")
    picture = out / f"{name}.png"
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        draw_diagram(diagram, f"{world}: what cooperating and defecting earn", picture)
    except OSError as error:
        raise typer.BadParameter(
            f"{out} cannot be written: {error}. Name another folder.", param_hint="--out"
        ) from None
    if json:
        typer.echo(text)
        return
    console = terminal()
    console.print(diagram_table(diagram))
    console.print(verdict_table(diagram.verdict()))
    console.print(f"picture: {picture}", soft_wrap=True, highlight=False)
