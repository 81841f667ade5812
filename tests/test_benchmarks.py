"""The benchmarks run, at a tiny scale, and their contenders do the same; nothing here asserts a speed."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import memory, networks
from benchmarks.contenders import Batch, plain
from benchmarks.measure import BENCHMARKS, row, seconds
from benchmarks.plain_ppo import PlainPPO, Settings
from benchmarks.profile import OTHER, PARTS, Profile
from benchmarks.run import main, number, shares
from env_registry import SettingError, make

PART_NAMES = {OTHER, *(part for part, _, _ in PARTS)}


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.usefixtures("ray_local")
def test_benchmark_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = main(json=True, only=[name], scale="tiny")
    assert rows, name
    assert json.loads(capsys.readouterr().out) == rows
    assert len({found["name"] for found in rows}) == len(rows)
    for found in rows:
        assert math.isfinite(found["figure"])
        assert found["unit"]
        assert (found["target"] == "") == (found["reached"] is None)
        if "growth" not in found["name"]:
            assert found["figure"] > 0
        assert found["ratio"] is None or found["ratio"] > 0
        assert set(found["parts"]) <= PART_NAMES


def test_every_documented_benchmark_is_there() -> None:
    expected = (
        "memory soak like_agents convolutions agents games runners traffic social reciprocators training worlds bridges"
    )
    expected += " gifting pettingzoo"
    assert set(BENCHMARKS) == set(expected.split())


def test_table_shows_every_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    found = [row("first", 12345.0, "m", 0.5, at_most=1), row("second", 0.5, "s", parts={"world": 0.25, "acting": 0.75})]
    monkeypatch.setitem(BENCHMARKS, "made_up", lambda scale: found)
    main(only=["made_up"])
    shown = capsys.readouterr().out
    for text in ("first", "12,345", "<= 1", "yes", "second", "world 25%, acting 75%"):
        assert text in shown


def test_unknown_benchmark_is_named() -> None:
    with pytest.raises(SettingError, match=r"'wordls'.*worlds"):
        main(only=["wordls"])


@pytest.mark.parametrize(
    ("options", "target", "reached"),
    [
        ({}, "", None),
        ({"ratio": 3.0, "at_most": 4}, "<= 4", True),
        ({"ratio": 5.0, "at_most": 4}, "<= 4", False),
        ({"ratio": 0.5, "at_least": 0.8}, ">= 0.8", False),
        ({"at_least": 1.5}, ">= 1.5", True),
    ],
)
def test_targets_are_judged_by_the_ratio_or_else_the_figure(
    options: dict[str, Any], target: str, reached: bool | None
) -> None:
    found = row("name", 2.0, "unit", **options)
    assert (found.target, found.reached) == (target, reached)


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    clock = iter(range(100))
    contenders = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = seconds(contenders, repeats=2, warm_up=1, clock=lambda: float(next(clock)))
    assert calls == ["a", "b", "a", "b", "b", "a"]
    assert times == {"a": 1.0, "b": 1.0}


def test_numbers_and_shares_are_short() -> None:
    assert [number(value) for value in (1234567.8, 12.345, 0.01234)] == ["1,234,568", "12.3", "0.0123"]
    assert shares({"acting": 0.6, "world": 0.001}) == "acting 60%"


def test_profile_finds_the_part_that_works() -> None:
    world = make("cleanup", 256)
    world.reset(seed=0)
    actions = np.zeros((256, 4), np.int64)

    def step_for_a_while() -> None:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            world.step(actions)

    profile = Profile(step_for_a_while)
    profile()
    found = profile.shares()
    assert sum(found.values()) == pytest.approx(1)
    assert next(iter(found)) == "world"


def test_ways_to_evaluate_like_agents_agree() -> None:
    architecture, agents, observations = networks.example(6)
    for agent in agents:
        for parameter in agent.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    expected = networks.loop(architecture, agents, 6)(observations)
    for name, way in networks.WAYS.items():
        for found, wanted in zip(way(architecture, agents, 6)(observations), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4, msg=name)


def test_plain_loop_computes_generalised_advantages() -> None:
    """Against the sum of the definition, over fragments with games that end in the middle."""
    loop = PlainPPO(make("cleanup", 3, num_agents=2, episode_length=4), 6, Settings(gamma=0.9, lambda_=0.8))
    loop.sample()
    assert loop.ended.any()
    advantages = loop.advantages()
    for agent, game in np.ndindex(2, 3):
        for first in range(6):
            total, weight = 0.0, 1.0
            for step in range(first, 6):
                last = bool(loop.ended[agent, step, game]) or step == 5
                after = loop.next_values if last else loop.values.roll(-1, 1)
                error = loop.rewards + 0.9 * after - loop.values
                total += weight * float(error[agent, step, game])
                weight *= 0.9 * 0.8
                if last:
                    break
            assert float(advantages[agent, first, game]) == pytest.approx(total, abs=1e-5)


def test_plain_loop_learns() -> None:
    """With a reward for one action, all agents come to take it."""
    torch.manual_seed(0)
    loop = plain(Batch(16, 10), agents=2)
    for _ in range(30):
        loop.sample()
        loop.rewards[:] = (loop.actions == 3).float()
        loop.learn()
    assert (loop.actions == 3).float().mean() > 0.6


def test_growth_is_of_the_end_over_the_settled_beginning() -> None:
    assert memory.growth([0, 50, *[100] * 8]) == 0
    assert memory.growth([float(value) for value in range(100)]) == 70
