"""The Algorithm: sample jointly, learn jointly, send weights back."""

from __future__ import annotations

from typing import Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.learning.training_data import JointTrainingData
from rllib_empathy.sampling.joint_env_runner import COMPONENT_SAMPLING

REMOTE_SAMPLING = "remote_sampling"
"""Name of the remote runners' games in the algorithm's state."""


class Empathy(Algorithm):
    """On-policy learning of a population that lives in one world. Configure it with `EmpathyConfig`."""

    @classmethod
    def get_default_config(cls) -> EmpathyConfig:
        """An `EmpathyConfig` with its defaults."""
        return EmpathyConfig()

    def training_step(self) -> None:
        """One iteration: a batch of joint trajectories, one update, new weights for all runners."""
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            trajectories, results = self._sample()
            if not trajectories:
                return
            self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        env_steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            learned = self.learner_group.update(
                training_data=JointTrainingData(trajectories=trajectories),
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: env_steps},
            )
            self.metrics.aggregate(learned, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """The algorithm's state, the games of remote runners included."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self.env_runner_group.num_remote_env_runners() and self._check_component(
            REMOTE_SAMPLING, components, not_components
        ):
            states = self.env_runner_group.foreach_env_runner(
                lambda runner: runner.get_state(components=COMPONENT_SAMPLING), local_env_runner=False
            )
            state[REMOTE_SAMPLING] = [s[COMPONENT_SAMPLING] for s in states if COMPONENT_SAMPLING in s]
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`'s answer; every runner takes its own games up again."""
        super().set_state(state)
        if state.get(REMOTE_SAMPLING):
            by_runner = ray.put({sampling["worker_index"]: sampling for sampling in state[REMOTE_SAMPLING]})

            def take_up(runner: Any) -> None:
                sampling = ray.get(by_runner).get(runner.worker_index)
                if sampling is not None:
                    runner.set_state({COMPONENT_SAMPLING: sampling})

            self.env_runner_group.foreach_env_runner(take_up, local_env_runner=False)

    def _sample(self) -> tuple[list[JointTrajectory | ray.ObjectRef], list[dict[str, Any]]]:
        """Trajectories (references to them, from remote runners) until the train batch is full, and metrics."""
        trajectories: list[Any] = []
        results: list[dict[str, Any]] = []
        env_steps = 0
        while not trajectories or env_steps < self.config.env_steps_wanted:
            if self.env_runner_group.num_remote_env_runners() == 0:
                sampled = self.env_runner.sample()
                trajectories.extend(sampled)
                env_steps += sum(trajectory.env_steps() for trajectory in sampled)
                results.append(self.env_runner.get_metrics())
                continue
            answers = self.env_runner_group.foreach_env_runner(
                "sample_by_reference", local_env_runner=False, timeout_seconds=self.config.sample_timeout_s
            )
            if not answers:
                break
            for references, steps, metrics in answers:
                trajectories.extend(references)
                env_steps += steps
                results.append(metrics)
        return trajectories, results
