"""RLlib's episodes become joint trajectories and back, whoever joins late, dies or waits."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.spaces.utils import flatten
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.spaces.space_utils import batch

from env_registry.observations import ObservationLayout
from env_registry.parameters import SettingError
from rllib_empathy.stock.episodes import EpisodeAdapter
from rllib_empathy.stock.seats import Seat
from tests.stock.episodes import ACTIONS, OBSERVATION, MadeUpGame, made_up_game, record, seats


def check(game: MadeUpGame, first: int, chunk: MultiAgentEpisode, number: int, joint, steps) -> None:
    """Everything that the trajectory says of a chunk that begins with step `first`."""
    until = first + len(chunk)
    alive = np.zeros(joint.shape[::2], bool)
    for agent in range(4):
        name = f"agent_{agent}"
        own = [step for step in game.steps.get(name, []) if first < step.end <= until]
        rows = [max(step.begin - first, 0) for step in own]
        assert rows == [row for at in steps if (at.game, at.agent) == (number, agent) for row in at.rows]
        alive[rows, agent] = True
        for row, step in zip(rows, own, strict=True):
            np.testing.assert_array_equal(joint.observations[row, number, agent], step.seen)
            assert joint.actions[row, number, agent] == step.action
            assert joint.log_probs[row, number, agent] == -0.5 * step.action
            assert joint.rewards[row, number, agent] == np.float32(step.reward)
            if not (game.terminated and step.end == game.length):
                assert joint.survives[row, number, agent] == (not step.last)
        present = bool(own) and own[-1].end == until and not own[-1].last
        follower = next((step.seen for step in game.steps.get(name, []) if step.begin == until), game.final.get(name))
        if present:
            np.testing.assert_array_equal(joint.tail_observations[number, agent], follower)
    np.testing.assert_array_equal(joint.alive[:, number], alive)
    assert not joint.observations[:, number][~alive].any()
    assert not joint.rewards[:, number][~alive].any()
    assert joint.starts[:, number].nonzero()[0].tolist() == [0] * (first == 0)
    last, over = len(chunk) - 1, until == game.length
    assert joint.terminated[:, number].nonzero()[0].tolist() == [last] * (over and game.terminated)
    assert joint.truncated[:, number].nonzero()[0].tolist() == [last] * (not (over and game.terminated))
    assert (joint.tail_steps[number], joint.tail_games[number]) == (last, number)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    games=st.integers(1, 3),
    cuts=st.sets(st.integers(1, 11), max_size=3),
    idle=st.sampled_from([0.0, 0.3, 0.8]),
    silent=st.booleans(),
)
def test_every_step_is_where_it_happened(seed, games, cuts, idle, silent):
    made_up = [made_up_game(seed + number, idle=idle) for number in range(games)]
    # RLlib loses the step of an agent that dies unseen in the first step of a chunk.
    chunks = [record(game, [] if silent else sorted(cuts), silent) for game in made_up]
    together = [chunk for game in chunks for chunk in game]
    joint, steps = EpisodeAdapter(seats()).joint(together)
    assert joint.shape == (max(map(len, together)), len(together), 4)
    number = 0
    for game, own in zip(made_up, chunks, strict=True):
        first = 0
        for chunk in own:
            check(game, first, chunk, number, joint, steps)
            first += len(chunk)
            number += 1


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.sets(st.integers(1, 11), max_size=2))
def test_rewards_go_back_to_the_steps_that_they_are_of(seed, cuts):
    episodes = record(made_up_game(seed), sorted(cuts))
    adapter = EpisodeAdapter(seats())
    joint, steps = adapter.joint(episodes)
    returns = [episode.get_return() for episode in episodes]
    changed = adapter.with_rewards(episodes, steps, joint.rewards + 0.25 * joint.observations[..., 0])
    for before, after in zip(episodes, changed, strict=True):
        for agent, own in before.agent_episodes.items():
            expected = own.get_rewards() + 0.25 * own.get_observations()[:-1, 0] if len(own) else own.get_rewards()
            np.testing.assert_allclose(after.agent_episodes[agent].get_rewards(), expected, rtol=1e-6)
            assert after.agent_episodes[agent].rewards.lookback == own.rewards.lookback
    assert [episode.get_return() for episode in episodes] == returns


def test_episodes_that_are_lists_yet_are_taken_too():
    episode = MultiAgentEpisode(agent_to_module_mapping_fn=lambda agent, _: agent.replace("agent", "policy"))
    episode.add_env_reset(observations={"agent_0": OBSERVATION.sample()})
    for action in range(3):
        episode.add_env_step({"agent_0": OBSERVATION.sample()}, {"agent_0": action}, {"agent_0": 0.5})
    adapter = EpisodeAdapter(seats(1))
    joint, steps = adapter.joint([episode])
    assert joint.actions[:, 0, 0].tolist() == [0, 1, 2]
    [changed] = adapter.with_rewards([episode], steps, 2 * joint.rewards)
    assert changed.agent_episodes["agent_0"].get_rewards() == [1.0, 1.0, 1.0]
    assert episode.agent_episodes["agent_0"].get_rewards() == [0.5, 0.5, 0.5]


def test_integer_rewards_are_refused():
    episode = MultiAgentEpisode(agent_to_module_mapping_fn=lambda agent, _: "policy_0")
    episode.add_env_reset(observations={"agent_0": OBSERVATION.sample()})
    episode.add_env_step({"agent_0": OBSERVATION.sample()}, {"agent_0": 1}, {"agent_0": 3})
    with pytest.raises(SettingError, match=r"'agent_0' was paid .*int64.*float\(reward\)"):
        EpisodeAdapter(seats(1)).joint([episode.to_numpy()])


def test_unknown_agents_and_changing_policies_are_refused():
    episodes = record(made_up_game(3))
    with pytest.raises(SettingError, match="possible_agents"):
        EpisodeAdapter(seats(4)[1:]).joint(episodes)
    wrong = [Seat(seat.agent_id, "other", OBSERVATION, ACTIONS) for seat in seats()]
    with pytest.raises(SettingError, match="'policy_0' in one episode and by 'other'"):
        EpisodeAdapter(wrong).joint(episodes)


def test_observations_of_another_size_are_refused():
    wide = [Seat(seat.agent_id, seat.module_id, Box(0, 1, (3,)), ACTIONS) for seat in seats()]
    with pytest.raises(SettingError, match=r"observations of agent 'agent_0' do not fit.*connector"):
        EpisodeAdapter(wide).joint(record(made_up_game(3)))


SPACES = {
    "box": Box(-1, 1, (2, 3)),
    "bytes": Box(0, 255, (4, 5, 3), np.uint8),
    "discrete": Discrete(5, start=2),
    "dict": Dict(place=Box(0, 9, (2,)), kind=Discrete(3), more=Tuple([MultiBinary(2), MultiDiscrete([2, 3])])),
}


@pytest.mark.parametrize("name", SPACES)
def test_many_observations_are_written_as_one_by_one(name):
    space = SPACES[name]
    space.seed(1)
    layout = ObservationLayout({"a": space})
    seen = [space.sample() for _ in range(6)]
    one_by_one, together, flat = np.zeros((3, 6, *layout.space.shape), layout.space.dtype)
    for row, observation in enumerate(seen):
        layout.write("a", observation, one_by_one[row])
    layout.write_rows("a", batch(seen), together)
    layout.write_rows("a", np.stack([flatten(space, observation) for observation in seen]), flat)
    np.testing.assert_array_equal(together, one_by_one)
    np.testing.assert_array_equal(flat, one_by_one)
