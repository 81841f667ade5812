"""Episodes of all mixtures of cooperators and defectors, all at once in one batch of games."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from env_registry.action_masks import allowed_actions
from env_registry.parameters import SettingError
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.policies import KINDS
from rllib_empathy.sampling.acting import JointPolicy
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
from rllib_empathy.schelling.diagram import Diagram

LEAST_EPISODES = 2
"""Of each mixture, for an interval."""


def play_mixtures(
    world: str,
    env_config: Mapping[str, Any] | None = None,
    cooperator: str = "cooperator",
    defector: str = "defector",
    episodes: int = 100,
    seed: int = 0,
) -> Diagram:
    """Plays `episodes` whole episodes with each number of cooperators from none to all, on seats drawn anew for each.

    Args:
        world: a world's name.
        env_config: its parameters.
        cooperator: who cooperates: a kind of agent that needs no training, or a run folder or checkpoint, whose agent i then
            plays on seat i.
        defector: who defects, the same.
        episodes: K of each mixture.
        seed: of worlds, seats and actions.

    Raises:
        SettingError: no such world or player, or a player that does not fit the world.
        CheckpointError: a checkpoint cannot be used.
    """
    if episodes < LEAST_EPISODES:
        raise SettingError(f"episodes = {episodes}: an interval needs at least {LEAST_EPISODES} of each mixture.")
    config = EmpathyConfig().environment(world, env_config=dict(env_config or {}))
    players = config.make_world(1).num_agents
    if players < 2:
        raise SettingError(f"World {world!r} has one player; a Schelling diagram needs co-players. Raise num_agents.")
    games = (players + 1) * episodes
    cooperates = np.arange(players) < np.arange(players + 1)[:, None]
    cooperates = np.repeat(cooperates, episodes, 0)
    np.random.default_rng(seed).permuted(cooperates, axis=1, out=cooperates)
    policies = [_policy(config, player, players, games, seed + i) for i, player in enumerate((cooperator, defector))]
    playing = config.make_world(games)
    observations, begun = playing.reset(seed), np.ones(games, np.bool_)
    returns, under_way = np.zeros((games, players)), np.ones((games, 1), np.bool_)
    while under_way.any():
        masks = allowed_actions(playing)
        chosen = [policy.act(observations, begun, explore=True, masks=masks)[0] for policy in policies]
        actions = np.where(cooperates, *chosen)
        for policy in policies:
            policy.notice(observations, actions, playing.alive, masks)
        step = playing.step(actions)
        returns += step.rewards * under_way
        observations, begun = step.observations, step.terminated | step.truncated
        under_way &= ~begun[:, None]
    shape = (players + 1, episodes, players)
    return Diagram.of(returns.reshape(shape), cooperates.reshape(shape))


def _policy(config: EmpathyConfig, player: str, players: int, games: int, seed: int) -> JointPolicy:
    """The player on all seats."""
    if player in KINDS:
        if KINDS[player].learns:
            raise SettingError(f"Agents of kind {player!r} have to be trained first: give a run folder instead.")
        entries: list[dict[str, Any]] = [{"kind": player, "count": players}]
    elif Path(player).exists():
        entries = [{"kind": "frozen", "checkpoint": player, "agent": seat} for seat in range(players)]
    else:
        scripted = sorted(name for name, kind in KINDS.items() if not kind.learns and name != "frozen")
        raise SettingError(
            f"Player {player!r} is neither a run folder or checkpoint nor one of the kinds that need no training: "
            f"{', '.join(scripted)}."
        )
    config = config.copy(copy_frozen=False).population(entries)
    config.env_runners(num_envs_per_env_runner=games).debugging(seed=seed)
    config.validate()
    runner = JointEnvRunner(config=config, worker_index=0)
    for module_id, kind in config.resolved_population().kinds().items():
        kind.initialise(runner.module[module_id])
    return runner.policy
