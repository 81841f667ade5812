"""What the catalogue shows without a study: theory, meta-games, and Schelling diagrams of worlds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from env_registry.parameters import Settings
from rllib_empathy.schelling.diagram import Diagram, Verdict

Scores = dict[str, NDArray[np.float64]]
"""Variant -> `[K]`, a number for each of its trials, starts or seeds."""

Players = Callable[[str], list[str]]
"""ENTRY/VARIANT -> the run folders of that variant's trials."""


REWARDS = ("reward", "reward/0", "reward/1")
"""Of pairs of learners: per step, of both in the mean and of each."""


def _last_rewards(courses: Mapping[str, NDArray[np.float64]]) -> dict[str, Scores]:
    """REWARDS at the end of courses `[U + 1, 2, K]`."""
    ends = {name: rewards[-1] for name, rewards in courses.items()}
    mean = {name: end.mean(0) for name, end in ends.items()}
    first, second = ({name: end[agent] for name, end in ends.items()} for agent in range(2))
    return dict(zip(REWARDS, (mean, first, second), strict=True))


class LaseTheory(Settings):
    """`rllib-empathy theory lase`; variants are the regions of the (T, S) plane and the prisoner's dilemma of the paper."""

    starts: int = Field(30, ge=2, description="random starts in each game")
    resolution: int = Field(40, ge=3, description="games along each of T and S")

    @property
    def variants(self) -> list[str]:
        """The prisoner's dilemma of the paper, and the regions."""
        from rllib_empathy.theory.lase import REGIONS

        return ["IPD", *REGIONS]

    measures: ClassVar = ("cooperation", "mutual_cooperation", "mutual_defection")

    def run(self, picture: Path, players: Players) -> dict[str, Scores]:
        """P(C), and how often both cooperate or defect at the end, for each start."""
        from rllib_empathy.theory.lase import IPD, REGIONS, converge, ends_by_kind, plane, region
        from rllib_empathy.theory.picture import draw_plane

        games = plane(self.resolution)
        random = np.random.default_rng(0)
        ends, _ = converge(random.random((2, self.starts, *games[0].shape)), *games)
        ipd, _ = converge(random.random((2, self.starts)), *IPD)
        draw_plane(ends.mean((0, 1)), picture)
        found: dict[str, Scores] = {name: {} for name in self.measures}
        of_regions = [ends[:, :, region(*games) == number] for number in range(len(REGIONS))]
        for name, values in zip(self.variants, (ipd[..., None], *of_regions), strict=True):
            kinds = ends_by_kind(values)
            found["cooperation"][name] = values.mean((0, 2))
            found["mutual_cooperation"][name] = (kinds == 0).mean(1)
            found["mutual_defection"][name] = (kinds == 1).mean(1)
        return found


class IpdTheory(Settings):
    """`rllib-empathy theory ipd`; variants are pairs of learners."""

    starts: int = Field(30, ge=2, description="random starts of each pair")
    updates: int = Field(200, ge=1, description="steps of both learners")
    meta_episodes: int = Field(32, ge=1, description="that each meta-agent is trained for")
    meta_pairs: int = Field(256, ge=2, description="that play at once while M-FOS is trained")
    meta_steps: int = Field(50, ge=1, description="games of a meta-episode")

    @property
    def variants(self) -> list[str]:
        """The pairs."""
        from rllib_empathy.theory.ipd_pairs import NAMES

        return list(NAMES)

    measures: ClassVar = REWARDS

    def run(self, picture: Path, players: Players) -> dict[str, Scores]:
        """The rewards per step of both agents at the end, for each start."""
        from rllib_empathy.theory.ipd_pairs import play_all
        from rllib_empathy.theory.ipd_summary import draw_courses
        from rllib_empathy.theory.mfos import MetaTraining

        training = MetaTraining(self.meta_episodes, self.meta_pairs, self.meta_steps)
        courses = play_all(self.starts, self.updates, 0.96, training, seed=0)
        rewards = {name: course.numpy() for name, (course, _) in courses.items()}
        draw_courses(rewards, picture)
        return _last_rewards(rewards)


class LolaTheory(Settings):
    """LOLA and naive learners with memory-one policies in LASE's prisoner's dilemma, exactly; variants are pairs of them."""

    starts: int = Field(30, ge=2, description="random starts of each pair")
    updates: int = Field(200, ge=1, description="steps of both learners")
    gamma: float = Field(0.99, ge=0, lt=1, description="discount")
    payoffs: tuple[float, float, float, float] = Field(
        (1.0, -0.2, 1.2, 0.0), description="R, S, T, P: both cooperate, alone cooperate, alone defect, both defect"
    )

    variants: ClassVar = ["naive / naive", "LOLA / naive", "LOLA / LOLA"]
    measures: ClassVar = REWARDS

    def run(self, picture: Path, players: Players) -> dict[str, Scores]:
        """The rewards per step of both agents at the end, for each start."""
        import torch

        from rllib_empathy.theory.ipd import Ascent, course
        from rllib_empathy.theory.ipd_summary import draw_courses

        learners = {"naive": Ascent(payoffs=self.payoffs), "LOLA": Ascent(look_ahead=1.0, payoffs=self.payoffs)}
        random = torch.Generator().manual_seed(0)
        logits = torch.randn(2, self.starts, 5, dtype=torch.float64, generator=random)
        courses = {}
        for name in self.variants:
            first, second = (learners[who] for who in name.split(" / "))
            courses[name] = course(logits, (first, second), self.gamma, self.updates, self.payoffs)[0].numpy()
        draw_courses(courses, picture, earned="reward per step", lines=(self.payoffs[0], self.payoffs[3]))
        return _last_rewards(courses)


class CoinsMeta(Settings):
    """`rllib-empathy theory mfos`; variants are pairs of players, of which M-FOS agents are trained."""

    seeds: int = Field(3, ge=2, description="trainings of each pair")
    meta_episodes: int = Field(24, ge=1, description="that each M-FOS agent is trained for")
    meta_games: int = Field(16, ge=1, description="side by side; each has a naive learner of its own")
    games: int = Field(8, ge=1, description="coin games of a meta-game")
    inner_episodes: int = Field(16, ge=1, description="of a meta-episode; learners learn after each")

    @property
    def variants(self) -> list[str]:
        """The pairs."""
        from rllib_empathy.theory.coins_pairs import NAMES

        return list(NAMES)

    measures: ClassVar = ("return", "return/0", "return/1", "own_coin_share", "own_coin_share/1")

    def run(self, picture: Path, players: Players) -> dict[str, Scores]:
        """Returns and shares of own coins at the end of meta-episodes, for each seed."""
        from rllib_empathy.theory.coins_pairs import FIRST_SEED, MetaCoins, play_all
        from rllib_empathy.theory.coins_summary import draw_returns, scores

        sizes = MetaCoins(self.meta_episodes, self.meta_games, self.games, self.inner_episodes)
        courses = play_all(sizes, range(FIRST_SEED, FIRST_SEED + self.seeds))
        draw_returns(courses, picture)
        return scores(courses)


class SchellingGame(Settings):
    """One diagram."""

    world: str = Field(description="a world's name")
    env_config: dict[str, Any] = Field({}, description="its rules")
    cooperator: str = Field(
        "cooperator", description="a kind that needs no training, or ENTRY/VARIANT of the catalogue"
    )
    defector: str = Field("defector", description="the same")


class SchellingDiagrams(Settings):
    """`rllib-empathy schelling`; variants are games."""

    games: dict[str, SchellingGame] = Field(min_length=1, description="name -> world and players")
    episodes: int = Field(40, ge=2, description="of each mixture and seed")
    seeds: int = Field(5, ge=2, description="of worlds; of trained players at most as many as have finished")

    @property
    def variants(self) -> list[str]:
        """The games."""
        return list(self.games)

    measures: ClassVar = ("is_dilemma", *Verdict._fields)

    def run(self, picture: Path, players: Players) -> dict[str, Scores]:
        """The differences of mean returns that make a dilemma, for each seed; 1 in `is_dilemma` if the signs are those of one."""
        from rllib_empathy.schelling.picture import draw_diagrams
        from rllib_empathy.schelling.playing import play_mixtures

        found: dict[str, Scores] = {name: {} for name in self.measures}
        together = {}
        for name, game in self.games.items():
            pairs = zip(*(self._seeds(who, players) for who in (game.cooperator, game.defector)), strict=False)
            diagrams = [
                play_mixtures(game.world, game.env_config, cooperator, defector, self.episodes, seed)
                for seed, (cooperator, defector) in enumerate(pairs)
            ]
            verdicts = [diagram.verdict() for diagram in diagrams]
            for condition in Verdict._fields:
                found[condition][name] = np.array([getattr(each, condition).difference.value for each in verdicts])
            both, alone, fear, greed = (found[condition][name] > 0 for condition in Verdict._fields)
            found["is_dilemma"][name] = (both & alone & (fear | greed)).astype(np.float64)
            together[name] = Diagram(*(np.concatenate(rows, 1) for rows in zip(*diagrams, strict=True)))
        draw_diagrams(together, picture)
        return found

    def _seeds(self, player: str, players: Players) -> list[str]:
        trained = players(player) if "/" in player else [player] * self.seeds
        return trained[: self.seeds]


class Analysis(Settings):
    """Exactly one of these."""

    lase_theory: LaseTheory | None = None
    ipd_theory: IpdTheory | None = None
    lola_theory: LolaTheory | None = None
    coins_meta: CoinsMeta | None = None
    schelling: SchellingDiagrams | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Analysis:
        if sum(value is not None for _, value in self) != 1:
            raise ValueError(f"needs exactly one of {', '.join(Analysis.model_fields)}")
        return self

    @property
    def chosen(self) -> LaseTheory | IpdTheory | LolaTheory | CoinsMeta | SchellingDiagrams:
        """That one."""
        found: LaseTheory | IpdTheory | LolaTheory | CoinsMeta | SchellingDiagrams = next(
            value for _, value in self if value is not None
        )
        return found
