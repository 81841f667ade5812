"""`rllib-empathy evaluate`."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from rllib_empathy.cli.common import clear_errors, prepare, terminal


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint's folder, or a run folder for its last one.")],
    episodes: Annotated[int, typer.Option(min=1, help="Whole episodes to play.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of worlds and actions.")] = 0,
    greedy: Annotated[bool, typer.Option(help="Always the most probable action, instead of sampling.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Play whole episodes with the policies of a checkpoint."""
    prepare()
    from rllib_empathy.experiments import evaluation
    from rllib_empathy.experiments.display import evaluation_table, outcomes_table

    with clear_errors():
        result = evaluation.evaluate(checkpoint, episodes, seed, greedy)
        if json:
            typer.echo(json_format.dumps(result.to_json(), indent=2))
        else:
            terminal().print(evaluation_table(result))
            terminal().print(outcomes_table(result))
