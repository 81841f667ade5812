"""What environments answer that do not quite keep to PettingZoo's parallel API: accepted where it harms nobody, else refused."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from pettingzoo import ParallelEnv

import env_registry
from env_registry import SettingError
from env_registry.contract import first_unfinite
from env_registry.pettingzoo_world import PettingZooWorld

BOX = Box(0, 1, (3,), np.float32)


class Loose(ParallelEnv):
    """A game of five steps; `changes` say what its answers are made into: (answer of reset or step) -> answer."""

    metadata: ClassVar = {"name": "loose"}
    render_mode = None

    def __init__(self, at_reset=lambda answer: answer, at_step=lambda answer: answer, space=BOX, seen=None) -> None:
        self.possible_agents = ["a", "b"]
        self.at_reset, self.at_step, self.space = at_reset, at_step, space
        self.seen = np.zeros(3, np.float32) if seen is None else seen

    def observation_space(self, agent):
        return self.space

    def action_space(self, agent):
        return Discrete(2)

    def look(self):
        return dict.fromkeys(("a", "b"), self.seen)

    def reset(self, seed=None, options=None):
        self.clock, self.agents = 0, ["a", "b"]
        return self.at_reset((self.look(), {"a": {}, "b": {}}))

    def step(self, actions):
        self.clock += 1
        over = self.clock == 5
        flags = {"a": False, "b": False}, dict.fromkeys("ab", over)
        if over:
            self.agents = []
        return self.at_step((self.look(), {"a": 0.5, "b": 1}, *flags, {"a": {}, "b": {}}))


class WithoutPossibleAgents(Loose):
    def __init__(self) -> None:
        super().__init__()
        del self.possible_agents
        self.agents = ["a", "b"]


class WithoutSeed(Loose):
    def reset(self):  # type: ignore[override]
        return super().reset()


class SetOfAgents(Loose):
    def reset(self, seed=None, options=None):
        answer = super().reset()
        self.agents = set(self.agents)  # type: ignore[assignment]
        return answer


class StaysInAgents(Loose):
    def step(self, actions):
        answer = super().step(actions)
        self.agents = ["a", "b"]
        return answer


def replaced(number, value):
    """Makes an answer into one with another part; a function is applied to the part."""
    return lambda answer: tuple(
        (value(part) if callable(value) else value) if place == number else part for place, part in enumerate(answer)
    )


def each(change):
    return lambda part: {agent: change(value) for agent, value in part.items()}


HARMLESS: dict[str, Any] = {
    "as it should be": Loose,
    "no possible_agents": WithoutPossibleAgents,
    "reset without a seed": WithoutSeed,
    "reset without infos": partial(Loose, at_reset=lambda answer: answer[0]),
    "reset as a list": partial(Loose, at_reset=list),
    "step as a list": partial(Loose, at_step=list),
    "infos are None": partial(Loose, at_reset=replaced(1, None), at_step=replaced(4, None)),
    "rewards in arrays": partial(Loose, at_step=replaced(1, each(lambda reward: np.array([reward])))),
    "rewards of NumPy's": partial(Loose, at_step=replaced(1, each(np.float32))),
    "flags of NumPy's": partial(
        Loose, at_step=lambda answer: replaced(3, each(np.bool_))(replaced(2, each(np.array))(answer))
    ),
    "flags as numbers": partial(Loose, at_step=replaced(3, each(int))),
    "a set of agents": SetOfAgents,
    "ended agents stay": StaysInAgents,
    "lists as observations": partial(Loose, seen=[0.0, 0.0, 0.0]),
    "beyond the bounds": partial(Loose, seen=np.full(3, 2, np.float32)),
}


@pytest.mark.parametrize("wrappers", [None, ["frame_stack_v1"], ["pad_observations_v0"]], ids=str)
@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_deviations_play_like_the_real_thing(name, wrappers):
    world = PettingZooWorld(HARMLESS[name], num_games=2, wrappers=wrappers)
    shown = world.reset(seed=0)
    assert shown[..., -1].tolist() == [[2.0 if name == "beyond the bounds" else 0.0] * 2] * 2
    for clock in range(1, 11):
        step = world.step(np.zeros((2, 2), int))
        assert step.rewards.tolist() == [[0.5, 1.0]] * 2
        assert step.truncated.tolist() == [clock % 5 == 0] * 2
        assert not step.terminated.any()


REFUSED: dict[str, tuple[Any, str]] = {
    "four in a step": (
        partial(Loose, at_step=lambda answer: answer[:4]),
        "step 1 of the game of seed .*a tuple of 4.*needed are five",
    ),
    "an array as step": (
        partial(Loose, at_step=lambda answer: np.zeros(3)),
        r"an array of shape \(3,\).*needed are five",
    ),
    "observations in a list": (
        partial(Loose, at_step=replaced(0, [1, 2])),
        "a list of 2 .*as observations; needed is a dict",
    ),
    "no rewards": (partial(Loose, at_step=replaced(1, None)), "None as rewards; needed is a dictionary"),
    "a reward None": (
        partial(Loose, at_step=replaced(1, each(lambda _: None))),
        "the reward of 'a' is None; needed is one",
    ),
    "a reward as text": (partial(Loose, at_step=replaced(1, each(str))), "the reward of 'a' is str '0.5'"),
    "two rewards": (partial(Loose, at_step=replaced(1, each(lambda _: np.zeros(2)))), "'a' is an array of shape"),
    "a flag as text": (partial(Loose, at_step=replaced(2, each(str))), "terminations say str 'False' of 'a'"),
    "a flag None": (partial(Loose, at_step=replaced(3, each(lambda _: None))), "truncations say None of 'a'"),
    "__all__": (partial(Loose, at_step=replaced(2, {"__all__": True})), "flags '__all__', as RLlib's MultiAgentEnv"),
    "infos in a list": (partial(Loose, at_step=replaced(4, [{}, {}])), "infos are a list of 2"),
    "nothing from reset": (partial(Loose, at_reset=lambda _: None), "the start of the game.*reset answers with None"),
    "an array from reset": (partial(Loose, at_reset=lambda _: np.zeros(3)), "reset answers with an array"),
    "leaves without a flag": (
        partial(Loose, at_step=replaced(3, {})),
        "'a' is no longer in `agents`, but is flagged neither",
    ),
    "another shape": (partial(Loose, seen=np.zeros(4)), r"'a' has the shape \(4,\), needed is \(3,\)"),
    "one number for three": (partial(Loose, seen=np.zeros(1)), r"'a' has the shape \(1,\), needed is \(3,\)"),
    "a number": (partial(Loose, seen=1.0), r"'a' has the shape \(\), needed is \(3,\)"),
    "text": (partial(Loose, seen="abc"), "'a' is str 'abc', which is no array of numbers"),
    "ragged": (partial(Loose, seen=[[1], [1, 2]]), "'a' is no array: its rows have unlike lengths"),
    "beyond discrete": (partial(Loose, space=Discrete(5), seen=5), r"'a' is int 5, which is not in Discrete\(5\)"),
    "below discrete": (partial(Loose, space=Discrete(5), seen=-1), "is int -1, which is not in"),
    "beyond multi-discrete": (
        partial(Loose, space=MultiDiscrete([2, 3]), seen=np.array([0, 3])),
        "is not in MultiDisc",
    ),
    "not binary": (partial(Loose, space=MultiBinary(2), seen=np.array([0, 2])), "is not in MultiBinary"),
    "a part missing": (partial(Loose, space=Dict({"x": BOX}), seen={"y": np.zeros(3)}), r"'a' \['x'\] is missing"),
    "a part of another shape": (
        partial(Loose, space=Dict({"x": BOX, "y": Discrete(2)}), seen={"x": np.zeros(2), "y": 0}),
        r"\['x'\] has the shape \(2,\)",
    ),
    "no dictionary": (partial(Loose, space=Dict({"x": BOX}), seen=np.zeros(3)), "needed is a dictionary"),
    "a short tuple": (partial(Loose, space=Tuple([BOX, BOX]), seen=(np.zeros(3),)), "needed is a tuple of 2"),
    "a tuple's part": (partial(Loose, space=Tuple([BOX, Discrete(2)]), seen=(np.zeros(3), 2)), r"\[1\] is int 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_deviations_are_refused_with_what_came_and_what_is_needed(name):
    env, message = REFUSED[name]

    def named(**config):
        return env(**config)

    named.__name__ = "my_world"

    def play():
        world = PettingZooWorld(named, num_games=2)
        world.reset(seed=0)
        for _ in range(5):
            world.step(np.zeros((2, 2), int))

    with pytest.raises(SettingError, match=f"(?s)my_world.*{message}"):
        play()


class Changed(Loose):
    """Has one attribute changed, or taken away."""

    def __init__(self, **changes) -> None:
        super().__init__()
        for name, value in changes.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"possible_agents": {"a", "b"}}, "are a set, .* whose order is another one in each process"),
        ({"possible_agents": []}, r"are \[\]; needed is a list of one name or more"),
        ({"possible_agents": ["a", "a"]}, "all unlike"),
        ({"possible_agents": None}, "does not say who may play: give it a list `possible_agents`"),
        ({"observation_space": {"a": BOX}}, "does not say the observation_space of 'a'"),
        (
            {"action_space": lambda agent: 2},
            "The action_space of 'a' in Changed is int 2; needed is a space of Gymnasium's",
        ),
    ],
)
def test_who_plays_in_which_spaces_has_to_be_said(changes, message):
    with pytest.raises(SettingError, match=message):
        env_registry.make(Changed, **changes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("when", [0, 3, 5])
def test_observations_have_to_be_finite(value, when):
    class Broken(Loose):
        def look(self):
            seen = super().look()
            if self.clock == when and self.broken:
                seen["b"] = np.array([0, value, 0])
            return seen

        def reset(self, seed=None, options=None):
            self.broken = seed is not None and seed % 2 == 0
            return super().reset()

    world = PettingZooWorld(Broken, num_games=8)

    def play():
        world.reset(seed=0)
        for _ in range(6):
            world.step(np.zeros((8, 2), int))

    with pytest.raises(ValueError, match=rf"Broken shows 'b' .* \(number \[1\].* in game \d, step {when}: .*finite"):
        play()
    assert world.get_state()["clock"].max() in (when, 0)


def test_the_first_number_that_is_none_is_found():
    array = np.zeros((2, 3, 4), np.float32)
    assert first_unfinite(array) is None
    array[1, 2, 0] = np.nan
    assert first_unfinite(array) == (1, 2, 0)
    assert first_unfinite(np.zeros(3, np.uint8)) is None


def test_a_batched_world_of_ones_own_is_looked_through_as_well():
    from rllib_empathy import EmpathyConfig
    from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
    from tests.worlds.small_games import FadingWorld

    class Broken(FadingWorld):
        def setup(self):
            self.observation_space = Box(0, 9, (2,), np.float32)

        def observe(self, out, games):
            out[games] = 0
            out[(self.clock == 2) & games, 1, 0] = np.nan

    config = EmpathyConfig().environment(Broken).population("random").env_runners(num_envs_per_env_runner=2)
    runner = JointEnvRunner(config=config)
    with pytest.raises(
        ValueError, match=r"Broken shows agent 1 nan \(number \[0\].* in game 0, step 2 of the fragment"
    ):
        runner.sample(num_timesteps=10)
    with pytest.raises(ValueError, match="step 2 of the fragment"):
        JointEnvRunner(config=config).sample(num_timesteps=4)  # at its end
