"""M-FOS in the coin game: what is remembered, what is learned from, and the command that shows all pairs."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from typer.testing import CliRunner

import env_registry
from rllib_empathy.cli import app
from rllib_empathy.policies.networks import evaluate
from rllib_empathy.theory.coins_pairs import NAMES, MetaCoins, play_all, play_seed
from rllib_empathy.theory.coins_summary import MEASURES, measures
from rllib_empathy.theory.meta_game import Course, play
from rllib_empathy.theory.meta_players import SHAPING, Memories, MetaAgent, NaiveLearners, Times
from rllib_empathy.theory.stacked_ppo import Acted, Agents, Rows

TINY = MetaCoins(meta_episodes=1, meta_games=2, games=2, episodes=2)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coin_games(games: int, seed: int = 0) -> Any:
    world = env_registry.make("coin_game", games, preset="reciprocator")
    world.reset(seed)
    return world


class RandomPlayer:
    """Acts at random, and notes what it is told."""

    def __init__(self, seed: int) -> None:
        self.random = generator(seed)
        self.told: list[Any] = []

    def begin(self):
        self.told.append("begin")

    def act(self, observations, times):
        self.told.append(times)
        return torch.randint(5, (len(observations),), generator=self.random)

    def earn(self, rewards):
        pass

    def end_episode(self, meta_episode_ends):
        self.told.append(meta_episode_ends)


# -- what is played


def test_players_are_told_where_in_both_episodes_they_are():
    player = RandomPlayer(0)
    play(coin_games(1), (player, RandomPlayer(1)), 2)
    times = [each for each in player.told if isinstance(each, Times)]
    assert times == [Times(step / 32, (episode + step / 32) / 2) for episode in range(2) for step in range(32)]
    assert [each for each in player.told if not isinstance(each, Times)] == ["begin", False, True]


def test_returns_follow_from_coins():
    course = play(coin_games(64), (RandomPlayer(0), RandomPlayer(1)), 2)
    assert course.returns.shape == (2, 2)
    expected = course.own_coins + course.other_coins - 2 * course.other_coins[:, ::-1]
    np.testing.assert_allclose(course.returns, expected, atol=1e-6)
    assert course.own_coins.min() > 1


def test_measures_are_those_of_the_last_quarter():
    returns, own, other = np.zeros((3, 8, 2))
    returns[-2:], own[-2:], other[-2:] = [3, -1], [6, 1], [2, 3]
    found = measures(Course(returns, own, other))
    assert found == dict(zip(MEASURES, (2.0, 3.0, -1.0, 7 / 12, 1 / 4), strict=True))


# -- what is learned from


def memories(random: np.random.Generator, agents: int, games: int, steps: int) -> Memories:
    found = Memories()
    for _ in range(steps):
        values, rewards, observations = (
            torch.from_numpy(random.normal(size=(agents, games))).float() for _ in range(3)
        )
        acted = Acted(torch.zeros(agents, games, dtype=torch.int64), torch.zeros(agents, games), values, {})
        state = {"h": observations.unsqueeze(-1).clone()}
        found.note(observations.unsqueeze(-1), observations.unsqueeze(-1), state, acted)
        found.rewards.append(rewards)
    return found


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), episodes=st.integers(1, 3), far_sighted=st.booleans(), discount=st.floats(0.5, 1))
def test_returns_cross_the_ends_of_inner_episodes_only_where_they_shall(seed, episodes, far_sighted, discount):
    steps, games = 4 * episodes, 3
    kept = memories(np.random.default_rng(seed), 2, games, steps)
    learning = SHAPING._replace(discount=discount, trace=0.9, reward_scale=0.5)
    rows = kept.rows(learning, steps if far_sighted else 4, piece=4)
    for agent in range(2):
        for game in range(games):
            rewards = [0.5 * float(each[agent, game]) for each in kept.rewards]
            values = [float(each.values[agent, game]) for each in kept.acted]
            for t in range(steps):
                end = steps if far_sighted else t - t % 4 + 4
                expected = 0.0
                for n in range(t, end):
                    after = values[n + 1] if n + 1 < end else 0.0
                    expected += (0.9 * discount) ** (n - t) * (rewards[n] + discount * after - values[n])
                place = agent, t % 4, t // 4 * games + game
                assert float(rows.advantages[place]) == pytest.approx(expected, abs=1e-5)
                assert float(rows.targets[place]) == pytest.approx(expected + values[t], abs=1e-5)


def test_pieces_begin_with_the_memory_of_then():
    kept = memories(np.random.default_rng(0), 2, 3, 6)
    rows = kept.rows(SHAPING, 6, piece=2)
    assert rows.observations.shape == (2, 2, 9, 1)
    np.testing.assert_array_equal(rows.state["h"], rows.observations[:, 0])
    np.testing.assert_array_equal(rows.observations[:, 1, 3:6, 0], kept.seen[3][0][..., 0])


def test_rewarded_actions_become_more_likely_for_each_agent_by_itself():
    """Two agents are paid for different actions; the second is paid otherwise in a trial of its own."""
    learners = [NaiveLearners(coin_games(1), 2, generator(0)) for _ in range(2)]
    after = []
    for learner, paid in zip(learners, ((1, 3), (1, 4)), strict=True):
        learner.begin()
        observations, inputs = torch.ones(2, 256, 4, 3, 3), torch.ones(2, 256, 1)
        for _ in range(5):
            acted = learner.agents.act(observations, inputs, {})
            gains = (acted.actions == torch.tensor(paid).unsqueeze(1)).float()
            columns = observations, inputs, acted.actions, acted.log_probs, gains, gains
            learner.agents.improve(Rows({}, *(column.unsqueeze(1) for column in columns)))
        logits = evaluate(
            learner.agents.architecture,
            learner.agents.parameters,
            observations[:, None, :1],
            inputs=inputs[:, None, :1],
        ).logits
        assert logits[:, 0, 0].argmax(-1).tolist() == list(paid)
        after.append(learner.agents.parameters)
    for name, first in after[0].items():
        assert torch.equal(first[0], after[1][name][0])
        assert not torch.equal(first[1], after[1][name][1])


def test_a_naive_learner_learns_from_its_own_games_only(monkeypatch):
    """The rewards of one meta-game are others in the second trial: nothing else changes but that game's learner."""
    after = []
    for factor in (1.0, -1.0):
        world, random, player = coin_games(6), generator(0), RandomPlayer(1)
        learner = NaiveLearners(world, 3, random)
        of_games = torch.tensor([1.0] * 4 + [factor] * 2)
        earn = learner.earn
        monkeypatch.setattr(learner, "earn", lambda rewards, earn=earn, each=of_games: earn(each * rewards))
        play(world, (learner, player), 1)
        after.append(learner.agents.parameters)
    for name, first in after[0].items():
        assert torch.equal(first[:2], after[1][name][:2])
        assert not torch.equal(first[2], after[1][name][2])


def test_naive_learners_begin_meta_episodes_anew_and_learn_within():
    world = coin_games(64)
    learner = NaiveLearners(world, 4, generator(0))
    courses = [play(world, (learner, RandomPlayer(episode)), 10) for episode in range(2)]
    for course in courses:
        assert course.returns[0, 0] < 3
        assert course.returns[-3:, 0].mean() > course.returns[0, 0] + 8
        taken = course.own_coins + course.other_coins
        assert taken[-3:, 0].mean() > 2.5 * taken[-3:, 1].mean()


# -- M-FOS agents


def test_an_agent_remembers_inner_episodes_and_forgets_meta_episodes(monkeypatch):
    world = coin_games(2)
    agent = MetaAgent(world, 2, generator(0))
    states: list[torch.Tensor] = []
    act = agent.act

    def watched(observations, times):
        states.append(agent.state["h"].clone())
        return act(observations, times)

    monkeypatch.setattr(agent, "act", watched)
    for _ in range(2):
        play(world, (agent, RandomPlayer(0)), 2)
    empty = [not state.any() for state in states]
    assert [step for step, is_empty in enumerate(empty) if is_empty] == [0, 64]


def test_an_agent_sees_what_it_did_and_earned_and_its_value_alone_the_time():
    agent = MetaAgent(coin_games(2), 2, generator(0))
    agent.begin()
    observations = torch.zeros(2, 4, 3, 3)
    agent.act(observations, Times(0.0, 0.0))
    agent.earn(torch.tensor([1.0, -2.0]))
    agent.act(observations, Times(0.25, 0.125))
    (_, first), (_, second) = agent._memories.seen
    np.testing.assert_allclose(first[0], [[0, 0, 0, 0, 0, 0, 1, 1, 1]] * 2)
    actions = agent._memories.acted[0].actions[0]
    for game, reward in enumerate((1, -2)):
        np.testing.assert_allclose(second[0, game], [*np.eye(5)[actions[game]], reward, 0, 0.75, 0.875])
    assert (agent.agents.architecture.inputs, agent.agents.architecture.critic_inputs) == (7, 2)


@pytest.mark.parametrize("far_sighted", [True, False])
def test_an_agent_learns_when_a_meta_episode_ends_unless_it_is_frozen(far_sighted):
    world = coin_games(4)
    agent = MetaAgent(world, 4, generator(0), far_sighted=far_sighted)
    before = {name: value.detach().clone() for name, value in agent.agents.parameters.items()}

    def changed() -> list[bool]:
        return [not torch.equal(before[name], value) for name, value in agent.agents.parameters.items()]

    agent.begin()
    agent.end_episode(False)
    agent.frozen = True
    play(world, (agent, RandomPlayer(0)), 2)
    assert not any(changed())
    agent.frozen = False
    play(world, (agent, RandomPlayer(0)), 3)
    assert all(changed())


@pytest.mark.parametrize("episodes", [1, 2])
def test_only_who_is_far_sighted_learns_from_later_inner_episodes(episodes):
    after = []
    for far_sighted in (True, False):
        world = coin_games(4)
        agent = MetaAgent(world, 4, generator(0), far_sighted=far_sighted)
        play(world, (agent, RandomPlayer(0)), episodes)
        after.append(agent.agents.parameters["policy.weight"])
    assert torch.equal(*after) == (episodes == 1)


def test_who_begins_as_another_goes_on_alone():
    world, random = coin_games(4), generator(0)
    first, second = (MetaAgent(world, 4, random) for _ in range(2))
    second.agents.copy_from(first.agents)
    known = {name: value.detach().clone() for name, value in first.agents.parameters.items()}
    assert all(torch.equal(value, second.agents.parameters[name]) for name, value in known.items())
    play(world, (second, RandomPlayer(0)), 2)
    assert all(torch.equal(value, first.agents.parameters[name]) for name, value in known.items())
    assert not any(torch.equal(value, second.agents.parameters[name]) for name, value in known.items())


# -- all pairs


def test_the_same_seed_gives_the_same_and_progress_is_told_in_order():
    told: list[tuple[float, str]] = []
    courses = play_all(TINY, (3, 4), lambda share, name: told.append((share, name)))
    assert list(courses) == list(NAMES)
    assert [share for share, _ in told] == pytest.approx([n / 6 for n in range(1, 7)])
    assert [name for _, name in told] == list(NAMES[1:]) * 2
    for name, course in play_seed(TINY, 4).items():
        np.testing.assert_array_equal(np.stack(course), np.stack(courses[name][1]))
        assert not np.array_equal(np.stack(course), np.stack(courses[name][0]))


def test_shapers_go_on_together_and_all_are_frozen_when_they_are_shown(monkeypatch):
    done: list[str] = []
    for method, call in (("improve", Agents.improve), ("copy_from", Agents.copy_from)):

        def noted(agents, other, method=method, call=call):
            if agents.architecture.options.memory != "none":
                done.append(method)
            call(agents, other)

        monkeypatch.setattr(Agents, method, noted)
    play_seed(TINY, 0)
    assert done == ["improve", "improve", "copy_from", "copy_from", "improve", "improve"]


def test_the_command_prints_all_pairs_and_draws_them(tmp_path):
    sizes = ["--meta-episodes", "1", "--meta-games", "1", "--games", "2", "--inner-episodes", "1", "--seeds", "2"]
    answer = CliRunner().invoke(app, ["theory", "mfos", "--out", str(tmp_path), *sizes], env={"COLUMNS": "200"})
    assert answer.exit_code == 0, answer.output
    assert re.findall(r"^ +(\S+ / \S+) +-?\d", answer.output, re.MULTILINE) == list(NAMES)
    assert "nan" not in answer.output
    assert imread(tmp_path / "coins_meta.png").std() > 0.05
