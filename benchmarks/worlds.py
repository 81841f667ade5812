"""What stepping worlds costs, and what bridges to other libraries add to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

import env_registry
from benchmarks.contenders import WORLD, Batch, empathy, stock
from benchmarks.measure import Row, Scale, benchmark, local_ray, one_thread, row, seconds
from env_registry import WORLDS, World, parallel_env
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner

GAMES: dict[Scale, int] = {"full": 1024, "tiny": 4}
STEPS: dict[Scale, int] = {"full": 100, "tiny": 3}
SAMPLED: dict[Scale, tuple[Batch, ...]] = {"full": (Batch(1, 200), Batch(64, 50)), "tiny": (Batch(2, 3),)}
"""Batches of the comparison of runners."""

FASTEST_COPY = 0.3e-3
"""Seconds that the reference copy may take on a machine on which Cleanup is to make a million steps per second."""


def random_actions(world: World, steps: int) -> np.ndarray:
    """Uniform, `[steps, B, N]`."""
    shape = (steps, world.num_games, world.num_agents)
    return np.random.default_rng(0).integers(0, int(world.action_space.n), shape)


def play(world: World, actions: np.ndarray) -> None:
    """Steps all games; `actions` are `[steps, B, N]`."""
    for now in actions:
        world.step(now)


def copy(observations: np.ndarray, out: np.ndarray, times: int) -> None:
    """Copies observations to float32, the least that a learner does with them."""
    for _ in range(times):
        np.copyto(out, observations)


def play_one(env: Any, actions: np.ndarray) -> None:
    """Plays one game through PettingZoo's interface; `actions` are `[steps, 1, N]`."""
    env.reset()
    for now in actions[:, 0]:
        if not env.agents:
            env.reset()
        env.step(dict(zip(env.possible_agents, now.tolist(), strict=True)))


@benchmark
def worlds(scale: Scale) -> list[Row]:
    """Every world with its defaults, random actions, one thread: env steps and copies of what they show."""
    games, steps = GAMES[scale], STEPS[scale]
    repeats = 9 if scale == "full" else 1
    found = []
    for name in WORLDS:
        world = env_registry.make(name, games)
        observations, actions = world.reset(seed=0), random_actions(world, steps)
        out = np.empty(observations.shape, np.float32)
        contenders = {"step": partial(play, world, actions), "copy": partial(copy, observations, out, steps)}
        times = seconds(contenders, repeats)
        speed = games * steps / times["step"]
        is_grid = observations.ndim == 5
        title = f"{name}, {games} games: a step against a float32 copy"
        ratio = times["step"] / times["copy"]
        found.append(row(title, speed, "env steps/s", ratio, at_most=4 if is_grid else None))
        if name == WORLD:
            fast = times["copy"] / steps < FASTEST_COPY
            title = f"{name}, {games} games, one core (a copy takes {times['copy'] / steps * 1e3:.2f} ms)"
            found.append(row(title, speed, "env steps/s", at_least=1e6 if fast else None))
    return found


@benchmark
def bridges(scale: Scale) -> list[Row]:
    """Cleanup with random actions through PettingZoo; with networks through RLlib's runner and through ours."""
    repeats = 5 if scale == "full" else 1
    steps = 5 * STEPS[scale]
    world, env = env_registry.make(WORLD), parallel_env(WORLD)
    world.reset(seed=0)
    env.reset(seed=0)
    actions = random_actions(world, steps)
    times = seconds({"world": partial(play, world, actions), "env": partial(play_one, env, actions)}, repeats)
    found = [
        row(f"{WORLD}, one game, batched world", steps / times["world"], "env steps/s"),
        row(f"{WORLD}, one game, PettingZoo", steps / times["env"], "env steps/s", times["world"] / times["env"]),
    ]
    with one_thread(), local_ray():
        for batch in SAMPLED[scale]:
            ours = JointEnvRunner(config=_checked(empathy(batch)))
            theirs = MultiAgentEnvRunner(config=_checked(stock(batch)))
            sample: dict[str, Callable[[], Any]] = {
                "ours": ours.sample,
                "stock": partial(theirs.sample, num_timesteps=batch.env_steps, random_actions=False),
            }
            times = seconds(sample, repeats)
            ours.stop()
            theirs.stop()
            speed = {name: batch.env_steps / time for name, time in times.items()}
            found += [
                row(f"{WORLD}, {batch}, with networks, RLlib's runner", speed["stock"], "env steps/s"),
                row(
                    f"{WORLD}, {batch}, with networks, JointEnvRunner against it",
                    speed["ours"],
                    "env steps/s",
                    speed["ours"] / speed["stock"],
                ),
            ]
    return found


def _checked(config: Any) -> Any:
    config.validate()
    return config
