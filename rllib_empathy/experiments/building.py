"""Experiment -> RLlib configuration, with every check that can be made before Ray starts."""

from __future__ import annotations

from typing import Any

from env_registry.parameters import SettingError, checked, unknown_name
from rllib_empathy.experiments.experiment import Experiment
from rllib_empathy.experiments.metrics_table import episode_columns
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.population import Entry, as_mapping
from rllib_empathy.sampling.episodes import outcome_names


def build_config(experiment: Experiment) -> EmpathyConfig:
    """The experiment's configuration, checked: world, population, networks, RLlib's own rules, names of metrics.

    Raises:
        SettingError: what is wrong, and what is allowed.
    """
    config = (
        EmpathyConfig()
        .environment(experiment.environment, env_config=dict(experiment.env_config))
        .population(experiment.population, shuffle_seats=experiment.shuffle_seats)
        .training(**experiment.training)
        .env_runners(**experiment.env_runners.model_dump())
        .learners(**experiment.learners.model_dump())
        .evaluation(
            evaluation_interval=experiment.evaluation.interval,
            evaluation_duration=experiment.evaluation.episodes,
            evaluation_duration_unit="episodes",
        )
        .debugging(seed=experiment.seed)
    )
    try:
        config.copy(copy_frozen=False).validate()
        config.get_multi_rl_module_spec().build()
    except SettingError:
        raise
    except ValueError as error:
        raise SettingError(f"Experiment {experiment.name!r} cannot be run: {error}") from error
    _check_metrics(experiment, config)
    return config


def resolved(experiment: Experiment, config: EmpathyConfig) -> Experiment:
    """The same experiment with nothing left to defaults: every rule of the world, every option of every agent."""
    parameters = getattr(config.make_world(1), "parameters", None)
    rules = parameters.model_dump(mode="json") if parameters is not None else experiment.env_config
    entries = experiment.population
    if isinstance(entries, str):
        entries = [{"kind": entries, "count": len(config.resolved_population().module_of_agent)}]
    population = [_resolved_entry(entry, config.agent_defaults) for entry in entries]
    return experiment.model_copy(update={"env_config": rules, "population": population})


def _resolved_entry(raw: str | dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    entry = checked(Entry, as_mapping(raw), "population entry")
    seats = entry.model_dump(include={"kind", "count", "shared", "name"})
    return {**seats, **entry.options(defaults).model_dump(mode="json")}


def metric_names(experiment: Experiment, config: EmpathyConfig) -> list[str]:
    """The columns of metrics.csv that describe episodes, by which a run can be stopped or compared with others."""
    world = config.make_world(1)
    names = [*episode_columns(config.resolved_population(), world.event_names), *outcome_names(world)]
    return names + [f"evaluation/{name}" for name in names if experiment.evaluation.interval]


def _check_metrics(experiment: Experiment, config: EmpathyConfig) -> None:
    known = metric_names(experiment, config)
    for name in experiment.stop.metrics:
        if name not in known:
            raise unknown_name("metric in stop.metrics", name, known)
