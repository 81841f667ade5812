"""The EnvRunner for batched worlds: it owns B games and fills the joint trajectory directly."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Collection
from math import ceil
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils import force_list
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    NUM_AGENT_STEPS_SAMPLED,
    NUM_AGENT_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    WEIGHTS_SEQ_NO,
)

from env_registry.action_masks import allowed_actions
from env_registry.failures import raise_told
from env_registry.game import World
from env_registry.parameters import SettingError
from env_registry.shuffled_seats import ShuffledSeats
from rllib_empathy.episode_means import sum_and_count
from rllib_empathy.joint import JointTrajectory
from rllib_empathy.population import PopulationSpec
from rllib_empathy.sampling.acting import JointPolicy
from rllib_empathy.sampling.episodes import EpisodeTotals, FinishedEpisodes, cooperation_of
from rllib_empathy.sampling.finite_observations import check_observations
from rllib_empathy.sampling.memory import return_freed_memory
from rllib_empathy.sampling.recording import Recording

logger = logging.getLogger(__name__)

COMPONENT_SAMPLING = "sampling"
"""Name of the worlds', random sources' and unfinished episodes' part of a runner's state."""

EVALUATION_SEED = 1_000_000
"""Added to the seed of evaluation runners, as RLlib does."""


class JointEnvRunner(EnvRunner, Checkpointable):
    """Plays B games at once with one forward pass per step for all of them.

    Games begin when first needed, so a runner that only holds weights costs no games.
    """

    config: Any  # an EmpathyConfig

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.num_games = self.config.num_envs_per_env_runner
        self._callbacks = [made() for made in force_list(self.config.callbacks_class)]
        self.population = self.config.resolved_population()
        self.world: World = None  # type: ignore[assignment]  # made when first needed
        self._weights_seq_no = 0
        self._is_new = self._restarted()  # and does not know whom it has to play
        if self.worker_index:  # in a process of its own
            return_freed_memory()
        self._generator = torch.Generator()
        self._seed_generator()
        self.make_module()
        self._finished: list[FinishedEpisodes] = []
        self._any_ended = self._warned = False

    # -- RLlib's EnvRunner

    def make_module(self) -> None:
        """Builds all acting networks of the population."""
        spec = self.config.get_multi_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build()
        modules = {member.module_id: self.module[member.module_id] for member in self.population.members}
        self.policy = JointPolicy(self.population, modules, self.num_games, self._generator)

    def make_env(self) -> None:
        """Builds the games and starts all of them."""
        self.world = self.env = self.config.make_world(self.num_games)
        seed = None if self._restarted() else self._world_seed()
        first_game = max(0, (self.worker_index or 0) - 1) * self.num_games
        self._observations = self.world.reset(seed, first_game)
        self._game_numbers, self._steps_played = first_game + np.arange(self.num_games), 0
        self._begun = np.ones(self.num_games, np.bool_)
        self._totals = EpisodeTotals(self.num_games, self.world.num_agents, self.world.event_names)
        number, runners = self.worker_index or 0, self.config.num_env_runners
        context = EnvContext(self.config.env_config, number, num_workers=runners, remote=False)
        self._call_back("on_environment_created", env=self.world, env_context=context)

    def change_population(self, population: PopulationSpec) -> None:
        """Plays on with other agents, whose weights are still to come; all games begin anew."""
        self.config = self.config.copy(copy_frozen=False).population(population)
        self.population = self.config.resolved_population()
        self.make_module()
        self._weights_seq_no, self._is_new = 0, False
        if self.world is not None:
            self._begin_anew()

    def get_spaces(self) -> dict[str, tuple[Any, Any]]:
        """Observation and action space of each module."""
        return self.config.module_spaces()

    def assert_healthy(self) -> None:
        """Raises AssertionError if the networks are missing."""
        assert self.module is not None

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        force_reset: bool = False,
        random_actions: bool = False,
    ) -> list[JointTrajectory]:
        """Plays all games on.

        Args:
            num_timesteps: env steps over all games, at least; default: the config's fragment.
            num_episodes: whole episodes, at least; games begin anew where they are under way.
            explore: sample from the policies; default: the config's.
            force_reset: begin all games anew.
            random_actions: must be False; a population with `random` agents plays at random.

        Returns:
            One fragment, or, for whole episodes, as many batches of B episodes as it takes.
        """
        if random_actions:
            raise ValueError("This runner has no random_actions; put agents of kind 'random' into the population.")
        if self._is_new:
            # RLlib has not noticed the restart. It does now, and the algorithm brings the runner up to date. After an exception
            # RLlib would end the process as well, but wait a minute before that.
            logger.warning("This runner replaces one that died: it plays when it has been told the population.")
            sys.exit(1)
        explore = self.config.explore if explore is None else explore
        try:
            samples = self._sample(num_timesteps, num_episodes, explore, force_reset)
        except Exception as error:
            self.world = None  # type: ignore[assignment]  # half a step has been played: a checkpoint holds no such games
            raise_told(error, f"Sampling in {self.config.world_facts().title} failed")
        self._call_back("on_sample_end", samples=samples)
        return samples

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function with this runner, for the algorithm's process.

        RLlib's own ends the process after any exception, which looks to the algorithm as if a machine had died: it would wait
        for the runner to come back, and never see the exception's text.
        """
        try:
            return func(self, *args, **kwargs)
        except Exception as error:
            raise_told(error, f"Runner {self.worker_index} failed")

    def sample_by_reference(self) -> tuple[list[ray.ObjectRef], int, dict[str, Any]]:
        """Samples and leaves the trajectories in this node's object store.

        Returns:
            References, env steps, metrics: all that the driver has to handle.
        """
        trajectories = self.sample()
        return [ray.put(t) for t in trajectories], sum(t.env_steps() for t in trajectories), self.get_metrics()

    def get_metrics(self) -> dict[str, Any]:
        """What has been collected since the last call: episodes' returns, lengths and events, and counts of steps."""
        finished = self.take_finished()
        count = 0 if finished is None else len(finished.lengths)
        self.metrics.log_value(NUM_EPISODES, count, reduce="sum")
        self.metrics.log_value(NUM_EPISODES_LIFETIME, count, reduce="lifetime_sum")
        if finished is not None:
            self._log_episodes(finished)
        return self.metrics.reduce()

    def take_finished(self) -> FinishedEpisodes | None:
        """The episodes that ended since the last call, in the order of their ends; the metrics will not contain them."""
        parts, self._finished = self._finished, []
        return FinishedEpisodes.concatenate(parts) if parts else None

    def stop(self) -> None:
        """Closes the games."""
        close = getattr(self.world, "close", None)
        if close is not None:
            close()

    # -- checkpoints

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Weights, and all that is needed to play on bit-equal."""
        state: dict[str, Any] = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime}
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(
                components=self._get_subcomponents(COMPONENT_RL_MODULE, components),
                not_components=self._get_subcomponents(COMPONENT_RL_MODULE, not_components),
                **kwargs,
            )
            state[WEIGHTS_SEQ_NO] = self._weights_seq_no
        if self.world is not None and self._check_component(COMPONENT_SAMPLING, components, not_components):
            state[COMPONENT_SAMPLING] = {
                "worker_index": self.worker_index,
                "in_evaluation": self.config.in_evaluation,
                "generator": self._generator.get_state().numpy(),
                "world": self.world.get_state(),
                "begun": self._begun.copy(),
                "recurrent": self.policy.states(),
                "totals": self._totals.get_state(),
                "steps_played": self._steps_played,
            }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over weights, and the games if they are this runner's own."""
        if COMPONENT_RL_MODULE in state:
            version = state.get(WEIGHTS_SEQ_NO, 0)
            if version == 0 or version != self._weights_seq_no:
                weights = state[COMPONENT_RL_MODULE]
                self.module.set_state(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)
                self.policy.weights_changed()
                self._weights_seq_no = version
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]
        sampling = state.get(COMPONENT_SAMPLING)
        if sampling is not None and self._owns(sampling):
            if self.world is None:
                self.make_env()
            self._generator.set_state(torch.from_numpy(sampling["generator"].copy()))
            self._observations = self.world.set_state(sampling["world"])
            self._begun = sampling["begun"].copy()
            self.policy.set_states(sampling["recurrent"])
            self._totals.set_state(sampling["totals"])
            self._steps_played = sampling["steps_played"]

    def get_ctor_args_and_kwargs(self) -> tuple[tuple, dict[str, Any]]:
        """For RLlib's checkpoints."""
        return (), {"config": self.config, "worker_index": self.worker_index}

    def get_checkpointable_components(self) -> list[tuple[str, Checkpointable]]:
        """For RLlib's checkpoints."""
        return [(COMPONENT_RL_MODULE, self.module)]

    # -- playing

    def _sample(
        self, num_timesteps: int | None, num_episodes: int | None, explore: bool, force_reset: bool
    ) -> list[JointTrajectory]:
        if self.world is None:
            self.make_env()
        elif force_reset:
            self._begin_anew()
        if num_timesteps is None and num_episodes is None and self.config.batch_mode == "complete_episodes":
            num_episodes = self.num_games
        if num_episodes is not None:
            return [self._play(None, explore) for _ in range(ceil(num_episodes / self.num_games))]
        if num_timesteps is None:
            steps = self.config.get_rollout_fragment_length(self.worker_index or 0)
        else:
            steps = ceil(num_timesteps / self.num_games)
        return [self._play(steps, explore)]

    def _call_back(self, name: str, **arguments: Any) -> None:
        """Calls the user's callbacks of this name (see `rllib_empathy.learning.settings.CALLBACKS`)."""
        functions = getattr(self.config, f"callbacks_{name}")
        arguments = {"env_runner": self, "metrics_logger": self.metrics, **arguments}
        make_callback(name, callbacks_objects=self._callbacks, callbacks_functions=functions, kwargs=arguments)

    def _play(self, steps: int | None, explore: bool) -> JointTrajectory:
        """A fragment of this many steps, or one whole episode of every game."""
        whole_episodes = steps is None
        if whole_episodes and not self._begun.all():
            self._begin_anew()
        recording = Recording(self.policy.states(), self.world.event_names)
        under_way = np.ones(self.num_games, np.bool_)
        played = np.zeros(self.num_games, np.int64)
        while recording.steps < steps if steps is not None else under_way.any():
            if whole_episodes and recording.steps == self.config.max_episode_steps:
                raise self._endless(under_way)
            observations, begun, context = self._observations, self._begun, self.policy.context(self._begun)
            masks = allowed_actions(self.world, self._totals.lengths)
            actions, log_probs = self.policy.act(observations, begun, explore, masks)
            self.policy.notice(observations, actions, self.world.alive, masks)
            alive = self.world.alive & under_way[:, None]
            seats = self.world.seats if isinstance(self.world, ShuffledSeats) else None
            step = self.world.step(actions)
            recording.add(
                step,
                observations=observations,
                actions=actions,
                log_probs=log_probs,
                alive=alive,
                begun=begun,
                context=context,
                masks=masks,
                seats=seats,
            )
            played += under_way
            finished = self._totals.add(step, under_way)
            if finished is not None:
                self._finished.append(finished)
                self._any_ended = True
            ended = step.terminated | step.truncated
            if step.final_observations is not None:
                games = (ended & under_way).nonzero()[0]
                recording.add_tails(games, step.final_observations, self.policy.context())
            self._observations, self._begun = step.observations, ended
            if whole_episodes:
                under_way &= ~ended
        going = (recording.going_on() & under_way).nonzero()[0]
        if whole_episodes and not self._begun.all():
            self._begin_anew()
        recording.add_tails(going, self._observations, self.policy.context())
        trajectory = recording.trajectory(
            {
                "game": self._game_numbers,
                "steps_before": np.full(self.num_games, self._steps_played),
                "steps": played,
                "goes_on": np.isin(np.arange(self.num_games), going),
            }
        )
        check_observations(trajectory, self.config.world_facts().title)
        self._steps_played += recording.steps
        self._warn_of_no_returns()
        self._count_steps(trajectory)
        return trajectory

    def _endless(self, under_way: NDArray[np.bool_]) -> SettingError:
        """An error for episodes that do not end where whole ones are needed."""
        steps = self.config.max_episode_steps
        return SettingError(
            f"Whole episodes are needed, but in {self.config.world_facts().title} {under_way.sum()} of {self.num_games} games "
            f"have not ended after {steps} steps. Give the world a limit of steps (PettingZoo: truncations), or, if its episodes "
            f"are that long, raise max_episode_steps = {steps} (env_runners.max_episode_steps in an experiment)."
        )

    def _warn_of_no_returns(self) -> None:
        """Once, where fragments are learned from and no episode has ever ended: nothing tells how good the agents are."""
        if self._steps_played >= self.config.max_episode_steps and not (self._any_ended or self._warned):
            self._warned = True
            logger.warning(
                "No episode of %s has ended in %d steps of each game: there are no returns to report. Agents learn all the same, "
                "from fragments.",
                self.config.world_facts().title,
                self._steps_played,
            )

    def _owns(self, sampling: dict[str, Any]) -> bool:
        """RLlib hands states around between runners; games belong to one of them."""
        owner = (sampling["worker_index"], sampling["in_evaluation"])
        return owner == (self.worker_index, self.config.in_evaluation)

    def _begin_anew(self) -> None:
        self._observations = self.world.reset()
        self._begun = np.ones(self.num_games, np.bool_)
        self._totals.clear(self._begun)

    def _count_steps(self, trajectory: JointTrajectory) -> None:
        env_steps, agent_steps = trajectory.env_steps(), trajectory.agent_steps()
        self.num_env_steps_sampled_lifetime += env_steps
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, env_steps, reduce="sum")
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, env_steps, reduce="lifetime_sum", with_throughput=True)
        self.metrics.log_value((NUM_AGENT_STEPS_SAMPLED, "all"), agent_steps, reduce="sum")
        self.metrics.log_value((NUM_AGENT_STEPS_SAMPLED_LIFETIME, "all"), agent_steps, reduce="lifetime_sum")

    def _log_episodes(self, finished: FinishedEpisodes) -> None:
        self._log_means((EPISODE_RETURN_MEAN,), finished.returns.sum(1))
        self._log_means((EPISODE_LEN_MEAN,), finished.lengths)
        for agent in range(finished.returns.shape[1]):
            self._log_means(("agent_episode_returns_mean", f"agent_{agent}"), finished.returns[:, agent])
        for member in self.population.members:
            own = finished.returns[:, list(member.agents)].sum(1)
            self._log_means(("module_episode_returns_mean", member.module_id), own)
        for name, counts in finished.events.items():
            self._log_means(("events_mean", name), counts.sum(1))
            for agent in range(counts.shape[1]):
                self._log_means(("agent_events_mean", name, f"agent_{agent}"), counts[:, agent])
        for name, values in finished.outcomes(cooperation_of(self.world)).items():
            self._log_means(("outcomes_mean", name), values)

    def _log_means(self, key: tuple[str, ...], values: NDArray) -> None:
        self.metrics.log_value(key, sum_and_count(values), reduce="episode_mean")

    def _world_seed(self) -> int | None:
        seed = self.config.seed
        return None if seed is None else seed + EVALUATION_SEED * self.config.in_evaluation

    def _seed_generator(self) -> None:
        seed = self._world_seed()
        if seed is None or self._restarted():
            self._generator.seed()
        else:
            entropy = np.random.SeedSequence([seed, self.worker_index or 0]).generate_state(1, np.uint64)[0]
            self._generator.manual_seed(int(entropy))

    def _restarted(self) -> bool:
        """Whether this process replaces one that died: it must not play the same games again."""
        if not self.worker_index or not ray.is_initialized():  # asking would start Ray
            return False
        context = ray.get_runtime_context()
        if context.get_actor_id() is None:
            return False
        with warnings.catch_warnings():  # Ray's property warns of a deprecation inside itself.
            warnings.simplefilter("ignore", DeprecationWarning)
            return context.was_current_actor_reconstructed
