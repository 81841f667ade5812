"""Trained agents take what the environment gives, whatever form it has, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from env_registry.observations import Layout, ObservationLayout, PicturesLastLayout
from rllib_empathy.inference import Agent
from rllib_empathy.policies import KINDS
from rllib_empathy.policies.frozen import TrainedAgent
from rllib_empathy.policies.kind import checked_options
from tests.core.agents import facts_of

SPACES = {
    "picture": Box(0, 255, (6, 9, 3), np.uint8),
    "square": Box(0, 255, (6, 6, 6), np.uint8),
    "sensors": Dict({"camera": Box(0, 255, (3, 3, 3), np.uint8), "gear": Discrete(4, start=1)}),
    "pair": Tuple((Box(-1, 1, (2,)), MultiBinary(3))),
    "number": Discrete(5, start=2),
    "numbers": MultiDiscrete([3, 4]),
    "vector": Box(-np.inf, np.inf, (4,), np.float32),
}


def agent_for(layout: Layout | None, number: int = 0, start: int = 0, space: Any = None) -> Agent:
    """An agent that was never trained."""
    space = layout.space if layout is not None else space
    options = checked_options(KINDS["ppo"], {"network": {"hidden": (8,), "conv_filters": ()}})
    torch.manual_seed(0)
    module = KINDS["ppo"].Module(
        observation_space=space,
        action_space=Discrete(3, start=start),
        model_config=KINDS["ppo"].model_config(options, facts_of(space, 3), (number,)),
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    trained = TrainedAgent(
        "made up", number, "ppo", "world", type(module), module.model_config, space, module.action_space,
        module.get_state(), layout, (start, start),
    )  # fmt: skip
    return Agent(trained, greedy=True)


@pytest.mark.parametrize("name", SPACES)
def test_an_observation_is_acted_on_as_its_row_is(name):
    space = SPACES[name]
    space.seed(0)
    layout = ObservationLayout({"a": space, "b": space})
    agent = agent_for(layout, 1)
    assert agent.observation_space == space
    chosen = []
    for _ in range(30):
        observation = space.sample()
        row = np.zeros(layout.space.shape, layout.space.dtype)
        layout.write("b", observation, row)
        chosen.append(agent.act(observation))
        assert chosen[-1] == agent.act(row, source="world")
    assert len(set(chosen)) > 1


def test_an_observation_smaller_than_others_is_padded():
    layout = ObservationLayout({"a": Box(-1, 1, (2,)), "b": Box(-1, 1, (5,))})
    agent = agent_for(layout)
    seen = np.array([0.3, -0.4], np.float32)
    assert agent.act(seen) == agent.act(np.array([0.3, -0.4, 0, 0, 0], np.float32), source="world")
    with pytest.raises(ValueError, match=r"The observation of 'a' has shape \(5,\); needed is \(2,\)"):
        agent.act(np.zeros(5))


def test_actions_are_numbered_as_their_source_numbers_them():
    agent = agent_for(ObservationLayout({"a": SPACES["vector"], "b": SPACES["vector"]}), start=5)
    seen = np.array([1, 2, 3, 4], np.float32)
    assert agent.act(seen) == agent.act(seen, source="world") + 5


@pytest.mark.parametrize(
    ("name", "observation", "problem"),
    [
        ("picture", np.zeros((3, 6, 9), np.uint8), r"has shape \(3, 6, 9\); needed is \(6, 9, 3\)"),
        ("picture", np.full((6, 9, 3), 300), "holds 300; needed are whole numbers from 0 to 255"),
        ("picture", np.full((6, 9, 3), 0.5), "holds 0.5; needed are whole numbers"),
        ("sensors", {"camera": np.zeros((3, 3, 3), np.uint8)}, r"is \['camera'\]; needed is a dictionary .*'gear'"),
        ("sensors", {"camera": np.zeros((3, 3, 3), np.uint8), "gear": 0}, "part 'gear', holds 0; .* from 1 to 4"),
        ("sensors", np.zeros(31), r"an array of shape \(31,\); needed is a dictionary"),
        ("pair", (np.zeros(2),), "needed is a tuple of 2 parts"),
        ("pair", (np.array([0, np.inf]), np.zeros(3)), r"part 0, holds inf at \[1\]"),
        ("pair", (np.zeros(2), np.array([0, 2, 0])), "part 1, holds 2; .* from 0 to 1"),
        ("number", 7, "holds 7; needed are whole numbers from 2 to 6"),
        ("numbers", [0, 4], "holds 4; needed"),
        ("vector", np.array([0, np.nan, 0, 0]), r"holds nan at \[1\], which is no finite number"),
        ("vector", np.array([0, 1e300, 0, 0]), r"holds inf at \[1\], which is no finite number"),
        ("vector", np.array(list("abcd")), "is of type <U1; needed are numbers"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name, observation, problem):
    agent = agent_for(ObservationLayout({"a": SPACES[name], "b": SPACES[name]}))
    with pytest.raises(ValueError, match=problem):
        agent.act(observation)


def test_agents_of_batched_worlds_take_rows_and_pictures_of_single_games():
    names = ["agent_0", "agent_1"]
    agent = agent_for(PicturesLastLayout(Box(0, 1, (4, 5, 5), np.uint8), names))
    random = np.random.default_rng(0)
    for _ in range(20):
        row = random.integers(0, 2, (4, 5, 5), np.uint8)
        assert agent.act(row) == agent.act(row.transpose(1, 2, 0)) == agent.act(row, source="world")
    with pytest.raises(ValueError, match=r"has shape \(3,\), this agent knows \(4, 5, 5\)"):
        agent.act(np.zeros(3))
    cube = agent_for(PicturesLastLayout(Box(0, 1, (5, 5, 5), np.uint8), names))
    row = random.integers(0, 2, (5, 5, 5), np.uint8)
    with pytest.raises(ValueError, match="as many channels as rows and columns: say whether"):
        cube.act(row)
    assert cube.act(row, source="world") == cube.act(row.transpose(1, 2, 0), source="environment")


def test_without_a_known_environment_rows_are_taken():
    agent = agent_for(None, space=Box(-1, 1, (4,)))
    agent.act(np.zeros(4))
    with pytest.raises(ValueError, match="is not known"):
        agent.act(np.zeros(4), source="environment")
    with pytest.raises(ValueError, match="'source' = 'raw'"):
        agent.act(np.zeros(4), source="raw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds nan"):
        agent.act(np.full(4, np.nan))


def test_what_all_saw_and_did_may_come_by_name_or_in_order():
    layout = ObservationLayout({"a": SPACES["sensors"], "b": SPACES["sensors"]})
    agent = agent_for(layout, start=1)
    seen = {name: SPACES["sensors"].sample() for name in "ab"}
    by_name = agent._joint(seen, {"a": 3, "b": 1}, None, None)
    in_order = agent._joint(list(seen.values()), [3, 1], None, None)
    for one, other in zip(by_name, in_order, strict=True):
        np.testing.assert_array_equal(one, other)
    assert by_name[1].tolist() == [2, 0]
    rows, _, there = agent._joint({"b": seen["b"]}, {"b": 1}, None, None)
    assert there.tolist() == [False, True]
    assert not rows[0].any()
    for observations, actions, problem in (
        (seen, [1, 1], "both by name, or both in order"),
        (seen, {"a": 1, "c": 1}, "needed are both of everybody"),
        ([seen["a"]], [1], "1 agents came; this agent played among 2"),
    ):
        with pytest.raises(ValueError, match=problem):
            agent._joint(observations, actions, None, None)
