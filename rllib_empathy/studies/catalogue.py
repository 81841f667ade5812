"""The catalogue of published results: what was claimed, the study that tests it, and whether it holds here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from env_registry.parameters import SettingError, Settings, checked, unknown_name
from rllib_empathy.experiments.building import metric_names
from rllib_empathy.experiments.experiment import Experiment, find_experiment, merged, read_yaml
from rllib_empathy.experiments.statistics import Estimate, iqm_difference, iqm_estimate
from rllib_empathy.experiments.study import Overrides, Study
from rllib_empathy.shipped import shipped
from rllib_empathy.studies.analyses import Analysis, Scores
from rllib_empathy.studies.measures import measured_names
from rllib_empathy.studies.trials import Trial, trials_of

Verdict = Literal["holds", "undecided", "does not hold"]


class Expectation(Settings):
    """A comparison that holds if the claim does: of a variant's IQM with a variant's or with a number."""

    variant: str = Field(description="whose trials")
    metric: str | None = Field(None, description="a measure (studies/measures.py); null: the entry's metric")
    other_metric: str | None = Field(None, description="of the variant that it is compared with; null: the same")
    above: str | float | None = Field(None, description="a variant or a number")
    below: str | float | None = Field(None, description="a variant or a number")
    near: str | float | None = Field(None, description="a variant or a number")
    by: float = Field(0, ge=0, description="with above or below: what the difference has to exceed")
    within: float | None = Field(None, gt=0, description="with near: the largest difference that counts as none")

    @model_validator(mode="after")
    def _is_one_comparison(self) -> Expectation:
        if sum(other is not None for other in (self.above, self.below, self.near)) != 1:
            raise ValueError("needs exactly one of above, below, near")
        if (self.near is None) != (self.within is None):
            raise ValueError("near and within go together")
        if self.near is not None and self.by:
            raise ValueError("by goes with above or below")
        if self.other_metric and not isinstance(self.other, str):
            raise ValueError(f"other_metric goes with a variant, not with the number {self.other:g}")
        return self

    @property
    def other(self) -> str | float:
        """What the variant is compared with."""
        return next(other for other in (self.above, self.below, self.near) if other is not None)

    def __str__(self) -> str:
        what = f"{self.metric} of {self.variant}" if self.metric else self.variant
        other = f"{self.other_metric} of {self.other}" if self.other_metric else self.other
        if self.near is not None:
            return f"{what} within {self.within:g} of {other}"
        return f"{what} {'above' if self.above is not None else 'below'} {other}" + (
            f" by {self.by:g}" if self.by else ""
        )

    def judged(self, scores: Scores, other_scores: Scores | None = None) -> tuple[Verdict, Estimate]:
        """Whether it holds, and the difference between the variant and what it is compared with.

        A difference whose whole 95 % interval lies where it is expected holds; one whose whole interval lies elsewhere does not
        hold; all others are undecided, as is everything with one seed only. What is alike is neither above nor below.

        Args:
            scores: of the metric, for the variants in question.
            other_scores: of the other variant's metric, if that is another one.
        """
        mine = scores[self.variant]
        if self.other == self.variant and other_scores is not None:
            difference = iqm_estimate(
                mine - other_scores[self.variant]
            )  # of the same trials: what varies with both cancels
        elif isinstance(self.other, str):
            difference = iqm_difference(mine, (other_scores or scores)[self.other])
        else:
            difference = Estimate(*(number - self.other for number in iqm_estimate(mine)))
        if isnan(difference.low):
            return "undecided", difference
        low, high = (-difference.high, -difference.low) if self.below is not None else (difference.low, difference.high)
        if self.within is None:
            holds, fails = low > self.by, high <= self.by
        else:
            holds, fails = max(-low, high) <= self.within, max(low, -high) > self.within
        if holds:
            return "holds", difference
        return "does not hold" if fails else "undecided", difference


Judgement = tuple[Expectation, Verdict, Estimate]
"""A comparison, what has come of it, and the difference."""


class CatalogueEntry(Settings):
    """A file of tune_configs/reproduce: one figure or table of a paper."""

    title: str = Field(description="what is to be seen, in a few words")
    paper: str = Field(description="whose claim it is")
    figure: str = Field(description="figure or table of the paper")
    claim: str = Field(description="what the paper says, with its numbers")
    expect: list[Expectation] = Field(
        [], description="what follows for the variants; the claim's verdict is that of the worst"
    )
    controls: list[Expectation] = Field([], description="what else is asked, which the paper does not claim")
    metric: str | None = Field(None, description="what is drawn and comes first in the table; null: the study's metric")
    draws: list[str] = Field([], description="measures that are drawn side by side; none: the metric alone")
    shows: list[str] = Field([], description="more measures that the table shows")
    study_of: str | None = Field(
        None, description="another entry, whose study shows this too; then nothing else is given"
    )
    base: str | None = Field(
        None, description="an experiment that comes with the package, which the experiment changes"
    )
    analysis: Analysis | None = Field(None, description="what is computed instead of a study; scales are optional")
    experiment: Overrides | None = Field(None, description="an experiment with a study; its name is the entry's")
    scales: dict[Literal["small", "paper"], Overrides] = Field({}, description="what each scale changes")

    @property
    def comparisons(self) -> list[Expectation]:
        """All that is expected and asked."""
        return [*self.expect, *self.controls]

    @model_validator(mode="after")
    def _has_one_source(self) -> CatalogueEntry:
        sources = {"experiment": self.experiment, "study_of": self.study_of, "analysis": self.analysis}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(sources)}, has {' and '.join(given) or 'none'}")
        if self.study_of and self.scales:
            raise ValueError("study_of goes without scales")
        if self.experiment is None and self.base:
            raise ValueError(f"{given[0]} goes without base")
        if self.analysis and self.draws:
            raise ValueError("analysis goes without draws: it has a picture of its own")
        if (self.experiment is not None or self.scales) and set(self.scales) != {"small", "paper"}:
            raise ValueError("scales needs small and paper, be it {}")
        if not self.comparisons:
            raise ValueError("needs something under expect or controls")
        return self


@dataclass(frozen=True)
class Reproduction:
    """An entry at one scale; without an experiment if it is an analysis."""

    name: str
    scale: Literal["small", "paper"]
    entry: CatalogueEntry
    experiment: Experiment | None

    @property
    def study(self) -> Study:
        """The trials of one that has an experiment."""
        assert self.experiment is not None
        assert self.experiment.study is not None
        return self.experiment.study

    @property
    def metric(self) -> str:
        """What is drawn, and expected something of where nothing else is said."""
        analysis = self.entry.analysis
        return self.entry.metric or (analysis.chosen.measures[0] if analysis else self.study.metric)

    @property
    def variants(self) -> list[str]:
        """In the order of the experiment or analysis."""
        if self.entry.analysis:
            return self.entry.analysis.chosen.variants
        assert self.experiment is not None
        return list(self.study.variants or [self.experiment.name])

    def judged(self, comparisons: Sequence[Expectation], scores: Callable[[str], Scores]) -> list[Judgement]:
        """What has come of some of the entry's comparisons; `scores` gives those of a measure."""
        found = []
        for expectation in comparisons:
            metric = expectation.metric or self.metric
            found.append((expectation, *expectation.judged(scores(metric), scores(expectation.other_metric or metric))))
        return found

    def check(self, known: Mapping[str, list[str]]) -> None:
        """Checks that all measures are known that it shows or expects something of.

        Args:
            known: variant -> its measures.

        Raises:
            SettingError: one is not.
        """
        of_all = self.metric, *self.entry.draws, *self.entry.shows
        named = [(variant, metric) for variant in known for metric in of_all]
        for expectation in self.entry.comparisons:
            metric = expectation.metric or self.metric
            named.append((expectation.variant, metric))
            if isinstance(expectation.other, str):
                named.append((expectation.other, expectation.other_metric or metric))
        for variant, metric in named:
            if metric not in known[variant]:
                raise unknown_name(f"metric of variant {variant!r}", metric, known[variant])


def catalogue() -> dict[str, Path]:
    """Name -> file of each entry that comes with the package."""
    return {path.stem: path for path in sorted((shipped("tune_configs") / "reproduce").glob("*.yaml"))}


def load_reproduction(name: str, scale: Literal["small", "paper"]) -> Reproduction:
    """An entry of the catalogue at one scale.

    Args:
        name: of the entry, or the path of a file like those.
        scale: small runs on two cores, paper on a cluster.

    Raises:
        SettingError: there is no such entry, or it says something impossible.
    """
    path = Path(name)
    if not path.is_file():
        known = catalogue()
        if name not in known:
            raise unknown_name("entry of the catalogue", name, known)
        path = known[name]
    where = f"entry {path}"
    values = read_yaml(path)
    entry = checked(CatalogueEntry, values, where)
    experiment = None
    if entry.analysis and entry.scales:
        analysis = merged(values["analysis"], entry.scales[scale], f"{where}, scale {scale}")
        entry = checked(CatalogueEntry, {**values, "analysis": analysis}, where)
    if entry.study_of:
        experiment = load_reproduction(entry.study_of, scale).experiment
    elif entry.experiment is not None:
        experiment = _experiment(entry, path, scale)
    reproduction = Reproduction(path.stem, scale, entry, experiment)
    for expectation in entry.comparisons:
        for variant in (expectation.variant, expectation.other):
            if isinstance(variant, str) and variant not in reproduction.variants:
                raise unknown_name(f"variant in expect or controls of {where}", variant, reproduction.variants)
    if entry.analysis:
        measures = list(entry.analysis.chosen.measures)
        reproduction.check(dict.fromkeys(reproduction.variants, measures))
    return reproduction


def _experiment(entry: CatalogueEntry, path: Path, scale: Literal["small", "paper"]) -> Experiment:
    assert entry.experiment is not None
    where = f"entry {path}"
    base: dict[str, Any] = read_yaml(find_experiment(entry.base)) if entry.base else {}
    values = merged(merged(base, entry.experiment, where), entry.scales[scale], f"{where}, scale {scale}")
    experiment = checked(Experiment, {**values, "name": f"{path.stem}_{scale}"}, where)
    if experiment.study is None or experiment.study.search:
        raise SettingError(
            f"Wrong {where}: its experiment needs a part 'study' with variants and seeds, and without a search."
        )
    return experiment


def trials_to_reproduce(reproduction: Reproduction) -> list[Trial]:
    """The trials of an entry's study, which log all that the entry expects something of, or shows.

    Raises:
        SettingError: one of them is impossible, or a measure is not known.
    """
    assert reproduction.experiment is not None
    trials = trials_of(reproduction.experiment)
    reproduction.check({t.variant: measured_names(metric_names(t.experiment, t.config)) for t in trials})
    return trials
