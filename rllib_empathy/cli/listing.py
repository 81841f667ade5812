"""`rllib-empathy envs` and `rllib-empathy agents`: what there is, and its settings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from env_registry.parameters import unknown_name
from rllib_empathy.cli.common import clear_errors, terminal


def envs(name: Annotated[str | None, typer.Argument(help="One world, in detail.")] = None) -> None:
    """List the worlds, or all about one."""
    from env_registry import WORLDS, make
    from rllib_empathy.experiments.describe import overview_table, presets_of, settings_table

    console = terminal()
    with clear_errors():
        if name is None:
            console.print(overview_table("Worlds", WORLDS))
            console.print("All about one: rllib-empathy envs NAME")
            return
        if name not in WORLDS:
            raise unknown_name("world", name, WORLDS)
        factory: Any = WORLDS[name]
        world: Any = make(name)
        console.print((factory.__doc__ or "").strip(), highlight=False)
        console.print(settings_table(f"env_config of {name}", factory.Parameters))
        for preset, values in presets_of(factory.Parameters).items():
            console.print(f"preset {preset}: {values}", highlight=False)
        console.print(
            f"actions: {', '.join(f'{n} {action}' for n, action in enumerate(world.action_names))}", highlight=False
        )
        console.print(f"events: {', '.join(world.event_names)}", highlight=False)
        console.print(f"observation of an agent: {world.observation_space}", highlight=False)


def agents(kind: Annotated[str | None, typer.Argument(help="One kind, with its options.")] = None) -> None:
    """List the kinds of agents, or the options of one."""
    from rllib_empathy.experiments.describe import overview_table, settings_table
    from rllib_empathy.policies import KINDS, kind_named

    console = terminal()
    with clear_errors():
        if kind is None:
            console.print(overview_table("Kinds of agents", KINDS))
            console.print("Its options: rllib-empathy agents KIND")
            return
        found = kind_named(kind)
        console.print((found.__doc__ or "").strip(), highlight=False)
        console.print(settings_table(f"options of {kind}", found.Options))
