"""Acting: a whole population against its members asked one game at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.learning.groups import LearningGroup
from rllib_empathy.policies.networks import evaluate, stack_parameters
from rllib_empathy.population import Population
from rllib_empathy.sampling.acting import JointPolicy
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
from tests.core.agents import SMALL, module_of

GAMES = 6
TEAM = {"kind": "ppo", "count": 2, "shared": True}
POPULATIONS: dict[str, list[Any]] = {
    "alike": ["ppo", "ppo", "ppo"],
    "with random agents": ["random", "ppo", "random", "a2c", "ppo"],
    "shared": [TEAM, {**TEAM, "name": "others"}],
    "everything": ["a2c", TEAM, "random", {**TEAM, "kind": "random", "name": "noise"}, "ppo", "a2c"],
}
SHAPE, ACTIONS = (5,), 4


class Stage:
    """A population that acts in made-up games, and its members' modules."""

    def __init__(self, who: list[Any], memory: str = "none", games: int = GAMES, seed: int = 1) -> None:
        seats = sum(1 if isinstance(entry, str) else entry["count"] for entry in who)
        self.population = Population.of(who, seats, {"network": {**SMALL, "memory": memory}})
        self.modules = {
            member.module_id: module_of(member.kind.name, SHAPE, ACTIONS, number, memory=memory)
            for number, member in enumerate(self.population.members)
        }
        self.games, self.agents = games, seats
        self.generator = torch.Generator().manual_seed(seed)
        self.policy = JointPolicy(self.population, self.modules, games, self.generator)

    def learns(self, agent: int) -> bool:
        return self.module(agent).get_state() != {}

    def module(self, agent: int) -> Any:
        return self.modules[self.population.module_of_agent[agent]]

    def seen(self, step: int) -> np.ndarray:
        return np.random.default_rng(step).normal(size=(self.games, self.agents, *SHAPE)).astype(np.float32)

    def begun(self, step: int) -> np.ndarray:
        return np.random.default_rng(100 + step).random(self.games) < 0.3

    def log_policies(self, steps: int, agent: int, games: int = GAMES) -> np.ndarray:
        """`[steps, games, A]`, one game and step after another."""
        module, out = self.module(agent), np.full((steps, games, ACTIONS), -np.log(ACTIONS), np.float32)
        if not self.learns(agent):
            return out
        parameters = stack_parameters([module.actor_critic])
        for game in range(games):
            state = {name: value.unsqueeze(0) for name, value in module.initial_state(1).items()}
            for step in range(steps):
                if self.begun(step)[game]:
                    state = {name: torch.zeros_like(value) for name, value in state.items()}
                observation = torch.from_numpy(self.seen(step)[game, agent]).view(1, 1, 1, *SHAPE)
                with torch.no_grad():
                    answer = evaluate(module.architecture, parameters, observation, state)
                state = answer.state
                out[step, game] = torch.log_softmax(answer.logits, -1).flatten().numpy()
        return out

    def play(self, steps: int, explore: bool = True, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Actions and log-probabilities `[steps, B, N]`."""
        answers = [self.policy.act(self.seen(s), self.begun(s), explore) for s in range(first, first + steps)]
        return np.stack([actions for actions, _ in answers]), np.stack([log_probs for _, log_probs in answers])


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("memory", ["none", "lstm", "gru"])
@pytest.mark.parametrize("who", POPULATIONS)
def test_log_probs_are_those_of_the_actions(who, memory, explore):
    """With memory also: states carry on, and are cleared where games begin and nowhere else."""
    stage = Stage(POPULATIONS[who], memory)
    actions, log_probs = stage.play(5, explore)
    assert actions.dtype == np.int64
    assert log_probs.dtype == np.float32
    assert actions.shape == log_probs.shape == (5, GAMES, stage.agents)
    for agent in range(stage.agents):
        policies = stage.log_policies(5, agent)
        mine = actions[..., agent]
        expected = np.take_along_axis(policies, mine[..., None], -1)[..., 0]
        np.testing.assert_allclose(log_probs[..., agent], expected, atol=1e-5)
        if not explore and stage.learns(agent):
            np.testing.assert_array_equal(mine, policies.argmax(-1))


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def test_actions_are_as_frequent_as_the_policies_say():
    stage = Stage(["ppo", "ppo", "random", "a2c"], games=20_000)
    seen = np.broadcast_to(stage.seen(0)[:1], (stage.games, 4, *SHAPE)).copy()
    actions, _ = stage.policy.act(seen, np.zeros(stage.games, np.bool_), True)
    policies = [np.exp(stage.log_policies(1, agent, games=1)[0, 0]) for agent in range(4)]
    for agent, policy in enumerate(policies):
        counts = np.bincount(actions[:, agent], minlength=ACTIONS)
        assert chi_square(counts, policy * stage.games) < 25  # 3 degrees of freedom: once in 60,000 seeds
    for one, other in ((0, 1), (1, 2), (0, 3)):  # agents choose independently
        counts = np.bincount(actions[:, one] * ACTIONS + actions[:, other], minlength=ACTIONS**2)
        expected = np.outer(policies[one], policies[other]).ravel() * stage.games
        assert chi_square(counts, expected) < 55  # 15 degrees of freedom
    assert min(chi_square(np.bincount(actions[:, 0], minlength=ACTIONS), p * stage.games) for p in policies[1:]) > 100


@pytest.mark.parametrize("who", POPULATIONS)
def test_the_same_chance_the_same_actions(who):
    (first, _), (same, _), (other, _) = (Stage(POPULATIONS[who], seed=seed).play(5) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_the_most_probable_action_needs_no_chance():
    stage = Stage(["ppo", "a2c"])
    before = stage.generator.get_state()
    stage.play(3, explore=False)
    assert torch.equal(stage.generator.get_state(), before)


@pytest.mark.parametrize("memory", ["none", "lstm", "gru"])
def test_going_on_from_states(memory):
    going = Stage(POPULATIONS["everything"], memory)
    going.play(3)
    other = Stage(POPULATIONS["everything"], memory, seed=9)
    other.play(1)
    states = going.policy.states()
    copies = [{name: value.copy() for name, value in state.items()} for state in states]
    other.policy.set_states(states)
    other.generator.set_state(going.generator.get_state())
    for mine, others in zip(going.play(4, first=3), other.play(4, first=3), strict=True):
        np.testing.assert_array_equal(mine, others)
    np.testing.assert_equal(list(states), copies)


@pytest.mark.parametrize("memory", ["none", "lstm", "gru"])
def test_states_belong_to_their_agents_and_games(memory):
    stage = Stage(POPULATIONS["everything"], memory)
    assert all(not value.any() for state in stage.policy.states() for value in state.values())
    stage.play(3)
    states = stage.policy.states()
    assert len(states) == stage.agents
    for agent, state in enumerate(states):
        expected = {"none": set(), "lstm": {"h", "c"}, "gru": {"h"}}[memory] if stage.learns(agent) else set()
        assert set(state) == expected
        assert all(value.shape == (GAMES, 5) and value.any(1).all() for value in state.values())


@pytest.mark.parametrize("memory", ["none", "lstm"])
def test_who_else_plays_changes_nobodys_policy(memory):
    together = Stage(["a2c", "ppo", "ppo", "random", "a2c"], memory)
    actions, log_probs = together.play(4, explore=False)
    for agent in (0, 1, 2, 4):
        alone = Stage([together.population.members[agent].kind.name], memory)
        module = {alone.population.members[0].module_id: together.module(agent)}
        policy = JointPolicy(alone.population, module, GAMES, alone.generator)
        for step in range(4):
            seen = together.seen(step)[:, agent : agent + 1]
            mine, log_prob = policy.act(seen, together.begun(step), False)
            np.testing.assert_array_equal(mine[:, 0], actions[step, :, agent])
            np.testing.assert_allclose(log_prob[:, 0], log_probs[step, :, agent], atol=1e-5)


def test_new_weights_are_taken_over():
    stage = Stage(["ppo", "ppo"])
    _, before = stage.play(1, explore=False)
    with torch.no_grad():
        for parameter in stage.module(1).parameters():
            parameter.neg_()
    stage.policy.weights_changed()
    actions, now = stage.play(1, explore=False)
    np.testing.assert_array_equal(now[..., 0], before[..., 0])
    assert (np.abs(now[..., 1] - before[..., 1]) > 1e-6).any()
    np.testing.assert_array_equal(actions[0, :, 1], stage.log_policies(1, 1)[0].argmax(-1))


@pytest.mark.parametrize("mode", ["truncate_episodes", "complete_episodes"])
@pytest.mark.parametrize("memory", ["none", "lstm", "gru"])
@pytest.mark.parametrize(
    "world",
    [
        "iterated_prisoners_dilemma",
        "coin_game",
        "tests.worlds.small_games:FadingWorld",
        "tests.worlds.small_games:unlike_game",
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_acted_is_what_learns(world, memory, mode):
    """The Learner's networks give the log-probabilities that the runner noted, fragment after fragment."""
    seats = 2 if world in ("iterated_prisoners_dilemma", "coin_game") else 3
    lengths = {"tests.worlds.small_games:unlike_game": "length"}
    config = (
        EmpathyConfig()
        .environment(world, env_config={lengths.get(world, "episode_length"): 5})
        .population([{"kind": "ppo", "network": {**SMALL, "memory": memory}}] * seats)
        .env_runners(num_envs_per_env_runner=4, rollout_fragment_length=7, batch_mode=mode)
        .debugging(seed=1)
    )
    config.validate()
    runner = JointEnvRunner(config=config, worker_index=0)
    kinds: Any = runner.population.kinds()
    for number in range(3):
        (joint,) = (trajectory.to_tensors() for trajectory in runner.sample())
        assert joint.shape[1:] == (4, seats)
        assert number == 0 or mode == "complete_episodes" or not joint.starts[0].all()
        for module_id, kind in kinds.items():
            group = LearningGroup((kind,), (runner.module[module_id],))
            parameters = stack_parameters([runner.module[module_id].actor_critic])
            architecture = runner.module[module_id].architecture
            seen = group.gather(joint.observations)
            with torch.no_grad():
                answer = evaluate(architecture, parameters, seen, group.state(joint), group.starts(joint))
            policies = torch.log_softmax(answer.logits, -1)
            log_probs = policies.gather(-1, group.gather(joint.actions).unsqueeze(-1)).squeeze(-1)
            torch.testing.assert_close(log_probs, group.gather(joint.log_probs), atol=1e-5, rtol=1e-4)
