"""What an experiment needs of a cluster: processes, CPUs, GPUs, memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner

PROCESS_BYTES = 400 * 2**20
"""What a process holds before it plays or learns: libraries and what they allocate (docs/performance.md)."""

PROBE_STEPS = 4
"""Steps of a few games that are played to see how large a trajectory is."""


@dataclass(frozen=True)
class Processes:
    """Like processes of a run, and what each of them needs.

    Attributes:
        what: "driver", "runner", "evaluation runner" or "learner".
        count: how many.
        resources: of each, as Ray counts them: CPU, GPU.
        memory: bytes of each, as estimated.
    """

    what: str
    count: int
    resources: dict[str, float]
    memory: int


@dataclass(frozen=True)
class Needs:
    """All that a run needs.

    Attributes:
        processes: the driver, runners, learners.
        bytes_per_env_step: that a trajectory holds.
        env_steps: of an iteration.
    """

    processes: tuple[Processes, ...]
    bytes_per_env_step: float
    env_steps: int

    @property
    def object_store(self) -> int:
        """Bytes of trajectories that are under way at once, over all nodes: this iteration's, and the last one's until freed."""
        return round(2 * self.bytes_per_env_step * self.env_steps)

    def bundles(self) -> list[dict[str, float]]:
        """Resources of each process that has to find a place, the most demanding first."""
        return _bundles((group.count, group.resources) for group in self.processes)


def places_of(config: EmpathyConfig) -> list[dict[str, float]]:
    """Resources of each process of a configuration that has to find a place, the most demanding first. Plays nothing."""
    return _bundles((count, resources) for _, count, resources in _groups(config))


def needs_of(config: EmpathyConfig) -> Needs:
    """What a configuration needs. Plays a few steps of two games to see how large trajectories are."""
    runners, learners = config.num_env_runners, config.num_learners
    per_step = bytes_per_env_step(config)
    length: Any = config.rollout_fragment_length
    fragment = config.num_envs_per_env_runner * (100 if length == "auto" else int(length))
    env_steps = max(config.env_steps_wanted, fragment * max(1, runners))
    # A Learner holds its share as it came, as tensors, and once more for each pass through the networks.
    learning = PROCESS_BYTES + round(4 * per_step * env_steps / max(1, learners))
    sampling = PROCESS_BYTES + round(3 * per_step * fragment)
    alone = (0 if runners else sampling - PROCESS_BYTES) + (0 if learners else learning - PROCESS_BYTES)
    memory = {
        "driver": PROCESS_BYTES + alone,
        "runner": sampling,
        "evaluation runner": sampling,
        "learner": learning,
    }
    processes = tuple(Processes(what, count, resources, memory[what]) for what, count, resources in _groups(config))
    return Needs(processes, per_step, env_steps)


def _groups(config: EmpathyConfig) -> list[tuple[str, int, dict[str, float]]]:
    """What runs, how often, and what Ray (or, for a GPU, the driver itself) has to have for each."""
    gpus, cpus = float(config.num_gpus_per_learner), config.num_cpus_per_learner
    learner = {"CPU": (0.0 if gpus else 1.0) if cpus == "auto" else float(cpus), "GPU": gpus}
    runner = {
        "CPU": float(config.num_cpus_per_env_runner),
        "GPU": float(config.num_gpus_per_env_runner),
        **config.custom_resources_per_env_runner,
    }
    # Without Learners of their own, the driver learns, on a GPU if one is asked for; Ray does not count its CPU.
    driver = {} if config.num_learners else {"GPU": gpus}
    groups = [
        ("driver", 1, driver),
        ("runner", config.num_env_runners, runner),
        ("evaluation runner", config.evaluation_num_env_runners if config.evaluation_interval else 0, runner),
        ("learner", config.num_learners, learner),
    ]
    return [(what, count, {k: v for k, v in resources.items() if v}) for what, count, resources in groups if count]


def _bundles(groups: Iterable[tuple[int, dict[str, float]]]) -> list[dict[str, float]]:
    wanted = [resources for count, resources in groups for _ in range(count) if resources]
    return sorted(wanted, key=lambda bundle: (-bundle.get("GPU", 0), -bundle.get("CPU", 0)))


def bytes_per_env_step(config: EmpathyConfig) -> float:
    """Bytes that a step of one game takes in a trajectory, all agents together."""
    small = (
        config.copy(copy_frozen=False)
        .env_runners(num_envs_per_env_runner=2, num_env_runners=0)
        .learners(num_learners=0)
    )
    small.evaluation(evaluation_interval=None)
    runner = JointEnvRunner(config=small, worker_index=0)
    try:
        trajectory = runner.sample(num_timesteps=2 * PROBE_STEPS)[0]
    finally:
        runner.stop()
    return trajectory.nbytes() / (trajectory.shape[0] * trajectory.shape[1])
