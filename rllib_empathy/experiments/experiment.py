"""Experiment files: one YAML file says everything about a run, and is checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from env_registry.parameters import SettingError, Settings, checked, unknown_name
from env_registry.registry import world_factory
from rllib_empathy.experiments.study import Study
from rllib_empathy.shipped import shipped


class EnvRunners(Settings):
    """Who samples, and how much."""

    num_env_runners: int = Field(0, ge=0, description="processes that sample; 0: the training process itself")
    num_envs_per_env_runner: int = Field(64, ge=1, description="games that each of them plays at once")
    rollout_fragment_length: int = Field(100, ge=1, description="steps of each game per iteration")
    sample_ahead: bool = Field(
        False, description="whether remote runners play on while the learner learns, one update behind"
    )
    batch_mode: Literal["truncate_episodes", "complete_episodes"] = Field(
        "truncate_episodes",
        description="whether an iteration may end amid an episode, or plays one whole episode per game",
    )
    max_episode_steps: int = Field(
        10_000, ge=1, description="where whole episodes are played, one that is longer is an error, not waited for"
    )


class Learners(Settings):
    """Who learns."""

    num_learners: int = Field(0, ge=0, description="processes that learn; 0: the training process itself")
    num_gpus_per_learner: float = Field(0, ge=0, description="GPUs for each of them")


class Evaluation(Settings):
    """Episodes beside training, by the policies as they act in it."""

    interval: int | None = Field(None, ge=1, description="iterations between evaluations; null: none")
    episodes: int = Field(64, ge=1, description="episodes of an evaluation, at least")


class Stop(Settings):
    """When training ends: as soon as one of these is reached."""

    env_steps: int | None = Field(None, ge=1, description="steps of games, over all runs that were resumed")
    iterations: int | None = Field(None, ge=1, description="batches sampled and learned from")
    seconds: float | None = Field(None, gt=0, description="of training, pauses before a resume not counted")
    metrics: dict[str, float] = Field({}, description="columns of metrics.csv and the value to be reached or passed")

    @model_validator(mode="after")
    def _ends(self) -> Stop:
        if not (self.env_steps or self.iterations or self.seconds or self.metrics):
            raise ValueError("training would never end; give at least one of env_steps, iterations, seconds, metrics")
        return self

    def progress(self, row: Mapping[str, float]) -> float:
        """How far training has come, from 0 to 1 (done), by the row of metrics of its last iteration."""
        if any(row.get(name, float("-inf")) >= value for name, value in self.metrics.items()):
            return 1.0
        limits = {"env_steps": self.env_steps, "iteration": self.iterations, "seconds": self.seconds}
        shares = [row.get(name, 0) / limit for name, limit in limits.items() if limit]
        return min(1.0, max(shares, default=0.0))


class Checkpoints(Settings):
    """When the run's state is saved; it always is at the end."""

    every_iterations: int | None = Field(100, ge=1, description="iterations between checkpoints")
    every_seconds: float | None = Field(None, gt=0, description="seconds between checkpoints")
    keep: int = Field(2, ge=1, description="how many of the last ones are kept")


class Experiment(Settings):
    """All that an experiment file may say."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="names the run's folder")
    environment: str = Field(description="a world's name, or 'package.module:callable'")
    env_config: dict[str, Any] = Field({}, description="the world's parameters")
    population: str | list[str | dict[str, Any]] = Field(
        "ppo",
        description="a kind of agent for all seats, or a list of kinds and of {kind, count, shared, name, options}",
    )
    shuffle_seats: bool = Field(False, description="whether agents take other seats in every episode")
    training: dict[str, Any] = Field(
        {}, description="options for all agents that have them, and RLlib's training options"
    )
    env_runners: EnvRunners = EnvRunners()
    learners: Learners = Learners()
    evaluation: Evaluation = Evaluation()
    seed: int | None = Field(0, ge=0, description="of worlds, networks and actions; null: another one in each run")
    stop: Stop
    checkpoint: Checkpoints = Checkpoints()
    study: Study | None = Field(None, description="many trials of it: see rllib-empathy tune")

    @field_validator("env_config", "training", mode="before")
    @classmethod
    def _nothing_is_empty(cls, values: Any) -> Any:
        return {} if values is None else values

    @field_validator("population", mode="before")
    @classmethod
    def _is_a_population(cls, population: Any) -> Any:
        entries = [population] if isinstance(population, str) else population
        if not isinstance(entries, list) or not all(isinstance(entry, str | dict) for entry in entries):
            raise ValueError(
                "needs a kind of agent for all seats, or a list of kinds and of mappings with a key 'kind'"
            )
        return population

    def to_yaml(self) -> str:
        """The experiment as a file's text, every key written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100)


def load_experiment(source: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Reads an experiment file.

    Args:
        source: a path, or the name of an experiment that comes with the package ("quickstart").
        overrides: "key.subkey=value", the value in YAML; a number picks an entry of a list ("population.0.lr=0.001").

    Raises:
        SettingError: there is no such file, it is no YAML, or it or an override says something impossible.
    """
    path = find_experiment(source)
    values = read_yaml(path)
    for override in overrides:
        values = overridden(values, override)
    return checked(Experiment, values, f"experiment {path}")


def world_experiment(source: str, overrides: Sequence[str] = ()) -> Experiment:
    """An experiment file's experiment (see `load_experiment`), or one of 200,000 env steps in any world of that name.

    Raises:
        SettingError: there is neither such an experiment nor such a world, or it or an override says something impossible.
    """
    try:
        find_experiment(source)
    except SettingError:
        world_factory(source)  # which says it if there is no such world
        name = re.sub(r"\W+", "_", source)
        values: dict[str, Any] = {"name": name, "environment": source, "stop": {"env_steps": 200_000}}
        for override in overrides:
            values = overridden(values, override)
        return checked(Experiment, values, f"experiment in {source!r}")
    return load_experiment(source, overrides)


def find_experiment(source: str | Path) -> Path:
    """The file that `source` stands for: a path, or the name of an experiment that comes with the package.

    Raises:
        SettingError: there is none.
    """
    path = Path(source)
    if path.is_file():
        return path
    ours = {found.stem: found for found in sorted(shipped("tune_configs").glob("*.yaml"))}
    if str(source) in ours:
        return ours[str(source)]
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        found = "is a folder" if path.is_dir() else "does not exist"
        raise SettingError(f"Experiment file {str(source)!r} {found}. Experiments known by name: {', '.join(ours)}.")
    raise unknown_name("experiment", str(source), ours)


def overridden(values: Mapping[str, Any], override: str) -> dict[str, Any]:
    """A copy of `values` with one key set; `override` is "key.subkey=value".

    Raises:
        SettingError: the override is malformed or leads into something that has no keys.
    """
    path, equals, text = override.partition("=")
    if not equals or not all(path.strip().split(".")):
        raise SettingError(f"--set {override!r}: write key=value or key.subkey=value, for instance training.lr=0.001.")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise SettingError(f"--set {override!r}: the value is no YAML ({_problem(error)}).") from None
    result = deepcopy(dict(values))
    _put(result, path.strip(), value, f"--set {override!r}")
    return result


def merged(values: Mapping[str, Any], overrides: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A copy of `values` with all overrides set: a dotted key reaches into mappings and lists, a mapping is merged.

    Args:
        values: an experiment's keys.
        overrides: for instance {"training.lr": 0.01, "env_config": {"num_agents": 3}, "population": "lase"}.
        what: names the overrides in errors.

    Raises:
        SettingError: a key leads into something that has no keys.
    """
    result = deepcopy(dict(values))
    for key, value in overrides.items():
        if isinstance(value, Mapping) and "." not in key and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value, what)
        else:
            _put(result, key, deepcopy(value), what)
    return result


def _put(values: dict[str, Any], path: str, value: Any, what: str) -> None:
    """Sets the key at a dotted path within `values`."""
    keys = path.split(".")
    place: Any = values
    for depth, key in enumerate(keys):
        where = ".".join(keys[:depth])
        if isinstance(place, list):
            if not key.isdigit() or int(key) >= len(place):
                raise SettingError(f"{what}: {where!r} is a list; its entries are 0 to {len(place) - 1}.")
            index: Any = int(key)
        elif isinstance(place, dict):
            index = key
            if place.get(key) is None:
                place[key] = {}
        else:
            raise SettingError(
                f"{what}: {where!r} is {place!r}, which has no key {key!r}. Set {where!r} as a whole, to a mapping."
            )
        if depth == len(keys) - 1:
            place[index] = value
        place = place[index]


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2, and no key may appear twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice", key_node.start_mark)
            seen.add(str(key))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file.

    Raises:
        SettingError: it cannot be read, is no YAML, or holds something else.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise SettingError(f"Experiment file {path} is no valid YAML: {_problem(error)}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"Experiment file {path} cannot be read: {error}.") from error
    if not isinstance(values, dict):
        raise SettingError(f"Experiment file {path} has to consist of keys and values; it holds {values!r:.60}.")
    return values


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{getattr(error, 'problem', None) or error}"
