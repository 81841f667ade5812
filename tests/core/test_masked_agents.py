"""Agents keep to what is allowed, and nothing that is forbidden counts in what they learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.core.columns import Columns

from env_registry.parameters import SettingError
from rllib_empathy.joint import concatenate
from rllib_empathy.learning import groups
from rllib_empathy.policies import KINDS
from rllib_empathy.policies.actor_critic import ActorCriticModule, Minibatch
from rllib_empathy.policies.influence import EstimatorOptions, Lessons, Tabular, Views
from rllib_empathy.policies.kind import Action, check_action_masks
from rllib_empathy.policies.networks import (
    Architecture,
    NetworkOptions,
    evaluate,
    log_policies,
    masked,
    num_allowed,
    renormalised,
    stack_parameters,
)
from rllib_empathy.policies.random_agent import RandomModule
from rllib_empathy.policies.scripted import ScriptedModule
from rllib_empathy.policies.social_influence import SocialInfluence
from rllib_empathy.policies.social_learning import SocialBatch
from rllib_empathy.population import Population
from rllib_empathy.reshaping.gifting import social_relationship
from rllib_empathy.sampling.acting import JointPolicy
from tests.core.agents import STATES, group_of, module_of
from tests.core.made_up import made_up, shuffled
from tests.core.test_kinds import CASES, LEARNING, WITH_NETWORK

ACTIONS = 4
few = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 2**31)


def some_masks(seed: int, *leading: int, actions: int = ACTIONS) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    masks = rng.random((*leading, actions)) < 0.4
    masks |= np.arange(actions) == rng.integers(actions, size=(*leading, 1))
    return torch.from_numpy(masks)


def plain_policy(logits: np.ndarray, allowed: np.ndarray, share: float = 0.0) -> np.ndarray:
    """Probabilities of one row, written out."""
    found = np.zeros(len(logits))
    might = [action for action in range(len(logits)) if allowed[action]]
    total = sum(np.exp(logits[action]) for action in might)
    for action in might:
        found[action] = (1 - share) * np.exp(logits[action]) / total + share / len(might)
    return found


@few
@given(SEEDS, st.integers(1, 6))
def test_masked_policies_are_the_formula_and_know_no_order_of_actions(seed, actions):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(2, 5, actions)) * 3)
    allowed = some_masks(seed, 2, 5, actions=actions)
    policy = log_policies(masked(logits, allowed)).exp()
    for row in np.ndindex(2, 5):
        np.testing.assert_allclose(policy[row], plain_policy(logits[row].numpy(), allowed[row].numpy()), atol=1e-12)
    assert (policy[~allowed] == 0).all()
    torch.testing.assert_close(renormalised(logits.softmax(-1), allowed), policy)
    order = torch.from_numpy(rng.permutation(actions))
    torch.testing.assert_close(log_policies(masked(logits[..., order], allowed[..., order])).exp(), policy[..., order])
    assert masked(logits, None) is logits
    assert num_allowed(actions, None) == actions
    assert num_allowed(actions, allowed).tolist() == allowed.sum(-1).tolist()  # type: ignore[union-attr]


def test_a_policy_that_takes_nothing_allowed_becomes_an_even_one():
    found = renormalised(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([False, True, True]))
    assert found.tolist() == [0.0, 0.5, 0.5]


@few
@given(SEEDS)
def test_relationships_are_those_of_a_game_with_fewer_actions(seed):
    rng = np.random.default_rng(seed)
    values, predicted = torch.from_numpy(rng.normal(size=5)), torch.from_numpy(rng.dirichlet(np.ones(5)))
    allowed = some_masks(seed, actions=5)
    taken = int(rng.choice(allowed.nonzero().flatten().numpy()))
    predicted = renormalised(predicted, allowed)
    found = social_relationship(values[taken], values, predicted, allowed=allowed)
    expected = social_relationship(values[taken], values[allowed], predicted[allowed])
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    if allowed.sum() == 1:
        assert found == 0
    order = torch.from_numpy(rng.permutation(5))
    again = social_relationship(values[taken], values[order], predicted[order], allowed=allowed[order])
    assert found.item() == pytest.approx(again.item(), abs=1e-12)


# -- acting


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize(("name", "memory"), CASES)
@torch.no_grad()
def test_every_kind_does_what_is_allowed_with_the_probability_that_it_says(name, memory, explore):
    modules = [module_of(name, seed=number, memory=memory) for number in range(2)]
    of, rows = type(modules[0]), 300
    initial = [module.initial_state(rows) for module in modules]
    state = {key: torch.stack([each[key] for each in initial]) for key in initial[0]}
    seen = torch.randn((2, rows, 5), generator=torch.Generator().manual_seed(2))
    allowed = some_masks(1, 2, rows)
    if isinstance(modules[0], ActorCriticModule):
        for module in modules:
            module.exploration.fill_(0.3)
    parameters = of.stacked(modules, rows)
    answer = of.act(modules, parameters, seen, state, torch.Generator().manual_seed(3), explore, allowed=allowed)
    taken = answer.actions.unsqueeze(-1)
    assert allowed.gather(-1, taken).all()
    assert answer.actions.unique().numel() == ACTIONS
    if name in WITH_NETWORK:
        inputs = torch.zeros(2, 1, rows, sum(modules[0].num_inputs))
        logits = evaluate(modules[0].architecture, parameters, seen.unsqueeze(1), state, inputs=inputs).logits[:, 0]
    else:
        logits = torch.zeros(2, rows, ACTIONS)
    share = 0.3 if explore and name in WITH_NETWORK else 0.0
    for row in np.ndindex(2, rows):
        policy = plain_policy(logits[row].double().numpy(), allowed[row].numpy(), share)
        assert answer.log_probs[row].item() == pytest.approx(np.log(policy[taken[row].item()]), abs=1e-5)
        if not explore and name in WITH_NETWORK:
            assert policy[taken[row].item()] == policy.max()


@pytest.mark.parametrize("name", ["ppo", "random"])
@torch.no_grad()
def test_rllibs_forward_passes_keep_to_masks_beside_observations(name):
    module = module_of(name)
    if name == "ppo":
        module.exploration.fill_(0.5)
    allowed, seen = some_masks(4, 50), torch.randn(50, 5)
    for forward in ("forward_inference", "forward_exploration"):
        found = getattr(module, forward)({Columns.OBS: seen, "action_mask": allowed})[Columns.ACTION_DIST_INPUTS]
        assert (found.softmax(-1)[~allowed] == 0).all()
        assert (found.softmax(-1)[allowed] > 0).all()
    alone = allowed.sum(-1) == 1
    assert (found.softmax(-1)[alone].max(-1).values == 1).all()


def test_whatever_a_kind_does_nothing_forbidden_reaches_the_world():
    class Stubborn(RandomModule):
        @classmethod
        def act(cls, modules, parameters, observations, state, generator, explore, allowed=None):
            return Action(
                torch.zeros(observations.shape[:2], dtype=torch.int64), torch.zeros(observations.shape[:2]), {}
            )

    class Deaf(RandomModule):
        @classmethod
        def act(cls, modules, parameters, observations, state, generator, explore):  # type: ignore[override]
            return Stubborn.act(modules, parameters, observations, state, generator, explore)

    population = Population.of("random", 2)
    masks = np.ones((3, 2, ACTIONS), np.bool_)
    seen, begun = np.zeros((3, 2, 5), np.float32), np.ones(3, np.bool_)

    def policy_of(module: Any) -> JointPolicy:
        spaces = {"observation_space": module_of().observation_space, "action_space": Discrete(ACTIONS)}
        modules = {member.module_id: module(**spaces, model_config={}) for member in population.members}
        return JointPolicy(population, modules, 3, torch.Generator())

    policy_of(Stubborn).act(seen, begun, True, masks)
    masks[2, 1, 0] = False
    with pytest.raises(SettingError, match=r"Agent 1 \('random_1'\) chose action 0 in game 2, .* allows \[1, 2, 3\]"):
        policy_of(Stubborn).act(seen, begun, True, masks)
    policy_of(Deaf).act(seen, begun, True)
    with pytest.raises(SettingError, match="takes no argument 'allowed'"):
        policy_of(Deaf).act(seen, begun, True, masks)


def test_all_kinds_can_be_told_what_is_allowed():
    for name, kind in KINDS.items():
        if name != "frozen":  # which is what it was
            check_action_masks(name, kind.Module)
    check_action_masks("cooperator", ScriptedModule)


# -- learning


def masked_batch(kind: str, memory: str, never: int | None = None) -> tuple[Any, Any, Minibatch]:
    """Two agents with a minibatch of their own games; action `never` is allowed to nobody who is alive."""
    group = group_of(kind, kind, memory=memory)
    made = made_up(1, agents=2, memory=STATES[memory], masks=True)
    if never is not None:
        actions = np.where(made.actions == never, (never + 1) % ACTIONS, made.actions)
        masks = made.action_masks | (np.arange(ACTIONS) == actions[..., None])
        masks[..., never] = ~made.alive
        made = replace(made, actions=actions, action_masks=masks)
    joint = made.to_tensors()
    seen = group.gather(joint.observations)
    advantages, returns = torch.randn(2, *joint.shape, generator=torch.Generator().manual_seed(1))
    inputs = group.inputs(joint.context, seen)
    return group, joint, groups.group_batch(group, joint, seen, inputs, advantages, returns)


@pytest.mark.parametrize("memory", ["none", "gru"])
@pytest.mark.parametrize("kind", LEARNING)
def test_what_is_forbidden_has_no_gradient(kind, memory):
    if kind == "lio" and memory != "none":
        return  # has none
    group, _, batch = masked_batch(kind, memory, never=2)
    for module in group.modules:
        module.exploration.fill_(0.2)
    loss, _ = group.kinds[0].losses(group.kinds, group.modules, batch, 0)
    assert torch.isfinite(loss).all()
    loss.sum().backward()
    for module in group.modules:
        policy = module.actor_critic.policy
        assert (policy.weight.grad[2] == 0).all()
        assert policy.bias.grad[2] == 0
        assert (policy.bias.grad[[0, 1, 3]] != 0).all()
        for parameter in module.actor_critic.parameters():
            assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_losses_are_those_of_masked_policies_row_by_row(memory):
    group, joint, batch = masked_batch("a2c", memory)
    shares = [0.3, 0.0]
    for module, share in zip(group.modules, shares, strict=True):
        module.exploration.fill_(share)
    with torch.no_grad():
        _, statistics = group.kinds[0].losses(group.kinds, group.modules, batch, 0)
        parameters = stack_parameters([module.actor_critic for module in group.modules])
        logits = evaluate(group.modules[0].architecture, parameters, group.gather(joint.observations), group.state(joint),
                          group.starts(joint)).logits.double()  # fmt: skip
    alive, actions = group.gather(joint.alive), group.gather(joint.actions)
    allowed = group.gather(joint.action_masks)
    advantages = batch.advantages.reshape(alive.shape) if memory == "none" else batch.advantages
    for agent, share in enumerate(shares):
        entropies, gains = [], []
        for row in np.ndindex(*alive.shape[1:]):
            if alive[agent][row]:
                might = allowed[agent][row].numpy()
                policy = plain_policy(logits[agent][row].numpy(), might)
                entropies.append(-sum(p * np.log(p) for p in policy if p > 0))
                mixed = plain_policy(logits[agent][row].numpy(), might, share)
                gains.append(float(advantages[agent][row]) * np.log(mixed[actions[agent][row]]))
        assert statistics["entropy"][agent].item() == pytest.approx(np.mean(entropies), abs=1e-6)
        assert statistics["policy_loss"][agent].item() == pytest.approx(-np.mean(gains), abs=1e-5)


def test_a_mask_that_allows_everything_changes_nothing():
    for kind in LEARNING:
        group = group_of(kind, kind)
        made = made_up(1, agents=2)
        full = replace(made, action_masks=np.ones((*made.shape, ACTIONS), np.bool_))
        losses = []
        for each in (made, full):
            joint = each.to_tensors()
            seen = group.gather(joint.observations)
            batch = groups.group_batch(
                group, joint, seen, group.inputs(joint.context, seen), *torch.ones(2, *joint.shape)
            )
            losses.append(group.kinds[0].losses(group.kinds, group.modules, batch, 0)[0])
        torch.testing.assert_close(*losses)


# -- what agents make of each other's actions


def test_masks_by_place_are_those_of_the_agents_there():
    joint = made_up(3, seats=True, masks=True).to_tensors()
    by_place, places = joint.masks_by_place(), joint.places()
    assert by_place is not None
    assert joint.action_masks is not None
    for step, game, agent, place in np.ndindex(*by_place.shape[:4]):
        who = places[step, game, agent, place]
        assert torch.equal(by_place[step, game, agent, place], joint.action_masks[step, game, who])


def test_influence_on_others_has_allowed_alternatives_only():
    """With what is forbidden taken out of the policy by hand, the kind's own `observe` finds the same."""
    module = module_of("social_influence")
    population = Population.of(["social_influence", "random", "random"], 3)
    joint = made_up(5, masks=True).to_tensors()
    kind = population.kinds()["social_influence_0"]
    assert isinstance(kind, SocialInfluence)
    kind.observe(joint, {"social_influence_0": module}, {})
    batch = SocialBatch.of(torch.tensor([[0]]), joint)
    with torch.no_grad():
        logits = module.forward_inference({Columns.OBS: joint.observations[:, :, 0].flatten(0, 1)})[
            "action_dist_inputs"
        ]
    masks = joint.action_masks[:, :, 0].flatten(0, 1)  # type: ignore[index]
    policies = [plain_policy(row.double().numpy(), mask.numpy()) for row, mask in zip(logits, masks, strict=True)]
    policy = torch.from_numpy(np.stack(policies)).float().view(1, *joint.shape[:2], ACTIONS)
    from rllib_empathy.policies.social_influence import influence_on_others

    with torch.no_grad():
        expected = influence_on_others(module.models, batch.observations, batch.actions, policy, batch.alive)
    found = kind.reward(joint, 0, torch.zeros(joint.shape[:2]))
    torch.testing.assert_close(found, expected.clamp(max=10).to(found.dtype), atol=1e-6, rtol=1e-5)


def test_who_had_no_choice_had_no_influence():
    joint = made_up(5, masks=True).to_tensors()
    only = torch.nn.functional.one_hot(joint.actions, ACTIONS).bool()
    joint = replace(joint, action_masks=only)
    module = module_of("social_influence")
    kind: Any = Population.of(["social_influence", "random", "random"], 3).kinds()["social_influence_0"]
    kind.observe(joint, {"social_influence_0": module}, {})
    assert kind.reward(joint, 0, torch.zeros(joint.shape[:2])).abs().max() < 1e-5
    lase: Any = Population.of(["lase", "random", "random"], 3).kinds()["lase_0"]
    lase.observe(joint, {"lase_0": module_of("lase")}, {})
    assert (lase.gift_weights(joint, 0)[..., 1:] == 0).all()


def test_counted_policies_are_shares_of_what_is_allowed():
    estimator = Tabular(
        Architecture.of((5,), 1.0, 3, NetworkOptions(conv_filters=(), hidden=())), 2, 3, 0.9, EstimatorOptions()
    )
    frequencies = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    estimator.frequencies.data = frequencies / frequencies.sum(-1, keepdim=True)
    estimator.rewards.data = torch.randn(estimator.rewards.shape, generator=torch.Generator().manual_seed(1))
    joint = made_up(2, agents=2, actions=3, whole_episodes=True, masks=True).to_tensors()
    views = Views.of(joint.observations, joint.actions, joint.alive, torch.zeros(joint.shape[:2]), joint.action_masks)
    found = estimator.influence(stack_parameters([estimator]), views)[0]
    states = joint.observations.argmax(-1)
    for step, game, i in np.ndindex(*joint.shape):
        if joint.alive[step, game].all():
            mine, other = int(joint.actions[step, game, i]), int(joint.actions[step, game, 1 - i])
            might = [a for a in range(3) if joint.action_masks[step, game, i, a]]  # type: ignore[index]
            policy = estimator.frequencies[i, states[step, game, i]]
            values = estimator.rewards[i, :, other, 0]
            base = sum(policy[a] * values[a] for a in might) / sum(policy[a] for a in might)
            assert found[step, game, i, 0].item() == pytest.approx((values[mine] - base).item(), abs=1e-6)


# -- trajectories, and who sits where


def test_who_is_who_does_not_matter():
    joint = made_up(2, masks=True)
    other = shuffled(joint, np.array([2, 0, 3, 1]), np.array([1, 2, 0]))
    assert joint.action_masks is not None
    assert other.action_masks is not None
    np.testing.assert_array_equal(other.action_masks[:, 0, 2], joint.action_masks[:, 2, 0])


def test_games_with_and_without_masks_lie_side_by_side():
    with_masks, without = made_up(1, steps=4, masks=True), made_up(2, steps=7)
    joined = concatenate([without, with_masks])
    assert joined.action_masks is not None
    assert joined.action_masks[:, :4].all()
    np.testing.assert_array_equal(joined.action_masks[:4, 4:], with_masks.action_masks)
    assert joined.action_masks[4:, 4:].all()
    assert concatenate([without, without]).action_masks is None
    lessons = [Lessons.of(joint.to_tensors(), 10) for joint in (without, with_masks)]
    allowed = Lessons.side_by_side(lessons).views.allowed
    assert allowed is not None
    assert torch.equal(allowed[:4, 4:], torch.from_numpy(with_masks.action_masks))
    assert allowed[:, :4].all()
