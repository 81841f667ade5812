"""Who meets whom in meta-games of the Reciprocators' coin game: naive learners, and M-FOS agents, which are trained before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

import env_registry
from rllib_empathy.theory.meta_game import Course, play
from rllib_empathy.theory.meta_players import MetaAgent, NaiveLearners, Player

NAIVE_PAIR, SHAPED, SHORT_SIGHTED, SELF_PLAY = (
    "naive / naive",
    "M-FOS / naive",
    "short-sighted / naive",
    "M-FOS / M-FOS",
)
NAMES = (NAIVE_PAIR, SHAPED, SHORT_SIGHTED, SELF_PLAY)

FIRST_SEED = 1000
"""Settings were chosen on others."""


class MetaCoins(NamedTuple):
    """How much is played; a meta-episode of the authors has as many inner episodes.

    Args:
        meta_episodes: that each M-FOS agent is trained for (1000, of 16 steps an inner episode).
        meta_games: K, side by side.
        games: M, of each (K M = 512).
        episodes: E, inner episodes of a meta-episode (16).
    """

    meta_episodes: int = 24
    meta_games: int = 16
    games: int = 8
    episodes: int = 16


Courses = dict[str, list[Course]]
"""Pair -> a fresh meta-episode after training, for each seed."""

Watch = Callable[[float, str], object]
"""Called with the share of all training that is done, and with the pair that is trained."""


def play_all(sizes: MetaCoins, seeds: Sequence[int], watch: Watch = lambda share, name: None) -> Courses:
    """Trains and shows all pairs, anew for each seed."""
    courses: Courses = {name: [] for name in NAMES}
    for number, seed in enumerate(seeds):

        def watch_seed(share: float, name: str, number: int = number) -> None:
            watch((number + share) / len(seeds), name)

        for name, course in play_seed(sizes, seed, watch_seed).items():
            courses[name].append(course)
    return courses


def play_seed(sizes: MetaCoins, seed: int, watch: Watch = lambda share, name: None) -> dict[str, Course]:
    """All pairs with one seed.

    Two M-FOS agents begin as the one that was trained against naive learners, as the authors' do, and go on together, each with
    a network of its own: they are two selfish agents, and what one learns is no business of the other.

    Args:
        sizes: how much is played.
        seed: of everything random.
        watch: see `Watch`.
    """
    random = torch.Generator().manual_seed(seed)
    world: Any = env_registry.make("coin_game", sizes.meta_games * sizes.games, preset="reciprocator")
    world.reset(seed)

    def naive() -> NaiveLearners:
        return NaiveLearners(world, sizes.meta_games, random)

    def agent(far_sighted: bool = True) -> MetaAgent:
        return MetaAgent(world, world.num_games, random, far_sighted=far_sighted)

    pairs: dict[str, tuple[Player, Player]] = {NAIVE_PAIR: (naive(), naive())}
    shaper, short_sighted, both = agent(), agent(far_sighted=False), (agent(), agent())
    pairs |= {SHAPED: (shaper, naive()), SHORT_SIGHTED: (short_sighted, naive()), SELF_PLAY: both}
    trained = NAMES[1:]
    for number, name in enumerate(trained):
        if name == SELF_PLAY:
            for each in both:
                each.agents.copy_from(shaper.agents)
        for episode in range(sizes.meta_episodes):
            play(world, pairs[name], sizes.episodes)
            watch((number + (episode + 1) / sizes.meta_episodes) / len(trained), name)
        for player in pairs[name]:
            if isinstance(player, MetaAgent):
                player.frozen = True
    return {name: play(world, pair, sizes.episodes) for name, pair in pairs.items()}
