"""RLlib's env-to-module connectors, alone and one after the other: gifts learn wherever plain PPO does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import (
    AddObservationsFromEpisodesToBatch,
    FlattenObservations,
    MeanStdFilter,
    PrevActionsPrevRewards,
)
from ray.rllib.connectors.env_to_module.frame_stacking import FrameStackingEnvToModule

from env_registry.parameters import SettingError
from rllib_empathy import with_gifting
from rllib_empathy.stock.observed import fits
from rllib_empathy.stock.seats import seats_of
from tests.stock.ferry import Ferry
from tests.stock.test_own_ppo import KINDS, own_config

pytestmark = pytest.mark.filterwarnings("ignore")  # RLlib's own


def previous() -> Any:
    return PrevActionsPrevRewards(multi_agent=True, n_prev_actions=2)


def flat() -> Any:
    return FlattenObservations(multi_agent=True)


def filtered() -> Any:
    return MeanStdFilter(multi_agent=True)


class Pictures(Ferry):
    """Everybody sees a picture of one channel."""

    def __init__(self, env_config: Any = None) -> None:
        super().__init__()
        self.observation_spaces = {agent: Box(0, 1, (4, 4, 1), np.float32) for agent in self.possible_agents}


class Widened(ConnectorV2):
    """A user's own piece: writes more numbers into the episodes than it announces."""

    def __call__(self, *, episodes: Any, batch: Any, **kwargs: Any) -> Any:
        for own in self.single_agent_episode_iterator(episodes):
            own.observation_space = None
            own.set_observations(at_indices=-1, new_data=np.zeros(7, np.float32))
        return batch


def connected(pieces: list[Any], env: Any = Ferry, **env_config: Any) -> Any:
    made = lambda env=None, spaces=None, device=None: [piece() for piece in pieces]  # noqa: E731
    return own_config(env, **env_config).env_runners(env_to_module_connector=made)


PIECES: dict[str, tuple[list[Any], bool, int]] = {  # pieces, rich observations, what the captain's episodes hold
    "batch only": ([AddObservationsFromEpisodesToBatch], False, 3),
    "flatten": ([flat], False, 3),
    "mean and deviation": ([filtered], False, 3),
    "previous actions, flatten": ([previous, flat], False, 3 + 2 * 7 + 1),
    "previous actions, flatten, of rich observations": ([previous, flat], True, 2 + 4 + 2 * 7 + 1),
    "previous actions, flatten, mean and deviation": ([previous, flat, filtered], False, 3 + 2 * 7 + 1),
}


@pytest.mark.parametrize(("pieces", "rich", "size"), PIECES.values(), ids=PIECES)
def test_what_episodes_hold_is_known_before_anything_starts(pieces, rich, size):
    from gymnasium.spaces.utils import flatdim

    seats = {seat.agent_id: seat for seat in seats_of(connected(pieces, rich=rich))}
    assert flatdim(seats["captain"].observation_space) == size
    if "deckhand" in seats and len(pieces) > 1:  # who joins late and is not seen first
        assert flatdim(seats["deckhand"].observation_space) == 4 + 2 * 8 + 1


@pytest.mark.parametrize("name", ["previous actions, flatten, of rich observations", "mean and deviation"])
def test_gifts_learn_behind_them(name, ray_local):
    pieces, rich, _ = PIECES[name]
    algorithm = with_gifting(connected(pieces, rich=rich), KINDS).build_algo()
    for _ in range(2):
        learned = algorithm.train()["learners"]
    assert np.isfinite(learned["captain"]["social_critic_error"])
    algorithm.stop()


def test_stacked_frames_are_not_in_episodes_and_previous_actions_alone_are_a_dict():
    stack = lambda: FrameStackingEnvToModule(num_frames=3, multi_agent=True)  # noqa: E731
    seats = seats_of(connected([stack], Pictures))
    assert {seat.observation_space.shape for seat in seats} == {(4, 4, 1)}
    [captain] = [seat for seat in seats_of(connected([previous])) if seat.agent_id == "captain"]
    assert {key: space.shape for key, space in captain.observation_space.spaces.items()} == {
        "_orig_obs": (3,),
        "prev_n_actions": (14,),
        "prev_n_rewards": (1,),
    }


def test_what_no_piece_announces_is_refused_before_anything_starts():
    with pytest.raises(SettingError, match=r"'captain'.* shape \(7,\).*recompute_output_observation_space"):
        with_gifting(connected([Widened]), KINDS)


def test_an_observation_fits_by_structure_and_shape():
    space = Dict(a=Box(0, 1, (2,)), b=Discrete(3))
    assert fits(space, {"a": np.array([5.0, 7.0]), "b": 2})
    assert not fits(space, {"a": np.zeros(3), "b": 2})
    assert not fits(space, {"a": np.zeros(2)})
    assert not fits(space["a"], {"a": 1})
