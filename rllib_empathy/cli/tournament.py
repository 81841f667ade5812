"""`rllib-empathy tournament`."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated, Any

import typer

from env_registry.parameters import SettingError
from rllib_empathy.cli.common import clear_errors, cpus_of, prepare, ray_running, terminal


def tournament(
    world: Annotated[
        str, typer.Argument(help="A world, or an experiment: its world, and how agents that learn are trained.")
    ],
    players: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[AGENT]...",
            help="A kind, a strategy such as tit_for_tat, RUN_FOLDER:0, or NAME=any of these. Default: every kind.",
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Whole episodes of each pair.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of worlds, seats and actions.")] = 0,
    greedy: Annotated[bool, typer.Option(help="Always the most probable action, instead of sampling.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Set a key of the experiment: stop.env_steps=100_000. Repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Let everybody play everybody: each agent as the focal one among copies of each.

    Kinds that learn are first trained among their own, as the experiment says. Results and a heat map go to a new folder
    runs/tournament_NAME/TIMESTAMP, with the runs of those that were trained.
    """
    prepare()
    from rllib_empathy.experiments import tournament as tournaments
    from rllib_empathy.experiments.display import tournament_table
    from rllib_empathy.experiments.experiment import world_experiment
    from rllib_empathy.experiments.heat_map import draw_heat_map
    from rllib_empathy.experiments.players import player_entry
    from rllib_empathy.experiments.run_folder import new_folder, write_whole
    from rllib_empathy.learning.config import EmpathyConfig
    from rllib_empathy.policies import kind_named

    console = terminal(stderr=json)
    with clear_errors():
        experiment = world_experiment(world, overrides or [])
        config = EmpathyConfig().environment(experiment.environment, env_config=dict(experiment.env_config))
        entries: dict[str, dict[str, Any]] = {}
        for player in players or tournaments.kinds_that_play(config):
            name, described = _named(player)
            if name in entries:
                raise SettingError(
                    f"Two agents are called {name!r}. Name them as NAME=PLAYER, for instance second={player}."
                )
            entries[name] = player_entry(described)
        tournaments.check_agents(config, entries)
        folder = new_folder(out, f"tournament_{experiment.name}")
        console.print(f"Folder: {folder}", soft_wrap=True, highlight=False)
        with console.status("") as status:
            learners = {name: entry for name, entry in entries.items() if kind_named(entry["kind"]).learns}
            if learners:
                with ray_running(None, cpus_of(experiment)):
                    for name, entry in learners.items():
                        status.update(f"{name} is trained among its own kind")
                        entries[name] = tournaments.trained_in_self_play(experiment, entry, folder)
            result = tournaments.all_against_all(
                config, entries, episodes, seed, greedy, lambda focal, other: status.update(f"{focal} among {other}")
            )
        text = json_format.dumps(result.to_json(), indent=2)
        write_whole(folder / "tournament.json", text + "\n")
        draw_heat_map(result, folder / "heat_map.png")
    if json:
        typer.echo(text)
    else:
        console.print(tournament_table(result))
        console.print(f"heat map: {folder / 'heat_map.png'}", soft_wrap=True, highlight=False)


def _named(player: str) -> tuple[str, str]:
    """Name and player of NAME=PLAYER; a player is its own name."""
    name, equals, rest = player.partition("=")
    return (name, rest) if equals and name.isidentifier() else (player, player)
