"""What every kind of agent has to keep to; a new kind is tested without a new test."""

from __future__ import annotations

import json
import pickle
from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from ray.rllib.core.columns import Columns

from env_registry.parameters import SettingError
from rllib_empathy.learning.groups import LearningGroup, group_batch, minibatches
from rllib_empathy.learning.rewards import reshape
from rllib_empathy.policies import KINDS, AgentKind, AgentModule, kind_named, register_kind
from rllib_empathy.policies.actor_critic import ActorCriticKind
from rllib_empathy.policies.kind import CONTEXT, checked_options
from tests.core.agents import READY, SMALL, STATES, facts_of, module_of
from tests.core.made_up import made_up

NAMES = READY
WITH_NETWORK = [name for name in NAMES if "network" in KINDS[name].Options.model_fields]
LEARNING = [name for name in NAMES if KINDS[name].learns]
WORLDS = {"vector": (5,), "grid": (3, 4, 4)}
FACTS = facts_of(Box(-np.inf, np.inf, (5,), np.float32))


def options_of(name: str, **network: Any) -> Any:
    given = {"network": {**SMALL, **network}} if name in WITH_NETWORK else {}
    return checked_options(KINDS[name], given)


def memories(name: str) -> list[str]:
    return list(STATES) if name in WITH_NETWORK else ["none"]


def plays_any_world(name: str) -> bool:
    try:
        KINDS[name].check_world(FACTS, options_of(name))
    except SettingError:
        return False
    return True


PLAY_ANY_WORLD = [name for name in NAMES if plays_any_world(name)]
"""All but those that follow the script of a certain world (see test_scripted_kinds)."""

CASES = [(name, memory) for name in PLAY_ANY_WORLD for memory in memories(name)]


def act(name: str, memory: str, shape: tuple[int, ...], seed: int = 1, explore: bool = True) -> tuple[Any, list[Any]]:
    """Two agents of the kind act in six games."""
    modules = [module_of(name, shape, seed=number, memory=memory) for number in range(2)]
    of = type(modules[0])
    initial = [module.initial_state(6) for module in modules]
    state = {key: torch.stack([each[key] for each in initial]) for key in initial[0]}
    observations = torch.rand((2, 6, *shape), generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return of.act(modules, of.stacked(modules, 6), observations, state, generator, explore), modules


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("name", "memory"), CASES)
def test_acts(name, memory, world):
    answer, modules = act(name, memory, WORLDS[world])
    assert answer.actions.dtype == torch.int64
    assert answer.actions.shape == answer.log_probs.shape == (2, 6)
    assert ((answer.actions >= 0) & (answer.actions < 4)).all()
    assert torch.isfinite(answer.log_probs).all()
    assert (answer.log_probs <= 0).all()
    expected = {key: (2, *value.shape) for key, value in modules[0].initial_state(6).items()}
    assert {key: tuple(value.shape) for key, value in answer.state.items()} == expected
    assert {key: shape[2] for key, shape in expected.items() if key != CONTEXT} == STATES[memory]


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize(("name", "memory"), CASES)
def test_all_chance_comes_from_the_generator(name, memory, explore):
    torch.manual_seed(0)
    first, _ = act(name, memory, (5,), explore=explore)
    torch.manual_seed(1)
    torch.rand(1)
    same, _ = act(name, memory, (5,), explore=explore)
    assert torch.equal(first.actions, same.actions)
    if explore:
        draws = {tuple(act(name, memory, (5,), seed=seed)[0].actions.flatten().tolist()) for seed in range(8)}
        assert len(draws) > 4


@pytest.mark.parametrize(("name", "memory"), CASES)
def test_rllib_sees_the_same_policy(name, memory):
    """RLlib's own forward pass and initial state, as connectors and exports would use them."""
    module = module_of(name, memory=memory)
    seen = torch.rand(6, 5, generator=torch.Generator().manual_seed(2))
    state = {key: value.unsqueeze(0).expand(6, -1) for key, value in module.get_initial_state().items()}
    assert {key: value.shape[1] for key, value in state.items()} == STATES[memory]
    assert module.is_stateful() == (memory != "none")
    batch = {Columns.OBS: seen.unsqueeze(1) if state else seen, Columns.STATE_IN: state}
    with torch.no_grad():
        outputs = {f: getattr(module, f)(batch) for f in ("forward_inference", "forward_exploration", "forward_train")}
        answer = type(module).act(
            [module], type(module).stacked([module], 6), seen.unsqueeze(0),
            {key: value.unsqueeze(0) for key, value in state.items()}, torch.Generator().manual_seed(1), True,
        )  # fmt: skip
    for output in outputs.values():
        logits = output[Columns.ACTION_DIST_INPUTS].reshape(6, 4)
        log_probs = torch.log_softmax(logits, -1).gather(1, answer.actions[0].unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(log_probs, answer.log_probs[0], atol=1e-5, rtol=1e-4)
        for key, value in answer.state.items():
            torch.testing.assert_close(output[Columns.STATE_OUT][key], value[0])
    if name in WITH_NETWORK:
        with torch.no_grad():
            values = module.compute_values(batch)
        assert values.shape == ((6, 1) if state else (6,))


@pytest.mark.parametrize(("name", "memory"), CASES)
def test_runners_can_take_over_the_learners_weights(name, memory):
    learned, options = module_of(name, memory=memory), options_of(name, memory=memory)
    acting = KINDS[name].Module(
        observation_space=learned.observation_space,
        action_space=learned.action_space,
        model_config=KINDS[name].model_config(options, FACTS, (0,)),
        inference_only=True,
    )
    acting.set_state(pickle.loads(pickle.dumps(learned.get_state(inference_only=True))))
    seen = torch.rand(1, 6, 5, generator=torch.Generator().manual_seed(2))
    found = []
    for module in (learned, acting):
        state = {key: value.unsqueeze(0) for key, value in module.initial_state(6).items()}
        parameters = type(module).stacked([module], 6)
        with torch.no_grad():
            found.append(type(module).act([module], parameters, seen, state, torch.Generator().manual_seed(1), True))
    assert torch.equal(found[0].actions, found[1].actions)
    assert torch.equal(found[0].log_probs, found[1].log_probs)
    assert learned.group == acting.group


@pytest.mark.parametrize("name", PLAY_ANY_WORLD)
def test_groups_are_of_like_modules(name):
    module = module_of(name)
    assert isinstance(module, AgentModule)
    assert isinstance(module.group, Hashable)
    assert module.group == module_of(name, seed=3).group
    assert module.group != module_of(name, actions=3).group
    if name in WITH_NETWORK:
        assert module.group != module_of(name, shape=(6,)).group
        assert module.group != module_of(name, memory="gru").group
        assert module.group != module_of(name, hidden=(9,)).group


@pytest.mark.parametrize("name", NAMES)
def test_what_a_kind_says_of_itself(name):
    kind = KINDS[name]
    assert kind_named(name) is kind
    assert kind.name == name
    assert kind.__doc__
    options = options_of(name)
    assert json.loads(json.dumps(kind.model_config(options, FACTS, (0,)))) is not None
    assert all(field.description for field in kind.Options.model_fields.values())
    again = checked_options(kind, json.loads(options.model_dump_json()))
    assert again == options
    with pytest.raises(SettingError, match=rf"kind '{name}'.*\n.*Unknown key 'no_such_option'"):
        checked_options(kind, {"no_such_option": 1})


@pytest.mark.parametrize("name", NAMES)
def test_rewards_and_gifts(name):
    joint = made_up(1, shape=(5,), whole_episodes=KINDS[name].needs_whole_episodes, context=7).to_tensors()
    kinds = [KINDS[name](f"agent_{agent}", options_of(name), (agent,)) for agent in range(3)]
    modules = {kind.module_id: module_of(name) for kind in kinds}
    population = {kind.module_id: kind for kind in kinds}
    for agent, kind in enumerate(kinds):
        kind.observe(joint, modules, population)
        gifts = kind.gift_weights(joint, agent)
        if gifts is not None:
            assert gifts.shape == joint.shape
            torch.testing.assert_close(gifts.sum(-1), torch.ones(joint.shape[:2]))
        reward = kind.reward(joint, agent, joint.rewards[..., agent])
        assert reward.shape == joint.shape[:2]
        assert not reward.requires_grad
        assert all(isinstance(value, float) for value in kind.statistics().values())
    assert torch.isfinite(reshape(joint, population, modules).rewards).all()


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("name", "memory"), [case for case in CASES if case[0] in LEARNING])
def test_a_step_of_learning_reaches_all_acting_parameters(name, memory, world):
    kind: Any = KINDS[name]
    assert issubclass(kind, ActorCriticKind)
    kinds = tuple(kind(f"{name}_{agent}", options_of(name, memory=memory), (agent,)) for agent in range(2))
    modules = tuple(module_of(name, WORLDS[world], seed=agent, memory=memory) for agent in range(2))
    group = LearningGroup(kinds, modules)
    joint = made_up(1, agents=2, shape=WORLDS[world], memory=STATES[memory]).to_tensors()
    advantages, returns = torch.randn(2, *joint.shape, generator=torch.Generator().manual_seed(1))
    seen = group.gather(joint.observations)
    batch = group_batch(group, joint, seen, group.inputs(joint.context, seen), advantages, returns)
    parts = list(minibatches(group, batch, 36, torch.Generator().manual_seed(1)))
    assert len(parts) == kinds[0].num_epochs * kinds[0].num_minibatches(36)
    loss, statistics = kind.losses(kinds, modules, parts[0], 0)
    assert loss.shape == (2,)
    assert {"total_loss", "policy_loss", "vf_loss", "entropy", "mean_kl"} <= set(statistics)
    assert all(value.shape == (2,) and torch.isfinite(value).all() for value in statistics.values())
    loss.sum().backward()
    for module in modules:
        for parameter in module.actor_critic.parameters():
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("name", LEARNING)
def test_options_that_learning_agents_share(name):
    for wrong, reason in (
        ({"gamma": 1.1}, "'gamma' = 1.1"),
        ({"lambda_": -0.1}, "'lambda_' = -0.1"),
        ({"lr": -1}, "'lr' = -1: needs numbers >= 0"),
        ({"lr": []}, "two or more"),
        ({"lr": [[0, 0.1]]}, "two or more"),
        ({"lr": [[5, 0.1], [10, 0.2]]}, "rising env steps that begin at 0"),
        ({"lr": [[0, 0.1], [0, 0.2]]}, "rising env steps"),
        ({"entropy_coeff": [[0, 0.1], [10, -0.2]]}, "numbers >= 0"),
        ({"grad_clip": 0}, "'grad_clip' = 0"),
        ({"reward_scale": float("nan")}, "'reward_scale' = nan"),
        ({"network": {"memory": "elephant"}}, "elephant"),
    ):
        with pytest.raises(SettingError, match=reason):
            checked_options(KINDS[name], wrong)
    assert checked_options(KINDS[name], {"lr": [[0, 0.1], [10, 0]]}).lr == ((0, 0.1), (10, 0))  # type: ignore[attr-defined]


def test_ppo_makes_its_minibatches_of_the_wanted_size():
    def count(size: int | None, env_steps: int) -> int:
        kind: Any = KINDS["ppo"]("ppo", checked_options(KINDS["ppo"], {"minibatch_size": size}), (0,))
        return kind.num_minibatches(env_steps)

    assert [count(None, steps) for steps in (1, 4, 100, 6400)] == [1, 4, 4, 4]
    assert [count(10, steps) for steps in (1, 10, 11, 95, 100)] == [1, 1, 2, 10, 10]


def test_names_are_taken_once():
    before = dict(KINDS)
    assert register_kind(KINDS["ppo"]) is KINDS["ppo"]

    class Impostor(AgentKind):
        """Calls itself PPO."""

        name = "ppo"

    with pytest.raises(ValueError, match="named 'ppo' already: PPO"):
        register_kind(Impostor)
    assert before == KINDS
    with pytest.raises(SettingError, match=r"Unknown kind of agent 'a2'\. Did you mean 'a2c'"):
        kind_named("a2")


@pytest.mark.parametrize("name", WITH_NETWORK)
def test_a_high_bound_scales_pictures_and_none_leaves_numbers(name):
    for space, scale in (
        (Box(0, 255, (3, 4, 4), np.uint8), 1 / 255),
        (Box(-np.inf, np.inf, (5,), np.float32), 1.0),
        (Box(0, 1, (5,), np.uint8), 1.0),
    ):
        module = KINDS[name].Module(
            observation_space=space,
            action_space=Discrete(4),
            model_config=KINDS[name].model_config(options_of(name), FACTS, (0,)),
        )
        assert module.architecture.scale == pytest.approx(scale)
