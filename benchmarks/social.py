"""What LASE costs beside PPO, and what computing all counterfactuals at once saves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders import Batch, empathy
from benchmarks.measure import Row, Scale, benchmark, one_thread, row, seconds
from benchmarks.profile import Profile
from rllib_empathy.learning.learner import EmpathyLearner
from rllib_empathy.learning.training_data import JointTrainingData
from rllib_empathy.policies.networks import Architecture, NetworkOptions, encode, prepare, stack_parameters
from rllib_empathy.policies.social_networks import SocialNetworks, counterfactual_values, joint_action_values
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner

BATCHES: dict[Scale, tuple[Batch, ...]] = {"full": (Batch(64, 25), Batch(128, 100)), "tiny": (Batch(4, 5),)}
REPEATS: dict[Scale, int] = {"full": 5, "tiny": 1}
ROWS: dict[Scale, int] = {"full": 1600, "tiny": 8}

REWARDED = 0.15
"""Share of steps in which an agent has a reward: what agents that have learned Cleanup get (60 apples, 100 steps, 4 agents)."""

AGENTS, ACTIONS = 4, 7
CLEANUP_WINDOW = (7, 5, 5)


def two_iterations(kind: str, batch: Batch, **options: int) -> Callable[[], None]:
    """Sampling and learning of four agents in Cleanup; in what is learned from, rewards are as frequent as later in training."""
    config = empathy(batch).population([{"kind": kind, "count": AGENTS, **options}]).debugging(seed=1)
    config.validate()
    runner = JointEnvRunner(config=config, worker_index=0)
    learner = EmpathyLearner(config=config, module_spec=config.get_multi_rl_module_spec())
    learner.build()
    random = np.random.default_rng(0)

    def iterate() -> None:
        for _ in range(2):
            (sampled,) = runner.sample()
            rewards = (random.random(sampled.rewards.shape) < REWARDED).astype(np.float32)
            learner.update(training_data=JointTrainingData(trajectories=[replace(sampled, rewards=rewards)]))

    return iterate


@benchmark
def social(scale: Scale) -> list[Row]:
    """LASE's iterations against PPO's, and counterfactual values against a forward pass for each of them."""
    rows = []
    with one_thread():
        for batch in BATCHES[scale]:
            profile = Profile(two_iterations("lase", batch))
            often = two_iterations("lase", batch, update_frequency=1, social_minibatches=2)
            contenders: dict[str, Callable[[], None]] = {
                "ppo": two_iterations("ppo", batch),
                "lase": profile,
                "often": often,
            }
            times = seconds(contenders, REPEATS[scale], warm_up=1)
            costs = {name: time / (2 * batch.env_steps) * 1e6 for name, time in times.items()}
            ratios = {name: time / times["ppo"] for name, time in times.items()}
            name, parts = f"LASE, Cleanup, {batch}", profile.shares()
            inference = parts.get("inference", 0.0) or 1e-9
            rows += [
                row(f"{name}: against PPO", costs["lase"], "us / env step", ratios["lase"], at_most=1.6, parts=parts),
                row(f"{name}: update_frequency 1", costs["often"], "us / env step", ratios["often"]),
                row(f"{name}: inference", inference, "of an iteration", at_most=0.25),
            ]
        return rows + counterfactuals(ROWS[scale], REPEATS[scale])


@torch.no_grad()
def counterfactuals(rows: int, repeats: int) -> list[Row]:
    """Q with each co-player's action replaced by every other: all at once, convolutions once, whole forward passes."""
    architecture = Architecture.of(CLEANUP_WINDOW, 1.0, ACTIONS, NetworkOptions())
    joint_actions = (ACTIONS,) * AGENTS
    networks = SocialNetworks(architecture, joint_actions, hidden=128)
    convolutions = networks.relationship_architecture
    parameters = prepare(convolutions, stack_parameters([networks.relationship]), rows)
    seen = (torch.rand(1, rows, *CLEANUP_WINDOW) < 0.1).to(torch.uint8)
    taken = torch.randint(ACTIONS, (1, rows, AGENTS))

    def at_once() -> list[Tensor]:
        return counterfactual_values(parameters, encode(convolutions, parameters, seen), taken, joint_actions)

    def one_by_one(convolve_once: bool) -> list[Tensor]:
        features = encode(convolutions, parameters, seen)
        found = []
        for place in range(1, AGENTS):
            values = []
            for action in range(ACTIONS):
                if not convolve_once:
                    features = encode(convolutions, parameters, seen)
                replaced = taken.clone()
                replaced[..., place] = action
                values.append(joint_action_values(parameters, features, replaced, joint_actions))
            found.append(torch.stack(values, -1))
        return found

    ways: dict[str, Callable[[], list[Tensor]]] = {
        "whole forward passes": partial(one_by_one, convolve_once=False),
        "convolutions once": partial(one_by_one, convolve_once=True),
        "all at once": at_once,
    }
    times = seconds(ways, repeats)
    return [
        row(f"counterfactuals, {rows} rows: {name}", time * 1e3, "ms", time / times["all at once"])
        for name, time in times.items()
    ]
