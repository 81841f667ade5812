"""Who plays whom, and what comes out."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from env_registry.parameters import SettingError
from rllib_empathy.cli import app
from rllib_empathy.experiments.display import tournament_table
from rllib_empathy.experiments.evaluation import evaluate, play
from rllib_empathy.experiments.players import player_entry, plays_at_once
from rllib_empathy.experiments.tournament import Tournament, all_against_all, kinds_that_play
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.policies import KINDS


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# -- players


@pytest.mark.parametrize(
    ("player", "entry"),
    [
        ("cooperator", {"kind": "cooperator"}),
        ("grim_trigger", {"kind": "memory_one", "strategy": "grim_trigger"}),
        ("{kind: memory_one, p_cd: 0.5}", {"kind": "memory_one", "p_cd": 0.5}),
        ({"kind": "random"}, {"kind": "random"}),
    ],
)
def test_players_by_name(player, entry):
    assert player_entry(player) == plays_at_once(player) == entry


def test_players_from_folders(tmp_path):
    assert player_entry(str(tmp_path)) == {"kind": "frozen", "checkpoint": str(tmp_path), "agent": 0}
    assert player_entry(f"{tmp_path}:3") == {"kind": "frozen", "checkpoint": str(tmp_path), "agent": 3}


@pytest.mark.parametrize(
    ("player", "message"),
    [
        ("coperator", r"Unknown player .*'coperator'\. Did you mean 'cooperator'"),
        ("runs/nowhere:1", r"there is no run folder or checkpoint 'runs/nowhere'"),
        ("{kind", "is no YAML mapping"),
        ("{a: 1}", "'kind' is missing"),
        ("lase", r"kind 'lase' have to be trained before .* does not learn: .*cooperator"),
    ],
)
def test_nobody_is_called_so(player, message):
    with pytest.raises(SettingError, match=message):
        plays_at_once(player)


# -- evaluate --with


def test_agents_that_are_not_replaced_play_as_before(earlier):
    plain = evaluate(earlier, 6, greedy=True)
    same = evaluate(earlier, 6, greedy=True, others={1: f"{earlier}:1"})
    assert plain.seats == ("lase", "ppo", "a2c", "cooperator")
    assert same.seats == ("lase", "frozen", "a2c", "cooperator")
    np.testing.assert_array_equal(same.returns, plain.returns)
    other = evaluate(earlier, 6, greedy=True, others={0: "random", 3: f"{earlier}:0"})
    assert other.seats == ("random", "ppo", "a2c", "frozen")
    assert any((other.events[name] != plain.events[name]).any() for name in plain.events)


def test_evaluation_with_others_from_the_command_line(earlier):
    answer = call("evaluate", earlier, "--episodes", 3, "--with", "0=defector", "--with", f"2={earlier}:1", "--json")
    assert [agent["kind"] for agent in json.loads(answer.stdout)["agents"]] == [
        "defector",
        "ppo",
        "frozen",
        "cooperator",
    ]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["4=random"], "There is no agent 4 to replace"),
        (["random"], "write N=PLAYER"),
        (["0=random", "0=defector"], "agent 0 is replaced twice"),
        (["0=ppo"], "have to be trained"),
        (["0=memory_one"], "do not know how to play 'stag_hunt'"),
    ],
)
def test_who_cannot_be_put_in_is_said(earlier, others, message):
    result = call("evaluate", earlier, *[part for other in others for part in ("--with", other)])
    assert result.exit_code == 2
    assert message in result.stderr


# -- tournaments


def test_returns_between_two_are_those_of_the_strategies():
    """Payoffs R, S, T, P = 1, -0.2, 1.2, 0 in 10 steps, worked out by hand."""
    names = ("cooperator", "defector", "tit_for_tat", "grim_trigger")
    config = EmpathyConfig().environment("iterated_prisoners_dilemma", env_config={"episode_length": 10})
    result = all_against_all(config, {name: player_entry(name) for name in names}, episodes=4)
    expected = np.array([[10, -2, 10, 10], [12, 0, 1.2, 1.2], [10, -0.2, 10, 10], [10, -0.2, 10, 10]])
    np.testing.assert_allclose(result.returns, expected, atol=1e-4)
    np.testing.assert_allclose(result.co_player_returns, expected.T, atol=1e-4)
    np.testing.assert_allclose(result.half_widths, 0, atol=1e-5)
    assert result.agents == names
    assert config.population_spec == "ppo", "the config stays as it is"


def test_a_focal_agent_is_alone_among_copies():
    """In snowdrift a defector never removes a drift, and whoever removes one pays for it."""
    config = EmpathyConfig().environment("snowdrift", env_config={"episode_length": 12})
    agents = {name: player_entry(name) for name in ("cooperator", "defector")}
    result = all_against_all(config, agents, episodes=20)
    mixed: list[Any] = [{"kind": "defector"}, {"kind": "cooperator", "count": 3}]
    assert result.returns[1, 1] == result.co_player_returns[1, 1] == 0
    assert result.returns[1, 0] > result.co_player_returns[1, 0] > 0
    assert result.returns[0, 1] < result.co_player_returns[0, 1]
    assert result.returns[0, 0] == result.co_player_returns[0, 0]
    same = play(config.copy().population(mixed, shuffle_seats=True), 20)
    assert same.returns[:, 0].mean() == pytest.approx(result.returns[1, 0])
    assert same.returns[:, 1:].mean() == pytest.approx(result.co_player_returns[1, 0])


def test_kinds_that_play_a_world():
    config = EmpathyConfig()
    everywhere = {name for name, kind in KINDS.items() if kind.learns and not kind.needs_whole_episodes} | {"random"}
    assert everywhere <= set(kinds_that_play(config.environment("snowdrift")))
    assert "memory_one" not in kinds_that_play(config)
    assert "memory_one" in kinds_that_play(config.environment("iterated_prisoners_dilemma"))


LESS = [
    part
    for value in (
        "env_runners.num_envs_per_env_runner=4",
        "env_runners.rollout_fragment_length=10",
        "stop={iterations: 2}",
        "evaluation={}",
    )
    for part in ("--set", value)
]


def test_every_kind_plays_if_nobody_is_named(ray_local, tmp_path):
    shorter = ["--set", "env_config.episode_length=10", "--episodes", 2, "--out", tmp_path]
    result = call("tournament", "iterated_prisoners_dilemma", *shorter, *LESS)
    assert result.exit_code == 0, result.output
    (folder,) = tmp_path.glob("tournament_iterated_prisoners_dilemma/*")
    played = json.loads((folder / "tournament.json").read_text())
    assert {name for name, kind in KINDS.items() if kind.learns} < set(played["agents"])
    assert np.isfinite(np.array(played["returns"], float)).all()


def test_a_table_of_many_agents_fits_a_terminal():
    names = tuple(f"social_{number}_agent" for number in range(12))
    returns = np.arange(144.0).reshape(12, 12)
    printed = StringIO()
    table = tournament_table(Tournament("a_world", names, 7, returns, 0.5 + 0 * returns, returns))
    Console(width=80, file=printed).print(table)
    shown = printed.getvalue()
    assert "…" not in shown
    for number, name in enumerate(names):
        (line,) = (line for line in shown.splitlines() if line.startswith(f"  {name} "))
        own, most, least = (f"{returns[number, other]:.2f}" for other in (number, 11, 0))
        assert line.split()[1:] == [own, "±0.50", most, "among", least, "among", f"{returns[number].mean():.2f}"]


def test_kinds_that_learn_are_trained_before_they_play(ray_local, tmp_path):
    arguments = ["ppo", "peer=cooperator", "--episodes", 2, "--json", "--out", tmp_path]
    result = call("tournament", "stag_hunt", *arguments, *LESS)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["agents"] == ["ppo", "peer"]
    assert np.shape(answer["returns"]) == np.shape(answer["half_widths"]) == (2, 2)
    (folder,) = tmp_path.glob("tournament_stag_hunt/*")
    assert json.loads((folder / "tournament.json").read_text()) == answer
    assert (folder / "heat_map.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(folder.glob("ppo/*/checkpoints/iteration_000002"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clean_up"], "Unknown world 'clean_up'"),
        (["cleanup", "coperator"], "Did you mean 'cooperator'"),
        (["cleanup", "random", "random"], "Two agents are called 'random'"),
        (["cleanup", "tit_for_tat"], "do not know how to play 'cleanup'"),
        (["cleanup", "lase", "--set", "env_config.num_agents=1"], "'num_agents'|need somebody"),
    ],
)
def test_wrong_tournaments_are_explained_before_anything_is_played(tmp_path, arguments, message):
    result = call("tournament", *arguments, "--out", tmp_path)
    assert result.exit_code == 2
    assert any(part in result.stderr for part in message.split("|"))
    assert list(tmp_path.iterdir()) == []


def test_an_agent_of_another_world_cannot_take_part(earlier, tmp_path):
    result = call("tournament", "cleanup", "random", f"hunter={earlier}:1", "--out", tmp_path)
    assert result.exit_code == 2
    assert "was trained in 'stag_hunt', this world is 'cleanup'" in result.stderr
