"""Agents that follow scripts: they do what the world's scripted players do, beside agents that learn."""

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ray.rllib.core.columns import Columns

import env_registry
from env_registry import WORLDS, SettingError
from env_registry.cleanup import Cleanup
from env_registry.matrix_game import MatrixGame
from env_registry.scripted import SCRIPTED, MemoryOnePolicy, scripted_policy
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.learning.rewards import reshape
from rllib_empathy.policies import KINDS
from rllib_empathy.policies.kind import checked_options
from rllib_empathy.policies.random_agent import Random
from rllib_empathy.policies.scripted import STRATEGIES, MemoryOneOptions, _finite_log
from rllib_empathy.population import Population
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner

SCRIPTS = [(world, kind) for world in SCRIPTED for kind in ("cooperator", "defector")]
OUTCOMES = torch.eye(5, dtype=torch.uint8)  # CC, CD, DC, DD, start
COLUMNS = ("observations", "actions", "log_probs", "rewards", "alive", "starts", "tail_observations")


def config_of(world: Any, population: Any, **env_config: Any) -> EmpathyConfig:
    return (
        EmpathyConfig()
        .environment(world, env_config=env_config)
        .population(population)
        .env_runners(num_envs_per_env_runner=6, rollout_fragment_length=12)
        .training(network={"hidden": (6,), "conv_filters": (4,)})
        .debugging(seed=3, log_level="ERROR")
    )


def runner(world: Any, population: Any, **env_config: Any) -> JointEnvRunner:
    config = config_of(world, population, **env_config)
    config.validate()
    return JointEnvRunner(config=config, worker_index=0)


def modules_of(world: Any, population: Any, **env_config: Any) -> list[Any]:
    module = config_of(world, population, **env_config).get_multi_rl_module_spec(inference_only=True).build()
    return [module[module_id] for module_id in module.keys()]  # noqa: SIM118 - iterating gives no ids


def act(modules: list[Any], observations: torch.Tensor, seed: int = 0, explore: bool = True) -> Any:
    """Actions of modules that share a group, from observations `[G, M, ...]`."""
    of = type(modules[0])
    parameters = of.stacked(modules, observations.shape[1])
    return of.act(modules, parameters, observations, {}, torch.Generator().manual_seed(seed), explore)


def memory_one(count: int = 1, **options: Any) -> list[Any]:
    module = modules_of("matrix_game", [{"kind": "memory_one", **options}, "random"])[0]
    return [module] * count


# -- scripts of the worlds


@pytest.mark.parametrize("world", WORLDS)
def test_every_world_has_its_scripts(world):
    agents = env_registry.make(world).num_agents
    config_of(world, [{"kind": "cooperator"}, {"kind": "defector", "count": agents - 1}]).validate()


@pytest.mark.parametrize(("name", "kind"), SCRIPTS)
def test_actions_are_those_of_the_scripted_player(name, kind):
    """Two agents in four games; what a script draws comes from one generator, seeded by a draw of ours."""
    modules = modules_of(name, kind)[:2]
    assert modules[0].group == modules[1].group
    assert modules[0].group != modules_of(name, "random")[0].group
    world = env_registry.make(name, 4)
    observations = world.reset(1)
    player = scripted_policy(name, kind, world)
    ours, twin = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    rng = np.random.default_rng(0)
    for _ in range(30):
        seen = torch.from_numpy(observations[:, :2]).transpose(0, 1)
        for explore in (True, False):
            answer = type(modules[0]).act(modules, {}, seen, {}, ours, explore)
            seed = int(torch.randint(2**63 - 1, (), generator=twin))
            flat = np.concatenate([observations[:, 0], observations[:, 1]])
            expected = player.act(flat, np.random.default_rng(seed)).reshape(2, 4)
            np.testing.assert_array_equal(answer.actions.numpy(), expected)
            assert answer.actions.dtype == torch.int64
            assert answer.log_probs.shape == (2, 4)
            assert answer.state == {}
        observations = world.step(rng.integers(world.action_space.n, size=(4, world.num_agents))).observations


def test_scripts_follow_the_worlds_parameters():
    """A river of one row: the cooperator looks for waste in the map's first row and not in the second."""
    for rows, upward in ((1, True), (2, False)):
        cleaner = modules_of("cleanup", "cooperator", river_rows=rows)[0]
        seen = torch.zeros(1, 50, *cleaner.observation_space.shape, dtype=torch.uint8)
        seen[:, :, 0, 2, 2] = 1
        seen[:, :, -1, 0] = 1  # the map ends two rows above the agent
        actions = set(act([cleaner], seen).actions.flatten().tolist())
        assert actions == ({0} if upward else {2, 3})


def test_scripts_draw_from_the_generator_only():
    modules = modules_of("cleanup", "cooperator")
    nothing = torch.zeros(4, 16, *modules[0].observation_space.shape, dtype=torch.uint8)
    nothing[:, :, 0, 2, 2] = nothing[:, :, -1, 0] = 1
    torch.manual_seed(0)
    first = act(modules, nothing, seed=1).actions
    torch.manual_seed(1)
    assert torch.equal(first, act(modules, nothing, seed=1).actions)
    assert not torch.equal(first, act(modules, nothing, seed=2).actions)
    assert len({tuple(row.tolist()) for row in first}) == 4, "agents of a group draw for themselves"


def test_the_world_may_be_given_as_its_class():
    named, given = modules_of("cleanup", "defector")[0], modules_of(Cleanup, "defector")[0]
    assert named.group == given.group


@pytest.mark.parametrize("population", [["cooperator", "random"], [{"kind": "memory_one", "p_cd": 0.25}, "random"]])
def test_rllib_sees_the_same_policy(population):
    module = modules_of("iterated_prisoners_dilemma", population)[0]
    logits = module.forward_inference({Columns.OBS: OUTCOMES})[Columns.ACTION_DIST_INPUTS]
    assert torch.isfinite(logits).all()
    policy = torch.softmax(logits, -1)
    expected = torch.tensor([1.0] * 5 if population[0] == "cooperator" else [1, 0.25, 1, 0, 1])
    torch.testing.assert_close(policy, torch.stack([expected, 1 - expected], -1))
    answer = act([module], OUTCOMES.unsqueeze(0))
    found = policy.log().gather(1, answer.actions[0].unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(answer.log_probs[0], found)


def test_rllib_sees_actions_of_a_script_with_chance():
    module = modules_of("cleanup", "cooperator")[0]
    seen = torch.zeros(40, *module.observation_space.shape, dtype=torch.uint8)
    seen[:, 0, 2, 2] = seen[:, -1, 0] = 1
    policy = torch.softmax(module.forward_inference({Columns.OBS: seen})[Columns.ACTION_DIST_INPUTS], -1)
    assert set(policy.argmax(1).tolist()) == {2, 3}
    assert torch.equal(policy.max(1).values, torch.ones(40))


def test_logits_of_certainties_are_finite():
    logits = _finite_log(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(torch.softmax(logits, -1), torch.tensor([[1.0, 0.0], [0.5, 0.5]]))


# -- memory-one agents


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=5, max_size=5), st.integers(0, 99), st.booleans())
def test_certain_probabilities_are_certain(probabilities, seed, explore):
    names = ("p_cc", "p_cd", "p_dc", "p_dd", "p_start")
    module = memory_one(**dict(zip(names, probabilities, strict=True)))
    answer = act(module, OUTCOMES.repeat(40, 1).unsqueeze(0), seed, explore)
    expected = MemoryOnePolicy(probabilities).act(OUTCOMES.numpy(), np.random.default_rng(0))
    np.testing.assert_array_equal(answer.actions.view(40, 5), np.tile(expected, (40, 1)))
    assert not answer.log_probs.any()


@pytest.mark.parametrize("explore", [True, False])
def test_agents_cooperate_as_often_as_they_should(explore):
    """Two agents of one group, each with its own probabilities."""
    entries = [
        {"kind": "memory_one", "p_cc": 0.9, "p_cd": 0.1, "p_dc": 0.5, "p_dd": 0.25, "p_start": 0.75},
        {"kind": "memory_one", "p_cc": 0.2, "p_cd": 0.8, "p_dc": 0.3, "p_dd": 0.6, "p_start": 0.4},
    ]
    modules = modules_of("matrix_game", entries)
    assert modules[0].group == modules[1].group
    draws = 4000
    answer = act(modules, OUTCOMES.repeat(draws, 1).expand(2, -1, -1), explore=explore)
    expected = np.array([[entry[f"p_{last}"] for last in ("cc", "cd", "dc", "dd", "start")] for entry in entries])
    cooperated = answer.actions.view(2, draws, 5) == 0
    frequency = cooperated.float().mean(1).numpy()
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(frequency - expected) < 4.5 * deviation).all()
    probability = np.where(cooperated, expected[:, None], 1 - expected[:, None])
    np.testing.assert_allclose(answer.log_probs.view(2, draws, 5), np.log(probability), rtol=1e-5)
    again = act(modules, OUTCOMES.repeat(draws, 1).expand(2, -1, -1), explore=explore)
    assert torch.equal(answer.actions, again.actions)


RULES: dict[str, Any] = {
    "tit_for_tat": lambda own, other: other,
    "generous_tit_for_tat": lambda own, other: other or pytest.approx(1 / 3),
    "win_stay_lose_shift": lambda own, other: own == other,
    "grim_trigger": lambda own, other: own and other,
    "always_cooperate": lambda own, other: True,
    "always_defect": lambda own, other: False,
}
"""Whether each strategy cooperates after the own and the other's last action, true where it was cooperation."""


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_do_what_their_names_say(name):
    options: Any = checked_options(KINDS["memory_one"], {"strategy": name})
    found = [options.p_cc, options.p_cd, options.p_dc, options.p_dd]
    assert found == [RULES[name](own, other) for own in (True, False) for other in (True, False)]
    assert options.p_start == (name != "always_defect")


def test_strategies_are_what_the_option_allows():
    assert list(get_args(MemoryOneOptions.model_fields["strategy"].annotation)) == list(STRATEGIES)


def test_the_default_strategy_is_the_default_of_the_probabilities():
    assert MemoryOneOptions() == MemoryOneOptions(strategy="tit_for_tat")
    names = [name for name in MemoryOneOptions.model_fields if name != "strategy"]
    assert {name: MemoryOneOptions.model_fields[name].default for name in names} == MemoryOneOptions().model_dump(
        exclude={"strategy"}
    )


def test_probabilities_win_over_the_strategy():
    options = checked_options(KINDS["memory_one"], {"strategy": "always_defect", "p_cd": 0.5})
    assert options.model_dump() == {
        "strategy": "always_defect", "p_start": 0.0, "p_cc": 0.0, "p_cd": 0.5, "p_dc": 0.0, "p_dd": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p_cc": 1.5}, "'p_cc' = 1.5: .*less than or equal to 1"),
        ({"p_start": -0.1}, "'p_start' = -0.1: .*greater than or equal to 0"),
        ({"p_dd": float("nan")}, "'p_dd' = nan"),
        ({"strategy": "tit_for_two_tats"}, "'strategy' = 'tit_for_two_tats': .*'tit_for_tat'"),
        ({"strategy": ["tit_for_tat"]}, "'strategy' = "),
        ({"p_c": 0.5}, "Unknown key 'p_c'. Did you mean 'p_"),
    ],
)
def test_impossible_options_say_what_is_wrong(options, message):
    with pytest.raises(SettingError, match=message):
        config_of("matrix_game", [{"kind": "memory_one", **options}, "ppo"]).validate()


# -- in populations


def population_for(world: str) -> list[Any]:
    if env_registry.make(world).num_agents == 2:
        return ["ppo", "cooperator"]
    return ["ppo", "cooperator", "defector", "random"]


@pytest.mark.parametrize("world", WORLDS)
def test_mixed_populations_play_on_bit_equal(world):
    population = population_for(world)
    original = runner(world, population)
    original.sample()
    state = original.get_state()
    expected = original.sample()[0]
    resumed = runner(world, population)
    resumed.sample()
    resumed.set_state(state)
    found = resumed.sample()[0]
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_memory_one_agents_answer_what_they_see():
    source = runner("iterated_prisoners_dilemma", [{"kind": "memory_one"}, "random"], episode_length=5)
    joint = source.sample()[0]
    first, others_last = joint.starts, np.roll(joint.actions[..., 1], 1, axis=0)
    np.testing.assert_array_equal(joint.actions[..., 0], np.where(first, 0, others_last))
    assert 0 < joint.actions[..., 1].mean() < 1
    assert not joint.log_probs[..., 0].any()


def test_one_script_may_fill_several_seats():
    entries = [{"kind": "cooperator", "count": 2, "shared": True}, {"kind": "defector", "count": 2}]
    joint = runner("cleanup", entries).sample()[0]
    assert not joint.rewards[..., :2].any(), "cooperators do not eat"
    assert joint.events["waste_cleaned"][..., :2].sum() > 0
    assert not joint.events["waste_cleaned"][..., 2:].any(), "defectors do not clean"


def test_scripted_agents_receive_gifts_and_give_none():
    joint = runner("cleanup", ["random", "cooperator", "defector", "random"]).sample()[0].to_tensors()
    kinds = Population.of(["random", "cooperator", "defector", "random"], 4).kinds()
    assert all(kind.gift_weights(joint, kind.agents[0]) is None for kind in kinds.values())
    assert torch.equal(reshape(joint, kinds, {}).rewards, joint.rewards)

    class Giver(Random):
        """Gives everything to the cooperator."""

        def gift_weights(self, joint: Any, agent: int) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.ones(joint.shape[:2], dtype=torch.long), 4).float()

    first = next(module_id for module_id, kind in kinds.items() if kind.agents == (0,))
    rewards = reshape(joint, kinds | {first: Giver(first, kinds[first].options, (0,))}, {}).rewards
    torch.testing.assert_close(rewards[..., 1], joint.rewards[..., 0] + joint.rewards[..., 1])
    assert torch.equal(rewards[..., 2], joint.rewards[..., 2])


@pytest.mark.parametrize("kind", ["cooperator", "defector", "memory_one"])
def test_scripts_do_not_learn(kind):
    assert not KINDS[kind].learns
    module = modules_of("matrix_game", kind)[0]
    assert not list(module.parameters())
    assert module.get_state() == {}
    assert json.loads(json.dumps(module.model_config)) == module.model_config


# -- worlds that they do not know


@pytest.mark.parametrize(
    ("kind", "world", "env_config", "message"),
    [
        ("memory_one", "coin_game", {}, "'memory_one' .*'coin_game'.*: iterated_prisoners_dilemma, matrix_game;"),
        ("cooperator", "mpe2.simple_spread_v3", {}, "'cooperator' .*'PettingZooWorld'.*cleanup.*snowdrift"),
        ("defector", "coin_game", {"wrappers": ["clip_reward_v0"]}, "'defector' .*; none in wrappers"),
        ("memory_one", "matrix_game", {"wrappers": ["clip_reward_v0"]}, "'memory_one' .*; none in wrappers"),
    ],
)
def test_worlds_without_a_script_are_refused_before_anything_starts(kind, world, env_config, message):
    with pytest.raises(SettingError, match=message):
        config_of(world, kind, **env_config).validate()


class OwnGame(MatrixGame):
    """A matrix game that env_registry does not know."""


class OwnPlayer:
    """Defects in every second game."""

    def act(self, observations: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return np.arange(len(observations)) % 2


def test_own_worlds_get_scripts_by_an_entry(monkeypatch):
    monkeypatch.setitem(WORLDS, "own_game", OwnGame)
    config_of("own_game", "memory_one").validate()
    config_of(OwnGame, "memory_one").validate()
    with pytest.raises(SettingError, match="'own_game'"):
        config_of("own_game", "cooperator").validate()
    monkeypatch.setitem(SCRIPTED, "own_game", {"cooperator": lambda world: OwnPlayer()})
    joint = runner("own_game", "cooperator").sample()[0]
    np.testing.assert_array_equal(joint.actions[..., 0], np.tile([0, 1, 0, 1, 0, 1], (12, 1)))
    with pytest.raises(SettingError, match=r"'defector' .*'own_game'"):
        config_of("own_game", "defector").validate()
