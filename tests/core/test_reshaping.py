"""Gifts and reshaped rewards against sums written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from env_registry.parameters import Settings
from rllib_empathy.joint import JointTrajectory
from rllib_empathy.learning.rewards import reshape
from rllib_empathy.policies import KINDS, AgentKind
from rllib_empathy.reshaping.gifting import transfer
from tests.core.made_up import made_up, shuffled

few = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**31)
SIZES = st.integers(1, 5)


def weights_of(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


@few
@given(SEEDS, SIZES, SIZES, SIZES)
def test_transfer_is_the_sum_over_givers(seed, steps, games, agents):
    rewards = torch.randn(steps, games, agents, generator=torch.Generator().manual_seed(seed))
    weights = weights_of(seed, steps, games, agents, agents)
    received = transfer(rewards, weights)
    for t, b, i in np.ndindex(steps, games, agents):
        expected = sum(float(weights[t, b, j, i]) * float(rewards[t, b, j]) for j in range(agents))
        assert received[t, b, i].item() == pytest.approx(expected, abs=1e-5)


@few
@given(SEEDS, SIZES, SIZES)
def test_transfer_conserves_the_sum_and_keeps_with_one_hot_rows(seed, games, agents):
    rewards = torch.randn(games, agents, generator=torch.Generator().manual_seed(seed))
    total = transfer(rewards, weights_of(seed, games, agents, agents)).sum(-1)
    torch.testing.assert_close(total, rewards.sum(-1), atol=1e-5, rtol=1e-5)
    assert torch.equal(transfer(rewards, torch.eye(agents)), rewards)
    order = torch.randperm(agents, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(transfer(rewards, torch.eye(agents)[order])[:, order], rewards)


class TestOptions(Settings):
    """None."""

    __test__ = False


class Giver(AgentKind):
    """Gives shares that depend on what it saw."""

    def gift_weights(self, joint: JointTrajectory, agent: int) -> Tensor | None:
        return weights_of(7 + agent, *joint.shape)


class Doubter(AgentKind):
    """Feels half of what it received and the square of what all others got from the world."""

    def reward(self, joint: JointTrajectory, agent: int, received: Tensor) -> Tensor:
        others = joint.rewards.sum(-1) - joint.rewards[..., agent]
        return 0.5 * received + others**2


class Both(Giver, Doubter):
    """Gives and doubts."""


def kind(of: type[AgentKind], agent: int) -> Any:
    return of(f"agent_{agent}", TestOptions(), (agent,))


def reshaped(joint: JointTrajectory, kinds: Sequence[AgentKind]) -> Tensor:
    return reshape(joint, {kind.module_id: kind for kind in kinds}, {}).rewards


@pytest.mark.parametrize("name", ["ppo", "a2c", "random", "cooperator", "defector", "memory_one"])
def test_selfish_kinds_feel_the_worlds_rewards(name):
    joint = made_up(1).to_tensors()
    selfish = [KINDS[name](f"{name}_{agent}", KINDS[name].Options(), (agent,)) for agent in range(3)]
    assert torch.equal(reshaped(joint, selfish), joint.rewards)


def test_group_oriented_agents_feel_the_groups_mean():
    joint = made_up(1).to_tensors()
    kinds = [
        KINDS["go"]("go_0", KINDS["go"].Options(), (0,)),
        KINDS["ppo"]("ppo", KINDS["ppo"].Options(), (1, 2)),
    ]
    rewards = reshaped(joint, kinds)
    torch.testing.assert_close(rewards[..., 0], joint.rewards.sum(-1) / 3)
    assert torch.equal(rewards[..., 1:], joint.rewards[..., 1:])


def test_blind_gifts_are_even_shares_to_those_who_are_there():
    joint = made_up(1).to_tensors()
    options = KINDS["blind_gift"].Options.model_validate({"share": 0.3})
    kinds = [KINDS["blind_gift"](f"blind_{agent}", options, (agent,)) for agent in range(3)]
    weights = kinds[1].gift_weights(joint, 1)
    assert weights is not None
    for step, game in np.ndindex(*joint.shape[:2]):
        expected = [0.15 * bool(joint.alive[step, game, other]) for other in (0, 2)]
        np.testing.assert_allclose(weights[step, game, [0, 2]], expected, atol=1e-7)
        np.testing.assert_allclose(weights[step, game, 1], 1 - sum(expected), atol=1e-6)


@pytest.mark.parametrize(
    "kinds", [(Giver, AgentKind, AgentKind), (Doubter, Doubter, AgentKind), (Both, Giver, Doubter), (Both, Both, Both)]
)
def test_gifts_first_then_feelings(kinds):
    numpy_joint = made_up(2)
    joint = numpy_joint.to_tensors()
    before = joint.rewards.clone()
    rewards = reshaped(joint, [kind(of, agent) for agent, of in enumerate(kinds)])
    assert torch.equal(joint.rewards, before)
    for t, b in np.ndindex(*joint.shape[:2]):
        extrinsic = numpy_joint.rewards[t, b].astype(float)
        received = np.zeros(3)
        for giver, of in enumerate(kinds):
            shares = np.eye(3)[giver]
            if issubclass(of, Giver):
                shares = weights_of(7 + giver, *joint.shape)[t, b].numpy()
            received += shares * extrinsic[giver]
        for agent, of in enumerate(kinds):
            expected = received[agent]
            if issubclass(of, Doubter):
                expected = 0.5 * expected + (extrinsic.sum() - extrinsic[agent]) ** 2
            assert rewards[t, b, agent].item() == pytest.approx(expected, abs=1e-4)


class Fond(AgentKind):
    """Gives by what agents have, not by where they sit."""

    def gift_weights(self, joint: JointTrajectory, agent: int) -> Tensor | None:
        return (joint.rewards - joint.rewards[..., agent : agent + 1]).abs().neg().softmax(-1)


@few
@given(SEEDS)
def test_order_of_agents_and_games_does_not_matter(seed):
    joint = made_up(seed)
    rng = np.random.default_rng(seed)
    games, agents = rng.permutation(4), rng.permutation(3)
    kinds = [Fond, Doubter, AgentKind]
    before = reshaped(joint.to_tensors(), [kind(of, agent) for agent, of in enumerate(kinds)])
    others = [kind(kinds[old], new) for new, old in enumerate(agents)]
    now = reshaped(shuffled(joint, games, agents).to_tensors(), others)
    torch.testing.assert_close(now, before[:, games][:, :, agents], atol=1e-6, rtol=1e-5)
