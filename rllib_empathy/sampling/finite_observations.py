"""Observations that are no numbers end sampling before anybody learns from them, or is judged by what came of them."""

from __future__ import annotations

from env_registry.contract import first_unfinite
from rllib_empathy.joint import JointTrajectory


def check_observations(trajectory: JointTrajectory, world: str) -> None:
    """Looks through a whole fragment at once; worlds made of PettingZoo environments look through every step as well.

    Args:
        trajectory: as sampled, observations `[T, B, N, ...]` and those at its ends `[K, N, ...]`.
        world: what the message calls the world.

    Raises:
        ValueError: an agent sees NaN or infinity; which one, in which game and step.
    """
    where = first_unfinite(trajectory.observations)
    if where is not None:
        step, game, agent, *place = where
        value = trajectory.observations[where]
    else:
        where = first_unfinite(trajectory.tail_observations)
        if where is None:
            return
        row, agent, *place = where
        step, game = int(trajectory.tail_steps[row]) + 1, int(trajectory.tail_games[row])
        value = trajectory.tail_observations[where]
    raise ValueError(
        f"{world} shows agent {agent} {value} (number {place} of its observation) in game {game}, step {step} of the fragment: "
        "observations have to be finite."
    )
