"""What Reciprocators cost beside PPO, in the coin game."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.measure import Row, Scale, benchmark, local_ray, one_thread, row, seconds
from benchmarks.profile import Profile
from rllib_empathy.learning.algorithm import Empathy
from rllib_empathy.learning.config import EmpathyConfig

STEPS = 32
"""Of an episode."""

GAMES: dict[Scale, int] = {"full": 256, "tiny": 4}
GAMES_IN_PAPER: dict[Scale, int] = {"full": 1024, "tiny": 4}
AGENTS: dict[Scale, tuple[int, ...]] = {"full": (2, 3, 4), "tiny": (3,)}
REPEATS: dict[Scale, int] = {"full": 3, "tiny": 1}
REFIT_EVERY: dict[Scale, int] = {"full": 10, "tiny": 2}
"""Iterations from one fit of the estimators to the next, which are timed together."""


def coins(kind: str, agents: int, games: int, **options: Any) -> EmpathyConfig:
    """Agents of one kind in the 3x3 coin game, whole episodes."""
    return (
        EmpathyConfig()
        .environment("coin_game", env_config={"preset": "reciprocator", "num_agents": agents})
        .population([{"kind": kind, "count": agents, **options}])
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=games,
            rollout_fragment_length=STEPS,
            batch_mode="complete_episodes",
        )
        .debugging(seed=1)
    )


def ours(kind: str, agents: int, games: int, **options: Any) -> Empathy:
    """With the settings of tune_configs/reciprocator_coins.yaml."""
    settings: dict[str, Any] = {"num_epochs": 4, "minibatch_size": games * STEPS // 2, "reward_scale": 0.1}
    network = {"conv_filters": (), "hidden": (64, 64)}
    return coins(kind, agents, games, **options).training(gamma=0.99, network=network, **settings).build_algo()


def several(algorithm: Empathy, iterations: int) -> Callable[[], None]:
    """That many iterations."""

    def train() -> None:
        for _ in range(iterations):
            algorithm.train()

    return train


@benchmark
def reciprocators(scale: Scale) -> list[Row]:
    """Iterations of Reciprocators, fits of their estimators included, against PPO's; and the paper's batch and epochs."""
    rows = []
    period, games = REFIT_EVERY[scale], GAMES[scale]
    with one_thread(), local_ray():
        for agents in AGENTS[scale]:
            estimator = {"estimator": {"refit_every": period}}
            algorithms = {
                "ppo": ours("ppo", agents, games),
                "with balances as inputs": ours("reciprocator", agents, games, **estimator),
                "without": ours("reciprocator", agents, games, balance_input=False, **estimator),
            }
            profiles = {name: Profile(several(algorithm, period)) for name, algorithm in algorithms.items()}
            times = seconds(profiles, REPEATS[scale], warm_up=1)
            for name, algorithm in algorithms.items():
                algorithm.stop()
                cost = times[name] / (period * games * STEPS) * 1e6
                ratio, parts = times[name] / times["ppo"], profiles[name].shares()
                limit = None if name == "ppo" else 1.6
                title = f"Coins, {agents} agents, {games} games: {name}"
                rows.append(row(title, cost, "us / env step", ratio, at_most=limit, parts=parts))
        rows.append(paper(GAMES_IN_PAPER[scale]))
    return rows


def paper(games: int) -> Row:
    """The paper's batch and epochs: env steps per second of an iteration with a fit and one without."""
    algorithm = coins("reciprocator", 2, games, preset="paper", frozen_iterations=0).build_algo()
    time = seconds({"paper": several(algorithm, 2)}, repeats=1, warm_up=0)["paper"]
    algorithm.stop()
    return row(
        f"Coins, preset paper, {games} games, 40 epochs on the whole batch", 2 * games * STEPS / time, "env steps/s"
    )
