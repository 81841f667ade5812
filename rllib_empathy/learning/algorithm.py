"""The Algorithm: sample jointly, learn jointly, send weights back."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NoReturn

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from env_registry.failures import raise_told
from env_registry.parameters import SettingError
from rllib_empathy.joint import JointTrajectory
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.learning.faults import ClusterFault, error_of_program, errors_of_programs_raised
from rllib_empathy.learning.finite import NonFiniteError
from rllib_empathy.learning.training_data import JointTrainingData
from rllib_empathy.population import PopulationSpec, check_change
from rllib_empathy.sampling.joint_env_runner import COMPONENT_SAMPLING

logger = logging.getLogger(__name__)

REMOTE_SAMPLING = "remote_sampling"
"""Name of the remote runners' games in the algorithm's state."""

SECONDS_BETWEEN_PROBES = 10
"""How often missing runners are looked for. Each look costs `env_runner_health_probe_timeout_s` while one is missing."""

LONGEST_WITHOUT_RUNNERS_S = 600
"""How long training waits while no runner answers: a cluster may need minutes to start another machine."""

LONGEST_LEARNER_PING_S = 10
"""How long a Learner may take to say that it is there, after something went wrong."""


class Empathy(Algorithm):
    """On-policy learning of a population that lives in one world. Configure it with `EmpathyConfig`."""

    config: EmpathyConfig

    @classmethod
    def get_default_config(cls) -> EmpathyConfig:
        """An `EmpathyConfig` with its defaults."""
        return EmpathyConfig()

    @staticmethod
    def _get_env_id_and_creator(env_specifier: Any, config: Any) -> tuple[Any, Any]:
        """RLlib takes names and classes; functions that make worlds are made by our runners, not by RLlib's creators."""
        if callable(env_specifier) and not isinstance(env_specifier, type):
            return env_specifier, env_specifier
        return Algorithm._get_env_id_and_creator(env_specifier, config)

    def setup(self, config: Any) -> None:
        """Builds runners and Learners.

        Raises:
            ProgramError: one of them cannot be built, for instance since its process cannot import the world's module.
        """
        self._next_probe: dict[int, float] = {}  # by group of runners
        try:
            with errors_of_programs_raised():
                super().setup(config)
        except RayError as error:
            raise (error_of_program(error) or error) from None

    def training_step(self) -> None:
        """One iteration: a batch of joint trajectories, one update, new weights for all runners.

        Raises:
            ProgramError: code of a user's, such as the world, raised an exception, here or in another process.
            ClusterFault: processes or machines are gone that an iteration cannot do without.
        """
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            trajectories, results = self._sample()
            self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        env_steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)), self._learners_watched():
            learned = self.learner_group.update(
                training_data=JointTrainingData(trajectories=trajectories),
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: env_steps},
            )
            self.metrics.aggregate(learned, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)), self._learners_watched():
            self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)

    def change_population(self, population: PopulationSpec) -> None:
        """Goes on with another population from the next iteration; all games begin anew.

        Agents whose module ids stay (see `Population.module_of_agent`) keep their networks and optimisers, wherever they sit from
        now on; the others are new, and begin untrained.

        Raises:
            SettingError: the population does not fit the world, or a module id stays for another kind or other options. Then
                nothing has changed.
        """
        config = self.config.copy(copy_frozen=False).population(population)
        config.validate()
        check_change(self.config.resolved_population(), config.resolved_population())
        gone = set(self.config.policies) - set(config.policies)
        config.freeze()
        self.config = config
        spec = config.population_spec
        for answer in self.learner_group.foreach_learner(lambda learner: learner.change_population(spec)):
            answer.get()
        for module_id in gone:
            self.metrics.delete((LEARNER_RESULTS, module_id), key_error=False)
        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                group.foreach_env_runner(lambda runner: runner.change_population(spec))
        self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)

    def add_module(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a module has a kind, options and seats, which only a population can say."""
        raise SettingError(
            "Agents come and go with the population: call change_population(...) with all who play from now on."
        )

    remove_module = add_module

    def save_to_path(self, path: str | Path | None = None, **kwargs: Any) -> str:
        """Writes a checkpoint.

        A remote Learner writes its part itself, and RLlib does not ask whether it has come to the end, where its state is.

        Raises:
            ClusterFault: it has not (looked for in pickles on this machine only).
        """
        written: str = super().save_to_path(path, **kwargs)
        if kwargs.get("use_msgpack") or not Path(written).is_dir():
            return written
        last = Path(written) / COMPONENT_LEARNER_GROUP / COMPONENT_LEARNER / f"{Checkpointable.STATE_FILE_NAME}.pkl"
        try:
            pickle.loads(last.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise ClusterFault(f"The Learner has not written its part of the checkpoint {written}.") from error
        return written

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

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """Takes runners that came back into service, and looks for them every few seconds."""
        if monotonic() < self._next_probe.get(id(env_runner_group), 0.0):
            return []
        restored = super().restore_env_runners(env_runner_group)
        if restored:  # they were built again as they were at the start
            spec = self.config.population_spec
            env_runner_group.foreach_env_runner(
                lambda runner: runner.change_population(spec), remote_worker_ids=restored, local_env_runner=False
            )
            env_runner_group.sync_weights(
                from_worker_or_learner_group=self.learner_group, to_worker_indices=restored, inference_only=True
            )
        if env_runner_group.num_healthy_remote_env_runners() < env_runner_group.num_remote_env_runners():
            self._next_probe[id(env_runner_group)] = monotonic() + SECONDS_BETWEEN_PROBES
        return restored

    def cleanup(self) -> None:
        """Ends all processes, also those that wait for a machine to run on, which would not answer to being stopped."""
        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                healthy = set(group.healthy_env_runner_ids())
                for number, actor in group._worker_manager.actors().items():
                    if number not in healthy:
                        ray.kill(actor)
        super().cleanup()

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
            for references, steps, metrics in self._remote_samples():
                trajectories.extend(references)
                env_steps += steps
                results.append(metrics)
        return trajectories, results

    def _remote_samples(self) -> list[tuple[list[ray.ObjectRef], int, dict[str, Any]]]:
        """What remote runners sampled, of all that answer; waits while none does.

        Raises:
            ClusterFault: none has answered for long.
        """
        deadline = monotonic() + LONGEST_WITHOUT_RUNNERS_S
        while monotonic() < deadline:
            if self.config.sample_ahead:
                answers = self._samples_ahead()
            else:
                answers = self.env_runner_group.foreach_env_runner(
                    "sample_by_reference", local_env_runner=False, timeout_seconds=self.config.sample_timeout_s
                )
            if answers:
                return answers
            group = self.env_runner_group
            logger.warning(
                "No runner has answered for %.0f s; of %d, the processes or machines of %d are known to be gone. Waiting up to "
                "%d s for one to come back.",
                LONGEST_WITHOUT_RUNNERS_S - (deadline - monotonic()),
                group.num_remote_env_runners(),
                group.num_remote_env_runners() - group.num_healthy_remote_env_runners(),
                LONGEST_WITHOUT_RUNNERS_S,
            )
            sleep(1)
            self.restore_env_runners(self.env_runner_group)
        raise ClusterFault(f"No runner has answered for {LONGEST_WITHOUT_RUNNERS_S} s.")

    def _samples_ahead(self) -> list[tuple[list[ray.ObjectRef], int, dict[str, Any]]]:
        """What runners have sampled since they were last asked; asks them for the next batch, to be played meanwhile.

        New weights reach a runner after the batch that it plays when they are made: samples are one update old, those of a
        runner that lets `sample_timeout_s` pass are older.
        """
        group, tag = self.env_runner_group, "sample_ahead"
        if not group.num_in_flight_async_reqs(tag):
            group.foreach_env_runner_async("sample_by_reference", tag=tag)
        answers = group.fetch_ready_async_reqs(tags=tag, timeout_seconds=self.config.sample_timeout_s)
        busy = group.num_in_flight_async_reqs(tag)  # of runners that are late: they are not asked for more
        ready = [number for number in group.healthy_env_runner_ids() if not busy or number in dict(answers)]
        if ready:  # RLlib takes an empty list for all
            group.foreach_env_runner_async("sample_by_reference", tag=tag, remote_worker_ids=ready)
        return [answer for _, answer in answers]

    @contextmanager
    def _learners_watched(self) -> Iterator[None]:
        """Turns whatever goes wrong inside because a Learner or its data are gone into a ClusterFault.

        Exceptions of programs are told as those of runners are.
        """
        try:
            yield
        except (ObjectLostError, RayActorError) as error:
            raise (
                error_of_program(error) or ClusterFault("A Learner, or all that it should have learned from, is gone.")
            ) from error
        except RayError as error:
            told = error_of_program(error)
            if isinstance(told, NonFiniteError | SettingError):
                raise told from None
            # Anything else may be because another Learner, for which this one waits, is gone.
            if self._all_learners_answer():
                raise (told or error) from None
            raise ClusterFault("A Learner is gone.") from error
        except Exception as error:
            raise_told(error, "Learning failed")

    def _all_learners_answer(self) -> bool:
        manager = self.learner_group._worker_manager
        if manager is None:
            return True
        answers = manager.foreach_actor(
            lambda learner: True, healthy_only=False, timeout_seconds=LONGEST_LEARNER_PING_S
        )
        return sum(answer.ok for answer in answers) == manager.num_actors()
