"""Populations: who sits where, with which options, and what is wrong with impossible ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from env_registry import WORLDS, register
from env_registry.parameters import SettingError
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.policies import KINDS
from rllib_empathy.population import Member, Population
from tests.core.agents import READY
from tests.worlds.small_games import FadingWorld

few = settings(max_examples=50, deadline=None)


def seats(population: Population) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(member.module_id, member.kind.name, member.agents) for member in population.members]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("ppo", [("ppo_0", "ppo", (0,)), ("ppo_1", "ppo", (1,)), ("ppo_2", "ppo", (2,))]),
        (["a2c", "random", "a2c"], [("a2c_0", "a2c", (0,)), ("random_1", "random", (1,)), ("a2c_2", "a2c", (2,))]),
        ([{"kind": "ppo", "count": 3, "shared": True}], [("ppo", "ppo", (0, 1, 2))]),
        (
            [{"kind": "ppo", "count": 2, "name": "learner"}, "random"],
            [("learner_0", "ppo", (0,)), ("learner_1", "ppo", (1,)), ("random_2", "random", (2,))],
        ),
        (
            ["ppo", {"kind": "ppo", "count": 2, "shared": True, "name": "team"}],
            [("ppo_0", "ppo", (0,)), ("team", "ppo", (1, 2))],
        ),
        (({"kind": "random", "count": 3},), [(f"random_{agent}", "random", (agent,)) for agent in range(3)]),
    ],
)
def test_seats_and_module_ids(spec, expected):
    assert seats(Population.of(spec, 3)) == expected


def test_options_come_from_defaults_and_entries():
    defaults: dict[str, Any] = {"lr": 0.5, "clip_param": 0.3, "gamma": 0.7}
    spec: list[Any] = [
        {"kind": "ppo", "lr": 0.1},
        "a2c",
        "random",
        {"kind": "a2c", "gamma": 0.2, "network": {"hidden": [4]}},
    ]
    ppo, a2c, _, last = (member.options for member in Population.of(spec, 4, defaults).members)
    assert (ppo.lr, ppo.clip_param, ppo.gamma) == (0.1, 0.3, 0.7)
    assert (a2c.lr, a2c.gamma) == (0.5, 0.7)
    assert not hasattr(a2c, "clip_param")
    assert (last.lr, last.gamma, last.network.hidden) == (0.5, 0.2, (4,))


def test_kinds_know_their_seats():
    spec: list[Any] = ["random", {"kind": "ppo", "count": 2, "shared": True, "lr": 0.3}]
    population = Population.of(spec, 3)
    kinds = population.kinds()
    assert list(kinds) == ["random_0", "ppo"]
    assert (kinds["ppo"].module_id, kinds["ppo"].agents, kinds["ppo"].options.lr) == ("ppo", (1, 2), 0.3)
    assert type(kinds["ppo"]) is KINDS["ppo"]
    assert population.kinds()["ppo"] is not kinds["ppo"]
    assert population.module_of_agent == {0: "random_0", 1: "ppo", 2: "ppo"}


ENTRIES = st.lists(
    st.one_of(
        st.sampled_from(READY),
        st.fixed_dictionaries(
            {"kind": st.sampled_from(READY), "count": st.integers(1, 4)},
            optional={"shared": st.booleans()},
        ),
    ),
    min_size=1,
    max_size=5,
)


@few
@given(ENTRIES)
def test_every_agent_plays_exactly_once(entries):
    named = [
        {**({"kind": entry} if isinstance(entry, str) else entry), "name": f"entry{number}"}
        for number, entry in enumerate(entries)
    ]
    total = sum(entry.get("count", 1) for entry in named)
    population = Population.of(named, total)
    assert [agent for member in population.members for agent in member.agents] == list(range(total))
    assert sorted(population.module_of_agent) == list(range(total))
    assert len({member.module_id for member in population.members}) == len(population.members)
    assert all(isinstance(member, Member) for member in population.members)
    for entry, first in zip(named, _firsts(named), strict=True):
        mine = {population.module_of_agent[first + place] for place in range(entry.get("count", 1))}
        assert len(mine) == (1 if entry.get("shared") else entry.get("count", 1))
        assert {m.kind.name for m in population.members if m.module_id in mine} == {entry["kind"]}


def _firsts(entries: list[dict]) -> list[int]:
    counts = [entry.get("count", 1) for entry in entries]
    return [sum(counts[:number]) for number in range(len(counts))]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pppo", r"Unknown kind of agent 'pppo'\. Did you mean 'ppo'\? Known: a2c, .*ppo"),
        (["ppo"], r"fills 1 seats, the world has 2\. Change the entries' counts or num_agents"),
        ([], "fills 0 seats, the world has 2"),
        (["ppo"] * 3, "fills 3 seats, the world has 2"),
        ([{"kind": "ppo", "count": 3}], "fills 3 seats, the world has 2"),
        ([{"count": 2}], r"population entry 0:\n  - 'kind' is missing"),
        (["ppo", {"kind": "ppo", "count": 0}], r"population entry 1:\n  - 'count' = 0: .*greater than or equal to 1"),
        ([{"kind": "ppo", "count": "many"}, "ppo"], r"population entry 0:\n  - 'count' = 'many'"),
        ([{"kind": "ppo", "shared": "perhaps"}, "ppo"], "'shared' = 'perhaps'"),
        ([{"kind": "ppo", "name": "a/b"}, "ppo"], "'name' = 'a/b'"),
        ([{"kind": 3}, "ppo"], "'kind' = 3"),
        ([3, "ppo"], r"population is \[3, 'ppo'\]; needed is .* a list of names and of entries \{kind"),
        ({"kind": "ppo", "count": 2}, r"population is \{'kind': 'ppo', 'count': 2\}; needed is .* a list"),
        (7, "population is 7; needed is"),
        ([{"kind": "ppo", "lambda": 0.9}, "ppo"], r"kind 'ppo'.*\n.*'lambda'.*Did you mean 'lambda_'"),
        ([{"kind": "ppo", "gamma": 2}, "ppo"], r"kind 'ppo'.*\n.*'gamma' = 2: .*less than or equal to 1"),
        ([{"kind": "random", "lr": 0.1}, "ppo"], r"kind 'random'.*\n.*Unknown key 'lr'"),
        ([{"kind": "ppo", "network": {"hiden": [3]}}, "ppo"], r"'network\.hiden'|'hiden'"),
        ([{"kind": "ppo", "shared": True}, {"kind": "ppo", "shared": True}], r"appear twice: ppo\. Give .* names"),
        (["ppo", {"kind": "a2c", "name": "ppo_0", "shared": True}], r"appear twice: ppo_0\."),
    ],
)
def test_impossible_populations_say_what_is_wrong(spec, message):
    with pytest.raises(SettingError, match=message):
        Population.of(spec, 2)


def test_defaults_are_checked_too():
    with pytest.raises(SettingError, match="'gamma' = -1"):
        Population.of("ppo", 2, {"gamma": -1})


def test_a_population_is_that_of_the_world_which_is_meant_now():
    """Names may be registered again, and callables of one name come and go."""
    for seats in (2, 3):
        register("here_today", lambda num_games=1, seats=seats: FadingWorld(num_games, num_agents=seats))
        try:
            assert len(EmpathyConfig().environment("here_today").resolved_population().members) == seats
        finally:
            del WORLDS["here_today"]
