"""The Reciprocators' coin game of two players, exactly: value influence by dynamic programming, and how near estimators come.

A state is the cells of both agents and of both coins on the 3x3 torus, 9^4 of them. Players act at random, every action equally
likely, for 32 steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

import env_registry
from env_registry.grid import destinations
from rllib_empathy.policies.influence import ESTIMATORS, EstimatorOptions, Lessons, Views
from rllib_empathy.policies.networks import Architecture, NetworkOptions, stack_parameters

CELLS, ACTIONS, STEPS = 9, 5, 32
THEFT = 2.0
"""What an owner loses for a coin that the other takes, N / (N - 1)."""


def exact_influences(gamma: float) -> NDArray[np.float32]:
    """VI_i|j for every step, state and joint action, `[steps, 9, 9, 9, 9, 5, 5, 2, 2]`, of i on j.

    Axes: step since the start, cells of agents 0 and 1, of their coins, actions of agents 0 and 1, i, j. Backwards in time,

        Q_j(s, a) = r_j(s, a) + gamma E[V_j(s')],      V_j(s) = mean_a Q_j(s, a),      V_j = 0 after the last step

    A taken coin is anywhere with equal probability in the next state.
    """
    lead_to = destinations(3, 3, ACTIONS, torus=True)[:CELLS].astype(np.int64)  # [cell, action]
    cells = (lead_to[:, None, None, None, :, None], lead_to[None, :, None, None, None, :])
    coins = tuple(np.arange(CELLS).reshape(shape) for shape in ((1, 1, -1, 1, 1, 1), (1, 1, 1, -1, 1, 1)))
    takes = [[cell == coin for coin in coins] for cell in cells]  # of each agent, each coin
    rewards = [takes[j][0] * 1.0 + takes[j][1] - THEFT * takes[1 - j][j] for j in range(2)]
    taken = [takes[0][coin] | takes[1][coin] for coin in range(2)]
    found = np.zeros((STEPS, *[CELLS] * 4, ACTIONS, ACTIONS, 2, 2), np.float32)
    values = [np.zeros([CELLS] * 4) for _ in range(2)]
    for step in reversed(range(STEPS)):
        for j in range(2):
            after = [values[j], *(values[j].mean(axes, keepdims=True) for axes in (2, 3, (2, 3)))]
            stays, first, second, both = (np.broadcast_to(v, values[j].shape)[(*cells, *coins)] for v in after)
            future = np.where(taken[0], np.where(taken[1], both, first), np.where(taken[1], second, stays))
            q = rewards[j] + gamma * future
            values[j] = q.mean((4, 5))
            found[step, ..., 1 - j, j] = q - q.mean(5 - j, keepdims=True)
    return found


class RandomGames(NamedTuple):
    """Games of players who act at random, from start to end."""

    lessons: Lessons  # what estimators are fitted to
    exact: torch.Tensor  # [T, B, 2, 2] influences, of the first agent on the second


def play(games: int, seed: int, exact: NDArray[np.float32]) -> RandomGames:
    """Plays one episode of each game, with the influences that are known exactly."""
    world: Any = env_registry.make("coin_game", games, preset="reciprocator")
    random = np.random.default_rng(seed)
    seen, influences, rewards, actions = [world.reset(seed)], [], [], []
    for step in range(STEPS):
        state = (*world.cells.T.astype(int), *world.coins.T.astype(int))
        actions.append(random.integers(0, ACTIONS, (games, 2)))
        influences.append(exact[(step, *state, *actions[-1].T)])
        after = world.step(actions[-1])
        rewards.append(after.rewards)
        seen.append(after.observations)
    alive = torch.ones(STEPS, games, 2, dtype=torch.bool)
    time = (torch.arange(STEPS) / STEPS).unsqueeze(1).expand(STEPS, games)
    views = Views.of(torch.from_numpy(np.stack(seen[:-1])), torch.from_numpy(np.stack(actions)), alive, time)
    goes_on = alive.clone()
    goes_on[-1] = False
    of_others = torch.from_numpy(np.stack(rewards)).flip(-1).unsqueeze(-1)
    return RandomGames(Lessons(views, of_others, goes_on.unsqueeze(-1)), torch.from_numpy(np.stack(influences)))


def quality(
    form: str, lessons: RandomGames, check: RandomGames, gamma: float, seed: int = 0, **options: int
) -> tuple[float, float]:
    """How well an estimator that was fitted to some games tells the influences of others: (correlation, R2)."""
    torch.manual_seed(seed)
    architecture = Architecture.of((4, 3, 3), 1.0, ACTIONS, NetworkOptions(conv_filters=(), hidden=()))
    estimator = ESTIMATORS[form](architecture, 2, ACTIONS, gamma, EstimatorOptions(**options))
    optimizer = torch.optim.Adam(estimator.parameters(), lr=estimator.options.lr)
    fitting = type(estimator).fit([estimator], lessons.lessons, torch.Generator().manual_seed(seed))
    for loss, _ in fitting:
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    with torch.no_grad():
        found = estimator.influence(stack_parameters([estimator]), check.lessons.views)[0]
    told, true = found.flatten(), check.exact[..., ~torch.eye(2, dtype=torch.bool)].flatten()
    unexplained = ((true - told) ** 2).mean() / true.var(correction=0)
    return float(torch.corrcoef(torch.stack([told, true]))[0, 1]), float(1 - unexplained)


def estimators_table(gamma: float, games: int, seed: int) -> Table:
    """Correlation and R2 of each estimator's influences with the exact ones, in other games than it was fitted to."""
    exact = exact_influences(gamma)
    lessons, check = play(games, seed, exact), play(256, seed + 1, exact)
    title = f"Value influence in the coin game, fitted to {games} random games"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in ("estimator", "passes", "correlation", "R2"):
        table.add_column(column, justify="left" if column == "estimator" else "right")
    for form in ("counterfactual", "twins"):
        for epochs in (2, 8):
            correlation, explained = quality(form, lessons, check, gamma, seed, epochs=epochs)
            table.add_row(form, str(epochs), f"{correlation:.2f}", f"{explained:.2f}")
    return table
