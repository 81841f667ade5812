"""`rllib-empathy evaluate`."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from env_registry.parameters import SettingError
from rllib_empathy.cli.common import clear_errors, prepare, terminal


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint's folder, or a run folder for its last one.")],
    episodes: Annotated[int, typer.Option(min=1, help="Whole episodes to play.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of worlds and actions.")] = 0,
    greedy: Annotated[bool, typer.Option(help="Always the most probable action, instead of sampling.")] = False,
    others: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="Who plays for agent N: N=cooperator, N=tit_for_tat, N=RUN_FOLDER:0. Repeatable; the others stay.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Play whole episodes with the agents of a checkpoint, or with others in the place of some."""
    prepare()
    from rllib_empathy.experiments import evaluation
    from rllib_empathy.experiments.display import evaluation_table, outcomes_table

    with clear_errors():
        result = evaluation.evaluate(checkpoint, episodes, seed, greedy, _by_number(others or []))
        if json:
            typer.echo(json_format.dumps(result.to_json(), indent=2))
        else:
            terminal().print(evaluation_table(result))
            terminal().print(outcomes_table(result))


def _by_number(others: list[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for other in others:
        number, _, player = other.partition("=")
        if not (number.isdigit() and player):
            raise SettingError(f"--with {other!r}: write N=PLAYER, with the number of an agent, such as 1=cooperator.")
        if int(number) in found:
            raise SettingError(f"--with {other!r}: agent {number} is replaced twice.")
        found[int(number)] = player
    return found
