"""Whole games of scripted players."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from env_registry import make
from env_registry.scripted import scripted_policy


def play(
    name: str, kinds: Sequence[str], num_games: int = 300, seed: int = 0, **config: Any
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.int64]]]:
    """Returns `[B, N]` and event counts `[B, N]` of the first episode of each game; one kind is for all agents."""
    world = make(name, num_games, **config)
    observations = world.reset(seed)
    generator = np.random.default_rng(seed)
    kinds = list(kinds) * world.num_agents if len(kinds) == 1 else kinds
    players = [scripted_policy(name, kind, world) for kind in kinds]
    total = np.zeros((num_games, world.num_agents))
    events = {event: np.zeros(total.shape, np.int64) for event in world.event_names}
    running = np.ones((num_games, 1), bool)
    while running.any():
        choices = [player.act(observations[:, agent], generator) for agent, player in enumerate(players)]
        step = world.step(np.stack(choices, axis=1))
        total += step.rewards * running
        for event, counts in step.events.items():
            events[event] += counts * running
        running[step.terminated | step.truncated] = False
        observations = step.observations
    return total, events


def returns(name: str, kinds: Sequence[str], num_games: int = 300, **config: Any) -> NDArray[np.float64]:
    """Returns `[B, N]` of one episode."""
    return play(name, kinds, num_games, **config)[0]
