"""The configuration: RLlib's, plus a population."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env import INPUT_ENV_SPACES
from ray.rllib.policy.policy import PolicySpec

import env_registry
from env_registry.game import World
from env_registry.observations import layout_of
from env_registry.parameters import SettingError
from env_registry.shuffled_seats import ShuffledSeats
from rllib_empathy.episode_means import STATS
from rllib_empathy.learning import settings
from rllib_empathy.learning.agent_options import AgentOptionsConfig, agent_options
from rllib_empathy.policies import KINDS
from rllib_empathy.policies.kind import WorldFacts, check_action_masks
from rllib_empathy.population import Population, PopulationSpec, self_contained
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner


class EmpathyConfig(AgentOptionsConfig):
    """Configures `Empathy`, step by step as every RLlib algorithm.

    >>> config = (
    ...     EmpathyConfig()
    ...     .environment("cleanup", env_config={"num_agents": 4})
    ...     .population([{"kind": "ppo", "count": 3, "lr": 0.001}, "random"])
    ...     .env_runners(num_envs_per_env_runner=64)
    ...     .training(gamma=0.98)
    ... )

    `training` sets defaults for all agents that have the option; the population's entries override them per seat.

    Settings of RLlib's that nothing would read are refused by `validate`, see `rllib_empathy.learning.settings_table`.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from rllib_empathy.learning.algorithm import Empathy

        super().__init__(algo_class=algo_class or Empathy)
        self.population_policies: tuple[str, ...] = ()  # module ids that `validate` has put into `policies`
        self.shuffle_seats = False
        self.registered_worlds: dict[str, Any] = {}
        self.sample_ahead = False
        self.max_episode_steps = 10_000
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 64
        self.rollout_fragment_length = 100
        self.env_runner_cls = JointEnvRunner
        self.stats_cls_lookup = STATS
        self.train_batch_size = None
        self.shuffle_batch_per_epoch = True
        # A runner that is silent but not known to be dead is waited for this long; the others' samples are then learned from.
        # Ray declares the processes of a silent machine dead after some 20 s, of a killed one at once.
        self.sample_timeout_s = 60.0
        self.env_runner_health_probe_timeout_s = 1.0
        # With one, RLlib drops new weights for a runner if it has not heard yet that the ones before have been taken over.
        self.max_requests_in_flight_per_env_runner = 2
        # No connectors on this path: nothing to merge or to broadcast between runners.
        self.merge_env_runner_states = False
        self.broadcast_env_runner_states = False
        self._dont_auto_sync_env_runner_states = True

    def population(
        self, population: PopulationSpec = NotProvided, *, shuffle_seats: bool = NotProvided
    ) -> EmpathyConfig:
        """Says who plays.

        Args:
            population: the name of a kind for all seats, or a list with one kind's name per seat or entries
                `{kind, count, shared, name, **options}`. Agents are numbered in the order of the list.
            shuffle_seats: agents take seats drawn afresh for every episode; otherwise agent i sits on seat i.
        """
        if population is not NotProvided:
            self.population_spec = population
        if shuffle_seats is not NotProvided:
            self.shuffle_seats = shuffle_seats
        return self

    def env_runners(
        self, *, sample_ahead: Any = NotProvided, max_episode_steps: Any = NotProvided, **settings: Any
    ) -> EmpathyConfig:
        """Sets who samples, and how.

        Args:
            sample_ahead: remote runners play the next batch while the Learner learns from this one. Its actions are then one
                update old; PPO's ratio knows of it, A2C does not.
            max_episode_steps: where whole episodes are played (evaluation, reports, `batch_mode="complete_episodes"`), an episode
                that has not ended after so many steps is an error: a world without an end would be waited for.
            **settings: as in RLlib's `AlgorithmConfig.env_runners`.

        Raises:
            SettingError: `max_episode_steps` is no whole number of at least 1.
        """
        if max_episode_steps is not NotProvided:
            if not isinstance(max_episode_steps, int) or max_episode_steps < 1:
                raise SettingError(
                    f"max_episode_steps = {max_episode_steps!r}: needed is a whole number of at least 1, the steps after which "
                    "an episode that does not end is an error."
                )
            self.max_episode_steps = max_episode_steps
        if sample_ahead is not NotProvided:
            self.sample_ahead = bool(sample_ahead)
        super().env_runners(**settings)
        return self

    def environment(self, env: Any = NotProvided, **settings: Any) -> EmpathyConfig:
        """Sets the world, and RLlib's other environment settings.

        Args:
            env: whatever `env_registry.make` takes: a registered name, a world class, a PettingZoo environment, or a
                function that makes one.
            **settings: `env_config` holds the world's parameters; for all others see RLlib's
                `AlgorithmConfig.environment`.

        Raises:
            SettingError: an environment of a known kind that cannot be played here, or one that has been made already.
        """
        if env is not NotProvided and env is not None and not isinstance(env, str):
            env_registry.refuse_unplayable(env)
        if isinstance(env, str) and env in env_registry.WORLDS:
            # Processes elsewhere know the worlds of the package, not what was registered here.
            self.registered_worlds = {env: env_registry.WORLDS[env]}
        super().environment(env, **settings)
        return self

    def make_world(self, num_games: int) -> World:
        """A batch of games of the configured world.

        Raises:
            SettingError: the world cannot be made, or its seats are unlike and are to be shuffled.
        """
        world = env_registry.make(self._world(), num_games, **self.env_config)
        return ShuffledSeats(world) if self.shuffle_seats else world

    def resolved_population(self) -> Population:
        """The population, checked against the world's seats.

        Raises:
            SettingError: no world, or a population that does not fit it.
        """
        num_agents = self.world_facts().num_agents
        return Population.of(
            self.population_spec, num_agents, self.agent_defaults, self.algorithm_config_overrides_per_module
        )

    def module_spaces(self) -> dict[str, tuple[Any, Any]]:
        """Observation and action space of each module id.

        Observations have one form for all agents, the trajectory's; actions are the agent's own.
        """
        facts = self.world_facts()
        of_agent = [(facts.observation_space, actions) for actions in facts.action_spaces]
        of_module = {member.module_id: of_agent[member.agents[0]] for member in self.resolved_population().members}
        return {INPUT_ENV_SPACES: of_agent[0], **of_module}

    def get_multi_rl_module_spec(
        self, *, spaces: Mapping[str, Any] | None = None, inference_only: bool = False, **kwargs: Any
    ) -> MultiRLModuleSpec:
        """The networks of the population."""
        spaces = spaces or self.module_spaces()
        world = self.world_facts()
        return MultiRLModuleSpec(
            rl_module_specs={
                member.module_id: RLModuleSpec(
                    module_class=member.kind.module_class(member.options),
                    observation_space=spaces[member.module_id][0],
                    action_space=spaces[member.module_id][1],
                    model_config=member.kind.model_config(member.options, world, member.agents),
                    inference_only=inference_only or not member.kind.learns,
                )
                for member in self.resolved_population().members
            },
            inference_only=inference_only,
        )

    def build_algo(self, *arguments: Any, check_places: bool = True, **named: Any) -> Any:
        """Builds the algorithm, as RLlib does.

        Args:
            arguments: RLlib's.
            check_places: whether Ray is asked first if all processes ever find a place: CPUs, GPUs, custom resources.
            named: RLlib's.

        Raises:
            SettingError: they do not.
        """
        from rllib_empathy.cluster import needs, preflight

        if check_places:
            preflight.check_places(needs.places_of(self))
        return super().build_algo(*arguments, **named)

    def get_default_learner_class(self) -> type:
        """The Learner for joint trajectories."""
        from rllib_empathy.learning.learner import EmpathyLearner

        return EmpathyLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """RLlib asks for one; the population's kinds bring their own."""
        return RLModuleSpec(module_class=KINDS["ppo"].Module)

    def check_population(self) -> None:
        """Checks that all agents can play in the world, and reads what they need from files.

        Raises:
            SettingError: what is wrong, what is allowed and how to mend it.
        """
        if self.env is None:
            raise SettingError(f"No world is set: call .environment(NAME). Known: {', '.join(env_registry.WORLDS)}.")
        population = self.resolved_population()
        world = self.make_world(1)
        if hasattr(world, "check_seeds") and self._world_key() not in _SEEDS_TRIED:
            world.check_seeds()
            _SEEDS_TRIED.add(self._world_key())
        self.population_spec = self_contained(self.population_spec, self.agent_defaults)
        spaces = self.module_spaces()
        for member in population.members:
            member.kind.check_world(self.world_facts(), member.options)
            member.kind.check_spaces(*spaces[member.module_id], member.options)
            if self.world_facts().masked:
                check_action_masks(member.kind.name, member.kind.module_class(member.options))
            actions = [self.world_facts().action_spaces[agent] for agent in member.agents]
            if any(space != actions[0] for space in actions):
                raise SettingError(
                    f"Agents {', '.join(map(str, member.agents))} share the network {member.module_id!r} but have unlike actions "
                    f"({', '.join(map(str, actions))}). Give them separate entries in the population."
                )
        self.get_multi_rl_module_spec()

    def validate(self) -> None:
        """Checks everything that can be checked before anything is started.

        Raises:
            SettingError: what is wrong, what is allowed and how to mend it.
        """
        self._check_settings()
        self.check_population()
        learners = max(1, self.num_learners)
        if self.num_envs_per_env_runner % learners:
            raise SettingError(
                f"num_envs_per_env_runner = {self.num_envs_per_env_runner} is not a multiple of num_learners = {learners}: each "
                "learner takes an equal share of the games."
            )
        population = self.resolved_population()
        for member in population.members:
            if member.kind.needs_whole_episodes:
                self._check_whole_episodes(member.kind.name)
        self.check_defaults()
        self.population_policies = tuple(member.module_id for member in population.members)
        self.policies = {module_id: PolicySpec() for module_id in self.population_policies}
        self.policy_mapping_fn = settings.SeatOfAgent(population.module_of_agent)
        self.stats_cls_lookup = {**STATS, **self.stats_cls_lookup}
        super().validate()

    def _check_settings(self) -> None:
        """Refuses settings of RLlib's that nothing would read, those of evaluation included."""
        if not self._validate_config:
            return
        default = _default(EmpathyConfig)
        known = (vars(default).keys() | vars(_default(type(self))).keys()) - settings.rllib_attributes()
        settings.check_settings(self, default, known, agent_options())
        if self.evaluation_config and not self.in_evaluation:
            evaluation = self.get_evaluation_config_object()
            settings.check_settings(evaluation, default, known, agent_options())

    @property
    def train_batch_size_per_learner(self) -> int:
        """Env steps that a Learner gets per iteration; by default what one round of sampling brings."""
        if self._train_batch_size_per_learner is not None:
            return int(self._train_batch_size_per_learner)
        if self.train_batch_size is not None:
            return int(self.train_batch_size) // max(1, self.num_learners)
        length: int | str = self.rollout_fragment_length
        fragment = 100 if length == "auto" else int(length)
        return fragment * self.num_envs_per_env_runner * max(1, self.num_env_runners) // max(1, self.num_learners)

    @train_batch_size_per_learner.setter
    def train_batch_size_per_learner(self, value: int | None) -> None:
        self._train_batch_size_per_learner = value

    @property
    def env_steps_wanted(self) -> int:
        """Env steps until which sampling goes on in an iteration; 0: one round, however many it brings."""
        if self._train_batch_size_per_learner is not None:
            return int(self._train_batch_size_per_learner) * max(1, self.num_learners)
        return int(self.train_batch_size or 0)

    def _check_whole_episodes(self, kind: str) -> None:
        length = self.world_facts().episode_length
        fragment: int | str = self.rollout_fragment_length
        if self.batch_mode == "complete_episodes" or (length and fragment != "auto" and int(fragment) % length == 0):
            return
        whole = f", or rollout_fragment_length to a multiple of the episode's {length} steps" if length else ""
        raise SettingError(
            f"Agents of kind {kind!r} need whole episodes, but batch_mode = {self.batch_mode!r} with rollout_fragment_length = "
            f"{fragment!r} cuts them. Set batch_mode to 'complete_episodes'{whole}."
        )

    def _world(self) -> Any:
        """What makes the world: its class where one was registered, else its name or a callable."""
        return self.registered_worlds.get(self.env, self.env)

    def world_facts(self) -> WorldFacts:
        """What agents may need to know of the world, which is asked once per process and setting."""
        key = self._world_key()
        if key not in _FACTS:
            for name, made in self.registered_worlds.items():
                env_registry.WORLDS.setdefault(name, made)  # this process may not have heard of it
            world = env_registry.make(self._world(), 1, **self.env_config)
            known_as = self._world_name(type(world))
            _FACTS[key] = WorldFacts(
                name=known_as,
                env_config=dict(self.env_config),
                type=type(world),
                num_agents=world.num_agents,
                observation_space=world.observation_space,
                action_spaces=getattr(world, "action_spaces", (world.action_space,) * world.num_agents),
                title=known_as or self._world_title(world),
                episode_length=getattr(world, "episode_length", None),
                fully_observed=getattr(world, "fully_observed", False),
                masked=getattr(world, "action_masks", None) is not None,
                layout=layout_of(world),
            )
        return _FACTS[key]

    def _world_key(self) -> tuple[Any, str]:
        """Which world with which settings: what is asked of it once per process is kept under this."""
        return self._world(), repr(sorted(self.env_config.items()))

    def _world_name(self, of_type: type) -> str | None:
        """The name under which the world is registered, also where the config says its class."""
        if self.env_config.get("wrappers"):
            return None
        known = {**self.registered_worlds, **env_registry.WORLDS}
        return next((name for name, made in known.items() if made in (self._world(), of_type)), None)

    def _world_title(self, world: World) -> str:
        """What to call a world that has no name: the name of what made it, and of its wrappers."""
        title = getattr(world, "name", f"{type(world).__module__}:{type(world).__qualname__}")
        wrappers = ", ".join(map(str, self.env_config.get("wrappers") or ()))
        return f"{title} in {wrappers}" if wrappers else title


_DEFAULTS: dict[Any, EmpathyConfig] = {}


def _default(of: Any) -> EmpathyConfig:
    """A new configuration of a class, made once."""
    if of not in _DEFAULTS:
        _DEFAULTS[of] = of()
    return _DEFAULTS[of]


_FACTS: dict[tuple[Any, str], WorldFacts] = {}
_SEEDS_TRIED: set[tuple[Any, str]] = set()
