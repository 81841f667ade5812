"""What is logged of gifts, against loops over steps and agents."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.reshaping.gift_statistics import gift_statistics
from rllib_empathy.reshaping.gifting import gift_weights
from tests.core.made_up import made_up


def some_gifts(agents: int, seed: int) -> tuple[JointTrajectory, torch.Tensor]:
    random = np.random.default_rng(seed)
    joint = made_up(seed, agents=agents)
    rewards = (joint.rewards * (random.random(joint.shape) < 0.6)).astype(np.float32)
    events = {name: random.integers(0, 3, joint.shape).astype(np.uint8) for name in ("helped", "harmed")}
    joint = JointTrajectory(**{**vars(joint), "rewards": rewards, "events": events}).to_tensors()
    return joint, gift_weights(torch.from_numpy(random.uniform(-1, 1, (*joint.shape, agents)).astype(np.float32)))


def of_agents(joint: JointTrajectory, weights: torch.Tensor) -> list[dict[str, float]]:
    seats = {str(agent): [agent] for agent in range(joint.shape[2])}
    found = gift_statistics(joint, weights, seats)
    return [{name: value for (module, name), value in found.items() if module == agent} for agent in seats]


@pytest.mark.parametrize("agents", [2, 3, 5])
def test_like_loops(agents):
    joint, weights = some_gifts(agents, seed=agents)
    shares: dict[tuple[int, int], list[float]] = defaultdict(list)
    by_event: dict[tuple[int, str, bool], list[float]] = defaultdict(list)
    amounts = np.zeros((agents, agents))
    for step, game in np.ndindex(*joint.shape[:2]):
        for giver in range(agents):
            reward = joint.rewards[step, game, giver].item()
            for other in range(agents):
                if other == giver:
                    continue
                share = weights[step, game, giver, other].item()
                amounts[giver, other] += share * reward
                if reward == 0 or not joint.alive[step, game, giver]:
                    continue
                shares[giver, other].append(share)
                if joint.alive[step, game, other]:
                    for event, column in joint.events.items():
                        by_event[giver, event, bool(column[step, game, other] > 0)].append(share)
    amounts /= joint.shape[0] * joint.shape[1]
    for agent, found in enumerate(of_agents(joint, weights)):
        expected = {f"gift_given/agent_{agent}": amounts[agent].sum()}
        expected[f"gift_received/agent_{agent}"] = amounts[:, agent].sum()
        for other in set(range(agents)) - {agent}:
            expected[f"gift_share/agent_{agent}_to_{other}"] = np.mean(shares[agent, other])
            expected[f"gift_share_std/agent_{agent}_to_{other}"] = np.std(shares[agent, other])
            expected[f"gift_amount/agent_{agent}_to_{other}"] = amounts[agent, other]
        for event in joint.events:
            expected[f"gift_share_when/{event}"] = np.mean(by_event[agent, event, True])
            expected[f"gift_share_otherwise/{event}"] = np.mean(by_event[agent, event, False])
        assert found == pytest.approx(expected, abs=1e-5)


def test_given_is_received():
    joint, weights = some_gifts(4, seed=0)
    found = of_agents(joint, weights)
    given = sum(of_agent[f"gift_given/agent_{agent}"] for agent, of_agent in enumerate(found))
    received = sum(of_agent[f"gift_received/agent_{agent}"] for agent, of_agent in enumerate(found))
    assert given == pytest.approx(received, abs=1e-6)


def test_events_that_never_happened_are_left_out():
    joint, weights = some_gifts(3, seed=1)
    joint.events["helped"].zero_()
    joint.events["harmed"].fill_(1)
    for of_agent in of_agents(joint, weights):
        assert {name for name in of_agent if "/h" in name} == {"gift_share_otherwise/helped", "gift_share_when/harmed"}


def test_agents_that_share_networks_are_averaged():
    joint, weights = some_gifts(3, seed=2)
    alone = of_agents(joint, weights)
    found = gift_statistics(joint, weights, {"pair": [0, 2]})
    name = "gift_share_when/helped"
    assert found["pair", name] == pytest.approx((alone[0][name] + alone[2][name]) / 2)
    assert found["pair", "gift_given/agent_2"] == alone[2]["gift_given/agent_2"]
    assert ("pair", "gift_given/agent_1") not in found
