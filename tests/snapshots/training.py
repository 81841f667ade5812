"""What three iterations of training come to, as hashes: of parameters, optimisers and the rewards that were learned from.

    OMP_NUM_THREADS=1 PYTHONHASHSEED=0 python -m tests.snapshots.training [--record]

prints the hashes of everything in `PATHS`, or writes them to this platform's file (`make snapshots`). It is a process of its own,
because RLlib learns policies in the order of a set, which depends on Python's hash seed.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.connector_v2 import ConnectorV2
from torch.nn.functional import conv2d

from rllib_empathy import with_gifting
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.learning.learner import EmpathyLearner
from rllib_empathy.policies import KINDS
from rllib_empathy.stock.kinds import kinds_that_reshape
from tests.algorithm.common import small_config
from tests.stock.ferry import Ferry

ITERATIONS = 3

Snapshot = dict[str, str]
"""Part of what was trained -> hash."""


def digest(value: Any) -> str:
    """A hash of arrays, tensors and plain values in nested dicts and lists; one bit changes it."""
    hashed = hashlib.sha256()
    _feed(hashed, value)
    return hashed.hexdigest()[:16]


def arithmetic() -> str:
    """A hash of what this machine makes of some sums: equal on machines on which training can be expected to be bit-equal."""
    generator = torch.Generator().manual_seed(0)
    x, weights, filters = (
        torch.randn(shape, generator=generator) for shape in ((4, 50, 200), (4, 200, 128), (8, 2, 3, 3))
    )
    return digest(
        [
            x @ weights,
            conv2d(x.reshape(-1, 2, 10, 10), filters),
            torch.softmax(x, -1).log(),
            torch.tanh(x).sum((0, 1)),
            x.double().exp().sqrt().mean(1),
            np.exp(x.numpy()).sum(0),
        ]
    )


def file_of_this_platform() -> Path:
    """Where the snapshots of this platform and version of torch are."""
    version = torch.__version__.split("+")[0]
    return Path(__file__).parent / f"{platform.system()}-{platform.machine()}-torch-{version}.json".lower()


def own_path(kind: str) -> tuple[Algorithm, Snapshot]:
    """A population of one kind, on our own runner and Learner; the algorithm is to be stopped by who asks."""
    algorithm = own_config(kind).build_algo()
    RecordingLearner.rewards = []
    for _ in range(ITERATIONS):
        algorithm.train()
    return algorithm, of_learner(algorithm, RecordingLearner.rewards)


def own_config(kind: str) -> EmpathyConfig:
    """Four agents of a kind in the stag hunt, with episodes that end inside fragments."""
    mode = "complete_episodes" if KINDS[kind].needs_whole_episodes else "truncate_episodes"
    config = small_config(population=kind, games=4).environment(env_config={"episode_length": 15})
    return config.env_runners(batch_mode=mode).learners(learner_class=RecordingLearner)


def stock_path(kind: str) -> tuple[Algorithm, Snapshot]:
    """A user's own PPO with two agents of one kind; the algorithm is to be stopped by who asks."""
    config = (
        PPOConfig()
        .environment(Ferry)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2, batch_mode="complete_episodes")
        .multi_agent(
            policies=["captain", "deckhand", "passengers"],
            policy_mapping_fn=lambda agent, episode, **kwargs: agent if "_" not in agent else "passengers",
        )
        .training(train_batch_size_per_learner=40, minibatch_size=20, num_epochs=1)
        .learners(learner_connector=lambda *args: RecordRewards())
        .debugging(seed=5, log_level="ERROR")
    )
    # Passengers share a policy and see co-players with unlike actions, with which not every kind can live.
    kinds = {"captain": kind, "deckhand": kind, "passengers": "blind_gift"}
    algorithm = with_gifting(config, kinds).build_algo()
    RecordRewards.rewards = []
    for _ in range(ITERATIONS):
        algorithm.train()
    return algorithm, of_learner(algorithm, RecordRewards.rewards)


PATHS = {
    **{f"own/{name}": (own_path, name) for name, kind in sorted(KINDS.items()) if kind.learns},
    **{f"stock/{name}": (stock_path, name) for name in sorted(kinds_that_reshape())},
}
"""Everything that there is a snapshot of."""


def of_learner(algorithm: Algorithm, rewards: list[Any]) -> Snapshot:
    """The snapshot of an algorithm's only Learner."""
    state = algorithm.learner_group.get_state()["learner"]
    parts = {"parameters": state["rl_module"], "optimizers": state["optimizer"], "rewards": rewards}
    if "gifting" in state:
        parts["gifting"] = [state["gifting"]["networks"], state["gifting"]["optimizers"]]
    return {name: digest(part) for name, part in parts.items()}


class RecordingLearner(EmpathyLearner):
    """Keeps the rewards that agents learn from."""

    rewards: ClassVar[list[Any]] = []

    def _learn(self, joint: Any, rewards: Any, env_steps: int) -> None:
        RecordingLearner.rewards.append(rewards.clone())
        super()._learn(joint, rewards, env_steps)


class RecordRewards(ConnectorV2):
    """Behind the reshaping of rewards, as a user's own piece of the Learner's pipeline."""

    rewards: ClassVar[list[Any]] = []

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Any, **kwargs: Any) -> Any:
        found = [(str(own.agent_id), own.get_rewards()) for own in self.single_agent_episode_iterator(episodes)]
        RecordRewards.rewards.append([rewards for _, rewards in sorted(found, key=lambda pair: pair[0])])
        return batch


def _feed(hashed: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            hashed.update(str(key).encode())
            _feed(hashed, value[key])
    elif isinstance(value, list | tuple):
        hashed.update(str(len(value)).encode())
        for part in value:
            _feed(hashed, part)
    elif isinstance(value, torch.Tensor | np.ndarray):
        array = np.ascontiguousarray(value.detach().numpy() if isinstance(value, torch.Tensor) else value)
        hashed.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    else:
        hashed.update(repr(value).encode())


def main() -> None:
    """Trains everything in `PATHS`."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    snapshots = {}
    for name, (train, kind) in PATHS.items():
        algorithm, snapshots[name] = train(kind)
        algorithm.stop()
    ray.shutdown()
    answer = json.dumps({"arithmetic": arithmetic(), "snapshots": snapshots}, indent=1) + "\n"
    if "--record" in sys.argv:
        file_of_this_platform().write_text(answer)
    else:
        sys.stdout.write(answer)


if __name__ == "__main__":
    main()
