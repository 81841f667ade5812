"""Meta-games: two players meet in one inner episode after the other, between which they may learn."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rllib_empathy.theory.meta_players import Player, Times


class Course(NamedTuple):
    """A meta-episode: means over all games, per inner episode and player, `[E, 2]`."""

    returns: NDArray[np.float64]
    own_coins: NDArray[np.float64]
    other_coins: NDArray[np.float64]


def play(world: Any, players: tuple[Player, Player], episodes: int) -> Course:
    """Plays a meta-episode in all games.

    Args:
        world: the coin game of two players, seeded before.
        players: of seats 0 and 1.
        episodes: E.
    """
    observations = torch.from_numpy(world.reset())
    for player in players:
        player.begin()
    steps = world.episode_length
    course = Course(*np.zeros((3, episodes, 2)))
    for episode in range(episodes):
        for step in range(steps):
            times = Times(step / steps, (episode + step / steps) / episodes)
            actions = [player.act(observations[:, seat], times) for seat, player in enumerate(players)]
            after = world.step(torch.stack(actions, 1).numpy())
            observations = torch.from_numpy(after.observations)
            for seat, player in enumerate(players):
                player.earn(torch.from_numpy(after.rewards[:, seat]))
            found = after.rewards, after.events["own_coins"], after.events["other_coins"]
            for column, values in zip(course, found, strict=True):
                column[episode] += values.mean(0)
        for player in players:
            player.end_episode(episode + 1 == episodes)
    return course
