"""The part of an experiment file that asks for many trials: seeds, variants, a search, and who decides what goes on."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from env_registry.parameters import Settings

Overrides = dict[str, Any]
"""Keys of an experiment and their values; keys may be dotted, and mappings are merged into what is there."""


class Sampler(Settings):
    """Where the values of one key come from; exactly one of these."""

    uniform: tuple[float, float] | None = Field(None, description="[low, high]")
    loguniform: tuple[float, float] | None = Field(None, description="[low, high], 0 < low: each decade alike")
    randint: tuple[int, int] | None = Field(None, description="[low, high], high excluded")
    lograndint: tuple[int, int] | None = Field(None, description="[low, high], 0 < low, high excluded")
    choice: list[Any] | None = Field(None, min_length=1, description="one of these at random")
    grid: list[Any] | None = Field(None, min_length=1, description="each of these")

    @model_validator(mode="after")
    def _is_possible(self) -> Sampler:
        given = {name: value for name, value in self if value is not None}
        if len(given) != 1:
            raise ValueError(
                f"needs exactly one of {', '.join(Sampler.model_fields)}, has {', '.join(given) or 'none'}"
            )
        if self.kind not in ("choice", "grid"):
            low, high = given[self.kind]
            if low >= high:
                raise ValueError(f"{self.kind} needs [low, high] with low < high, has [{low}, {high}]")
            if self.kind.startswith("log") and low <= 0:
                raise ValueError(f"{self.kind} needs low > 0, has {low}")
        return self

    @model_serializer
    def _as_asked(self) -> dict[str, Any]:
        return {self.kind: getattr(self, self.kind)}

    @property
    def kind(self) -> str:
        """The sampler's name."""
        return next(name for name in Sampler.model_fields if getattr(self, name) is not None)


class Asha(Settings):
    """Stops trials that are behind others of the same age (asynchronous successive halving, arXiv:1810.05934)."""

    grace_iterations: int = Field(10, ge=1, description="iterations that every trial gets")
    reduction_factor: float = Field(3, gt=1, description="of so many trials that reach a rung, one goes on")


class Pbt(Settings):
    """Now and then gives a bad trial the weights of a good one, and changed values (arXiv:1711.09846)."""

    interval_iterations: int = Field(20, ge=1, description="iterations between decisions about a trial")
    quantile_fraction: float = Field(0.25, gt=0, le=0.5, description="share of trials that is replaced, and copied")
    resample_probability: float = Field(0.25, ge=0, le=1, description="of a fresh value, else times 0.8 or 1.2")


class Scheduler(Settings):
    """Who decides about trials under way; exactly one of these."""

    asha: Asha | None = None
    pbt: Pbt | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Scheduler:
        if (self.asha is None) == (self.pbt is None):
            raise ValueError("needs either asha or pbt")
        return self


class Resources(Settings):
    """What the process of one trial gets; runners and learners that it starts get theirs beside it."""

    cpus: float = Field(1, gt=0, description="CPUs")
    gpus: float = Field(0, ge=0, description="GPUs, or a share of one")


class Study(Settings):
    """Many trials of one experiment: every variant with every sample of the search and every seed."""

    seeds: list[int] = Field([0], min_length=1, description="each replaces the experiment's seed")
    variants: dict[str, Overrides] = Field({}, description="name -> what is different from the experiment")
    search: dict[str, Sampler] = Field({}, description="dotted key -> where its values come from")
    num_samples: int = Field(1, ge=1, description="draws from the samplers, for each point of the grids")
    metric: str = Field("group_return", description="column of metrics.csv by which trials are compared")
    mode: Literal["max", "min"] = Field("max", description="whether more of it is better")
    scheduler: Scheduler | None = None
    resources: Resources = Resources()
    max_concurrent_trials: int | None = Field(None, ge=1, description="trials at once; null: as many as there are CPUs")
    retries: int = Field(0, ge=0, description="how often a trial that fails goes on from its last checkpoint")

    @field_validator("seeds")
    @classmethod
    def _seeds_are_distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds have to be distinct numbers from 0 on")
        return seeds

    @field_validator("variants", mode="before")
    @classmethod
    def _variants_are_named(cls, variants: Any) -> Any:
        if isinstance(variants, dict):
            for name in variants:
                if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", str(name)):
                    raise ValueError(f"{name!r} cannot name a folder: use letters, digits, '_', '-' and '.'")
            return {str(name): overrides or {} for name, overrides in variants.items()}
        return variants

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        random = [key for key, sampler in self.search.items() if sampler.kind != "grid"]
        if self.num_samples > 1 and not random:
            raise ValueError(f"num_samples = {self.num_samples} needs a sampler other than grid in search")
        if self.scheduler and len(self.variants) > 1:
            raise ValueError(
                "a scheduler compares all trials, and would give up one variant for another; ask for either scheduler or variants"
            )
        if self.scheduler and self.scheduler.pbt:
            if not random:
                raise ValueError("pbt changes what a sampler other than grid in search gives; there is none")
            if self.max_concurrent_trials:
                raise ValueError(
                    "pbt compares trials that are all under way, taking turns; leave max_concurrent_trials out"
                )
        return self
