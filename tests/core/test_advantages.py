"""Generalised advantages against a slow loop, against RLlib's own computation, and by their properties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets

from rllib_empathy.joint import JointTrajectory, concatenate
from rllib_empathy.learning.advantages import generalized_advantages, next_values
from tests.core.made_up import made_up, shuffled

SEEDS = st.integers(0, 2**31)
UNIT = st.floats(0, 1, width=32)
WAYS = [
    pytest.param({}, id="fragments"),
    pytest.param({"ends": 0.0}, id="one endless episode"),
    pytest.param({"ends": 0.5, "deaths": 0.3, "joins": 0.5}, id="everything at once"),
    pytest.param({"whole_episodes": True}, id="whole episodes"),
    pytest.param({"deaths": 0.4, "limits": 0.5}, id="limits of single agents"),
    pytest.param({"steps": 1}, id="a single step"),
    pytest.param({"games": 1, "agents": 1, "deaths": 0.0, "joins": 0.0}, id="a single agent"),
]
few = settings(max_examples=25, deadline=None)


def values_of(joint: JointTrajectory, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    tails = (len(joint.tail_steps), joint.shape[2])
    return rng.normal(size=joint.shape).astype(np.float32), rng.normal(size=tails).astype(np.float32)


def advantages(joint: JointTrajectory, values, tail_values, gamma, lambda_) -> np.ndarray:
    tensors = joint.to_tensors()
    per_agent = [torch.as_tensor(np.broadcast_to(x, joint.shape[2]).astype(np.float32)) for x in (gamma, lambda_)]
    given_values = (torch.from_numpy(values), torch.from_numpy(tail_values))
    return generalized_advantages(tensors, tensors.rewards, *given_values, *per_agent).numpy()


def lives(joint: JointTrajectory) -> list[tuple[int, int, list[int]]]:
    """(game, agent, steps) of every unbroken stretch in which an agent takes part in one episode."""
    found = []
    steps, games, agents = joint.shape
    for game in range(games):
        for agent in range(agents):
            stretch: list[int] = []
            for step in range(steps):
                if joint.alive[step, game, agent]:
                    stretch.append(step)
                    ended = joint.terminated[step, game] or joint.truncated[step, game]
                    if ended or not joint.survives[step, game, agent]:
                        found.append((game, agent, stretch))
                        stretch = []
            assert not stretch
    return found


def over(joint: JointTrajectory, game: int, agent: int, step: int) -> bool:
    """Whether the agent has no future after its life's last step."""
    cut_off = joint.cut_off is not None and joint.cut_off[step, game, agent]
    return bool(joint.terminated[step, game] or not (joint.survives[step, game, agent] or cut_off))


def value_after(joint: JointTrajectory, values, tail_values, game: int, agent: int, step: int) -> float:
    """Of what follows the last step of a life that is cut off: the tail's, or the next row's where the others play on."""
    found = ((joint.tail_steps == step) & (joint.tail_games == game)).nonzero()[0]
    return float(tail_values[found[0], agent] if len(found) else values[step + 1, game, agent])


def slow_advantages(joint: JointTrajectory, values, tail_values, gamma: float, lambda_: float) -> np.ndarray:
    """A_t = sum over k of (gamma lambda)^k d_{t+k}, up to the end of the agent's life."""
    out = np.zeros(joint.shape)
    for game, agent, steps in lives(joint):
        last = steps[-1]
        after_last = (
            0.0 if over(joint, game, agent, last) else value_after(joint, values, tail_values, game, agent, last)
        )
        seen = [*(float(values[step, game, agent]) for step in steps), after_last]
        errors = [
            float(joint.rewards[step, game, agent]) + gamma * seen[k + 1] - seen[k] for k, step in enumerate(steps)
        ]
        for k, step in enumerate(steps):
            out[step, game, agent] = sum(
                (gamma * lambda_) ** (later - k) * errors[later] for later in range(k, len(steps))
            )
    return out


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(5))
def test_like_a_slow_loop(way, seed):
    joint = made_up(seed, **way)
    values, tail_values = values_of(joint, seed)
    expected = slow_advantages(joint, values, tail_values, 0.9, 0.7)
    np.testing.assert_allclose(advantages(joint, values, tail_values, 0.9, 0.7), expected, atol=1e-5)


def test_made_up_lives_hold_everything_that_may_happen():
    joints = [made_up(seed) for seed in range(20)]
    kinds = {"terminated": 0, "truncated": 0, "died": 0, "joined": 0, "several": 0}
    for joint in joints:
        inner = joint.truncated[:-1]
        kinds["terminated"] += joint.terminated.sum()
        kinds["truncated"] += inner.sum()
        kinds["died"] += (joint.alive & ~joint.survives).sum()
        goes_on = ~(joint.terminated | joint.truncated)
        kinds["joined"] += (~joint.alive & joint.survives & goes_on[..., None]).sum()
        kinds["several"] += ((joint.terminated | joint.truncated).sum(0) > 2).sum()
    assert min(kinds.values()) > 5, kinds


@pytest.mark.parametrize("way", WAYS)
def test_like_rllib(way):
    joint = made_up(3, **way)
    values, tail_values = values_of(joint, 3)
    gamma, lambda_ = 0.97, 0.9
    ours = advantages(joint, values, tail_values, gamma, lambda_)
    columns: dict[str, list[float]] = {name: [] for name in ("values", "rewards", "terminateds", "truncateds")}
    places = []
    for game, agent, steps in lives(joint):  # each life with RLlib's extra step at its end
        last, at = steps[-1], (steps, game, agent)
        is_over = over(joint, game, agent, last)
        places.append(at)
        final_value = 123.0 if is_over else value_after(joint, values, tail_values, game, agent, last)
        columns["values"] += [*values[at], final_value]
        columns["rewards"] += [*joint.rewards[at], 0.0]
        columns["terminateds"] += [*[False] * (len(steps) - 1), is_over, False]
        columns["truncateds"] += [*[False] * (len(steps) - 1), not is_over, False]
    arrays = {name: np.array(column, np.float32) for name, column in columns.items()}
    targets = compute_value_targets(**arrays, gamma=gamma, lambda_=lambda_)
    stock = targets - arrays["values"]
    begin = 0
    for at in places:
        length = len(at[0])
        np.testing.assert_allclose(ours[at], stock[begin : begin + length], atol=1e-5)
        begin += length + 1
    assert begin == len(stock)


@few
@given(SEEDS, UNIT)
def test_lambda_1_is_monte_carlo(seed, gamma):
    joint = made_up(seed)
    values, tail_values = values_of(joint, seed)
    ours = advantages(joint, values, tail_values, gamma, 1.0)
    for game, agent, steps in lives(joint):
        last = steps[-1]
        future = 0.0 if over(joint, game, agent, last) else value_after(joint, values, tail_values, game, agent, last)
        for step in reversed(steps):
            future = joint.rewards[step, game, agent] + gamma * future
            assert ours[step, game, agent] == pytest.approx(future - values[step, game, agent], abs=1e-4)


@few
@given(SEEDS, UNIT)
def test_lambda_0_is_one_step(seed, gamma):
    joint = made_up(seed)
    values, tail_values = values_of(joint, seed)
    after = next_values(joint.to_tensors(), torch.from_numpy(values), torch.from_numpy(tail_values)).numpy()
    expected = (joint.rewards + np.float32(gamma) * after - values) * joint.alive
    np.testing.assert_allclose(advantages(joint, values, tail_values, gamma, 0.0), expected, atol=1e-6)


@few
@given(SEEDS, UNIT, UNIT)
def test_absent_agents_get_nothing(seed, gamma, lambda_):
    joint = made_up(seed, deaths=0.3, joins=0.4)
    values, tail_values = values_of(joint, seed)
    ours = advantages(joint, values, tail_values, gamma, lambda_)
    assert (ours[~joint.alive] == 0).all()


@few
@given(SEEDS, st.sampled_from([0.0, 1e6, float("nan"), float("inf")]))
def test_absent_agents_influence_nobody(seed, nonsense):
    joint = made_up(seed, deaths=0.3, joins=0.4)
    values, tail_values = values_of(joint, seed)
    before = advantages(joint, values, tail_values, 0.9, 0.8)
    rewards = np.where(joint.alive, joint.rewards, np.float32(nonsense))
    now = advantages(replace(joint, rewards=rewards), np.where(joint.alive, values, 7e3), tail_values, 0.9, 0.8)
    # What an agent that joins with the next step is worth there is nobody's future now.
    np.testing.assert_array_equal(now, before)


@few
@given(SEEDS, st.data())
def test_nothing_comes_back_from_after_an_end(seed, data):
    joint = made_up(seed, steps=12, ends=0.3)
    values, tail_values = values_of(joint, seed)
    before = advantages(joint, values, tail_values, 0.9, 0.8)
    steps, games, _ = joint.shape
    last = [
        data.draw(st.sampled_from([*ends, steps - 1]))
        for ends in ((joint.terminated | joint.truncated)[:, game].nonzero()[0].tolist() for game in range(games))
    ]
    after = (np.arange(steps)[:, None] > last)[..., None]
    rng = np.random.default_rng(seed)
    changed = replace(joint, rewards=np.where(after, rng.normal(size=joint.shape), joint.rewards).astype(np.float32))
    other_values = np.where(after, rng.normal(size=joint.shape), values).astype(np.float32)
    later = joint.tail_steps > np.array(last)[joint.tail_games]
    now = advantages(changed, other_values, np.where(later[:, None], 99, tail_values), 0.9, 0.8)
    unchanged = np.broadcast_to(~after, joint.shape)
    np.testing.assert_array_equal(now[unchanged], before[unchanged])


@few
@given(SEEDS)
def test_order_of_games_and_agents_does_not_matter(seed):
    joint = made_up(seed)
    values, tail_values = values_of(joint, seed)
    rng = np.random.default_rng(seed)
    games, agents = rng.permutation(joint.shape[1]), rng.permutation(joint.shape[2])
    gamma, lambda_ = rng.random(3), rng.random(3)
    before = advantages(joint, values, tail_values, gamma, lambda_)
    now = advantages(
        shuffled(joint, games, agents),
        values[:, games][:, :, agents],
        tail_values[:, agents],
        gamma[agents],
        lambda_[agents],
    )
    np.testing.assert_array_equal(now, before[:, games][:, :, agents])


def test_each_agent_has_its_own_discount():
    joint = made_up(5)
    values, tail_values = values_of(joint, 5)
    gamma, lambda_ = np.array([0.0, 0.5, 1.0]), np.array([0.3, 1.0, 0.9])
    together = advantages(joint, values, tail_values, gamma, lambda_)
    for agent in range(3):
        alone = slow_advantages(joint, values, tail_values, gamma[agent], lambda_[agent])
        np.testing.assert_allclose(together[..., agent], alone[..., agent], atol=1e-5)


def test_padding_changes_nothing():
    short, long = made_up(1, steps=4, games=2), made_up(2, steps=11, games=3)
    values = [values_of(joint, 1) for joint in (short, long)]
    apart = [advantages(joint, *v, 0.9, 0.8) for joint, v in zip((short, long), values, strict=True)]
    joined = concatenate([short, long])
    padded = np.concatenate([np.pad(values[0][0], [(0, 7), (0, 0), (0, 0)], constant_values=5.0), values[1][0]], 1)
    together = advantages(joined, padded, np.concatenate([values[0][1], values[1][1]]), 0.9, 0.8)
    np.testing.assert_array_equal(together[:4, :2], apart[0])
    np.testing.assert_array_equal(together[4:, :2], 0)
    np.testing.assert_array_equal(together[:, 2:], apart[1])


def test_values_and_rewards_are_left_alone():
    joint = made_up(0)
    values, tail_values = values_of(joint, 0)
    copies = [x.copy() for x in (joint.rewards, values, tail_values)]
    advantages(joint, values, tail_values, 0.9, 0.8)
    for now, before in zip((joint.rewards, values, tail_values), copies, strict=True):
        np.testing.assert_array_equal(now, before)
