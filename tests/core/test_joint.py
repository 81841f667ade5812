"""The joint trajectory: putting games side by side, taking them apart, numpy and torch."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_empathy.joint import JointTrajectory, concatenate, some_rows
from tests.core.made_up import made_up

few = settings(max_examples=25, deadline=None)
MEMORY = {"h": 3, "c": 2}
full = partial(made_up, seats=True, masks=True, limits=0.5)
"""Every column is there."""


def columns(joint: JointTrajectory) -> list:
    """Every column, in a fixed order."""
    found: list = []
    joint.map(found.append)
    return found


def assert_same(one: JointTrajectory, other: JointTrajectory) -> None:
    pairs = list(zip(columns(one), columns(other), strict=True))
    kept_by_name = len(one.events) + len(one.origin) + sum(len(s) for s in one.states)
    assert len(pairs) == len(fields(JointTrajectory)) - 3 + kept_by_name
    for mine, others in pairs:
        assert mine.dtype == others.dtype
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(others))


def tails(joint: JointTrajectory) -> dict[tuple[int, int], bytes]:
    """(step, game) -> what was seen and known after it."""
    places = zip(joint.tail_steps.tolist(), joint.tail_games.tolist(), strict=True)
    shown = zip(joint.tail_observations, np.asarray(joint.tail_context), strict=True)
    return {place: b"".join(np.asarray(x).tobytes() for x in seen) for place, seen in zip(places, shown, strict=True)}


def test_counts_of_steps():
    joint = full(1, whole_episodes=True, deaths=0.3)
    steps, games, agents = joint.shape
    alive = [[[bool(joint.alive[t, b, i]) for i in range(agents)] for b in range(games)] for t in range(steps)]
    assert joint.agent_steps() == sum(here for row in alive for game in row for here in game)
    assert joint.env_steps() == sum(any(game) for row in alive for game in row)
    assert joint.env_steps() < steps * games
    assert joint.to_tensors().env_steps() == joint.env_steps()
    assert joint.to_tensors().agent_steps() == joint.agent_steps()


def test_what_agents_keep_after_a_step_is_what_they_know_before_the_next():
    joint: Any = full(3, whole_episodes=True).to_tensors()
    after, steps = joint.context_after(), joint.origin["steps"]
    tails = {place: i for i, place in enumerate(zip(joint.tail_steps.tolist(), joint.tail_games.tolist(), strict=True))}
    assert after is not None
    for step, game in np.ndindex(*joint.shape[:2]):
        if (step, game) in tails:
            assert torch.equal(after[step, game], joint.tail_context[tails[step, game]])
        elif step < steps[game] - 1:
            assert torch.equal(after[step, game], joint.context[step + 1, game])
    assert replace(joint, context=None).context_after() is None


def test_nbytes_is_the_sum_of_all_columns():
    joint = full(1, memory=MEMORY)
    assert joint.nbytes() == sum(column.nbytes for column in columns(joint)) == joint.to_tensors().nbytes()
    assert joint.nbytes() > joint.observations.nbytes + joint.events["apples"].nbytes + joint.states[0]["h"].nbytes


def test_map_reaches_every_column_once():
    joint = full(1, memory=MEMORY)
    same = joint.map(lambda column: column.copy())
    assert_same(joint, same)
    assert all(mine is not other for mine, other in zip(columns(joint), columns(same), strict=True))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_tensors_keep_types_and_values(shape):
    joint = full(2, shape=shape, memory=MEMORY)
    tensors = joint.to_tensors("cpu")
    assert all(isinstance(column, torch.Tensor) for column in columns(tensors))
    assert_same(joint, tensors.map(lambda column: column.numpy()))
    assert tensors.observations.dtype == (torch.uint8 if len(shape) == 3 else torch.float32)


def test_writable_memory_is_shared_and_read_only_memory_copied():
    joint = full(2)
    assert joint.to_tensors().rewards.data_ptr() == joint.rewards.ctypes.data
    received = pickle.loads(pickle.dumps(joint)).map(_read_only)
    tensors = received.to_tensors()
    tensors.rewards[:] = 0
    assert_same(received, joint)


def _read_only(column: np.ndarray) -> np.ndarray:
    column.flags.writeable = False
    return column


@few
@given(st.integers(0, 2**31), st.integers(1, 6), st.booleans(), st.booleans())
def test_taking_apart_and_putting_together_is_the_identity(seed, games, whole_episodes, torch_columns):
    joint = full(seed, games=games, memory=MEMORY, whole_episodes=whole_episodes)
    rng = np.random.default_rng(seed)
    edges = [0, *sorted(rng.integers(0, games + 1, 2)), games]
    apart = joint.to_tensors() if torch_columns else joint
    shards = [apart.games(int(first), int(last)) for first, last in pairwise(edges)]
    assert sum(shard.env_steps() for shard in shards) == joint.env_steps()
    assert [shard.shape[1] for shard in shards] == [last - first for first, last in pairwise(edges)]
    for shard, first in zip(shards, edges[:-1], strict=True):
        assert all(tails(joint)[step, game + first] == seen for (step, game), seen in tails(shard).items())
    together = concatenate([shard.map(np.asarray) for shard in shards])
    # The tails' order is free: they name their place.
    assert tails(together) == tails(joint)
    order = np.lexsort((together.tail_games, together.tail_steps))
    of_tails = ("tail_steps", "tail_games", "tail_observations", "tail_context")
    in_order = {name: getattr(together, name)[order] for name in of_tails}
    expected = np.lexsort((joint.tail_games, joint.tail_steps))
    of_joint = {name: getattr(joint, name)[expected] for name in in_order}
    assert_same(replace(together, **in_order), replace(joint, **of_joint))


@few
@given(st.integers(0, 2**31), st.lists(st.tuples(st.integers(1, 8), st.integers(1, 4)), min_size=1, max_size=4))
def test_everything_of_a_game_stays_with_it(seed, sizes):
    parts = [
        full(seed + number, steps=steps, games=games, memory=MEMORY, whole_episodes=bool(number % 2))
        for number, (steps, games) in enumerate(sizes)
    ]
    joined = concatenate(parts)
    longest = max(steps for steps, _ in sizes)
    assert joined.shape == (longest, sum(games for _, games in sizes), 3)
    assert joined.env_steps() == sum(part.env_steps() for part in parts)
    assert joined.agent_steps() == sum(part.agent_steps() for part in parts)
    first = 0
    for part in parts:
        steps, games, _ = part.shape
        back = joined.games(first, first + games)
        assert not back.alive[steps:].any()
        assert not back.starts[steps:].any()
        assert np.asarray(back.action_masks)[steps:].all()
        cut = {name: getattr(back, name)[:steps] for name in PER_STEP}
        events = {name: column[:steps] for name, column in back.events.items()}
        assert_same(replace(back, **cut, events=events), part)
        first += games


PER_STEP = (
    "observations", "actions", "log_probs", "rewards", "alive", "survives", "starts", "terminated", "truncated",
    "seats",
    "context",
    "action_masks",
    "cut_off",
)  # fmt: skip


def test_agents_that_keep_nothing_have_no_context():
    joint = replace(made_up(1), context=None, tail_context=None)
    for same in (joint.to_tensors(), joint.games(1, 3), concatenate([joint, joint])):
        assert same.context is None
        assert same.tail_context is None
    assert joint.nbytes() < made_up(1).nbytes()


def test_a_single_trajectory_is_handed_on():
    joint = full(1)
    assert concatenate([joint]) is joint


def test_nothing_to_concatenate():
    with pytest.raises(ValueError, match="no trajectory"):
        concatenate([])


@pytest.mark.parametrize(
    "other",
    [{"agents": 2}, {"shape": (6,)}, {"shape": (1, 5, 5)}, {"seats": False}],
    ids=["number of agents", "observations", "grids", "seats"],
)
def test_different_worlds_are_refused(other):
    with pytest.raises(ValueError, match="different worlds"):
        concatenate([full(1), full(1, **other)])


def test_different_events_are_refused():
    joint = full(1)
    with pytest.raises(ValueError, match="different worlds"):
        concatenate([joint, replace(joint, events={})])


@pytest.mark.parametrize("seats", [False, True])
def test_places_are_counted_along_the_seats(seats):
    joint = made_up(2, agents=4, seats=seats).to_tensors()
    places, actions = joint.places(), joint.by_place(joint.actions)
    steps, games, agents = joint.shape
    for step in range(steps):
        for game in range(games):
            seat_of = list(range(agents)) if joint.seats is None else joint.seats[step, game].tolist()
            for agent in range(agents):
                for place in range(agents):
                    other = seat_of.index((seat_of[agent] + place) % agents)
                    assert places[step, game, agent, place] == other
                    assert actions[step, game, agent, place] == joint.actions[step, game, other]


@few
@given(st.lists(st.integers(0, 4), max_size=7), st.lists(st.integers(1, 3), max_size=2))
def test_some_rows_are_those_that_were_chosen(chosen, shape):
    column = torch.rand(2, 3, 5, *shape)
    torch.testing.assert_close(some_rows(column, torch.tensor(chosen, dtype=torch.long)), column[:, :, chosen])
