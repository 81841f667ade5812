"""Experiment with a study -> its trials, each checked before any of them starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from env_registry.parameters import SettingError, checked, unknown_name
from rllib_empathy.experiments.building import build_config, metric_names, resolved
from rllib_empathy.experiments.experiment import Experiment, merged
from rllib_empathy.experiments.study import Overrides, Study
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.studies.search import Values, extremes, samples


@dataclass(frozen=True)
class Trial:
    """One run of a study.

    Args:
        variant: its variant's name; the experiment's name where there are no variants.
        sample: number of the search's sample; None where nothing is searched.
        values: that sample's values.
        experiment: what is run, with the trial's seed and without a study.
        config: built from it, but for the seed.
    """

    variant: str
    sample: int | None
    values: Values
    experiment: Experiment
    config: EmpathyConfig

    @cached_property
    def resolved(self) -> Experiment:
        """The experiment with nothing left to defaults."""
        return resolved(self.experiment, self.config)

    @property
    def arm(self) -> str:
        """Names what all seeds of the same settings have in common: "lase", or "lase/sample_003"."""
        return self.variant if self.sample is None else f"{self.variant}/sample_{self.sample:03d}"

    @property
    def name(self) -> str:
        """Names the trial and its folder within the study's: "lase/seed_0"."""
        return f"{self.arm}/seed_{self.experiment.seed}"


def trials_of(experiment: Experiment) -> list[Trial]:
    """All trials of an experiment's study: every variant with every sample and every seed.

    Raises:
        SettingError: there is no study, or one of its trials, or one that its search could come to, is impossible; the message
            says which.
    """
    if experiment.study is None:
        raise SettingError(
            f"Experiment {experiment.name!r} asks for one run only. Give it a part 'study', for instance "
            "--set study.seeds=[0,1,2], or use rllib-empathy train."
        )
    study = experiment.study
    points = samples(study.search, study.num_samples, experiment.seed or 0)
    trials = []
    for variant, overrides in (study.variants or {experiment.name: {}}).items():
        base = {**experiment.model_dump(mode="json"), "study": None}
        values = merged(base, overrides, f"variant {variant!r}")
        for point in extremes(study.search):
            _built(values, point, study, variant)
        for number, point in enumerate(points):
            arm, config = _built(values, point, study, variant)
            for seed in study.seeds:
                seeded = arm.model_copy(update={"seed": seed})
                trials.append(Trial(variant, number if study.search else None, point, seeded, config))
    return trials


def _built(base: Overrides, point: Values, study: Study, variant: str) -> tuple[Experiment, EmpathyConfig]:
    """An experiment at one point of the search, and its configuration."""
    at = ", ".join(f"{key} = {value!r}" for key, value in point.items())
    where = f"variant {variant!r}" + (f" with {at}" if at else "")
    try:
        experiment = with_values(base, point, where)
        config = build_config(experiment)
        _check_study(study, experiment, config)
    except SettingError as error:
        raise SettingError(f"In {where}: {error}") from None
    return experiment, config


def with_values(base: Mapping[str, Any], point: Values, where: str) -> Experiment:
    """The experiment `base` at a point of the search.

    Raises:
        SettingError: a key leads nowhere, or a value is impossible.
    """
    return checked(Experiment, merged(base, point, where), where)


def _check_study(study: Study, experiment: Experiment, config: EmpathyConfig) -> None:
    known = metric_names(experiment, config)
    if study.metric not in known:
        raise unknown_name("metric in study.metric", study.metric, known)
    if study.scheduler and study.scheduler.asha:
        grace, most = study.scheduler.asha.grace_iterations, iterations(experiment, config)
        if most is None:
            raise SettingError("asha has to know how long a trial lasts: give stop.iterations or stop.env_steps.")
        if grace >= most:
            raise SettingError(
                f"asha would never stop a trial: grace_iterations = {grace} is not below the {most} iterations that it lasts."
            )
    if study.scheduler and study.scheduler.pbt:
        for key in study.search:
            part, *path = key.split(".")
            if part not in ("training", "population") or {"network", "kind", "count", "shared", "name"} & set(path):
                raise SettingError(
                    f"pbt copies networks between trials, so it cannot search over {key!r}; it can over options of training and "
                    "of population entries that leave the networks' form alone."
                )


def iterations(experiment: Experiment, config: EmpathyConfig) -> int | None:
    """How many iterations a run takes by its limits, about; None if it is only limited otherwise."""
    stop = experiment.stop
    steps = config.train_batch_size_per_learner * max(1, config.num_learners)
    limits = [stop.iterations, -(-stop.env_steps // steps) if stop.env_steps else None]
    return min((limit for limit in limits if limit), default=None)
