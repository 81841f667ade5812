"""`rllib-empathy export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rllib_empathy.cli.common import clear_errors, prepare, terminal


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint's folder, or a run folder for its last one.")],
    file: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    agent: Annotated[int, typer.Option(min=0, help="Number of the agent in its run.")] = 0,
) -> None:
    """Write an agent's acting network as an ONNX file."""
    prepare()
    from rllib_empathy.inference import load_agent

    with clear_errors():
        load_agent(checkpoint, agent).to_onnx(file)
        terminal().print(f"agent {agent}: {file}", soft_wrap=True, highlight=False)
