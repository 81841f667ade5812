"""Social influence against sums written out, and the models behind it against one row at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rllib_empathy.policies.networks import Architecture, NetworkOptions, encode, stack_parameters
from rllib_empathy.policies.other_models import (
    OtherModels,
    by_co_player,
    counterfactual_logits,
    next_action_logits,
)
from rllib_empathy.policies.social_influence import influence_on_others, prediction_loss
from rllib_empathy.policies.social_learning import SocialBatch
from rllib_empathy.reshaping.social_influence import social_influence
from tests.core.made_up import made_up

few = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 2**31)
SIZES = st.integers(1, 5)


def slow_influence(predictions, policy, taken):
    """One row: predictions [A][A_j], policy [A]."""
    total = 0.0
    for other_action, p in enumerate(predictions[taken]):
        marginal = sum(policy[a] * predictions[a][other_action] for a in range(len(policy)))
        total += p * np.log(p / marginal)
    return total


@few
@given(SEEDS, SIZES, SIZES)
def test_influence_is_the_formula_and_its_mean_the_mutual_information(seed, own_actions, other_actions):
    random = np.random.default_rng(seed)
    predictions = random.dirichlet(np.ones(other_actions), size=(3, own_actions)) * 0.999 + 0.001 / other_actions
    policy = random.dirichlet(np.ones(own_actions), size=3)
    found = [
        social_influence(torch.tensor(predictions).log(), torch.tensor(policy), torch.full((3,), action)).numpy()
        for action in range(own_actions)
    ]
    for row in range(3):
        expected = [slow_influence(predictions[row], policy[row], action) for action in range(own_actions)]
        np.testing.assert_allclose([each[row] for each in found], np.maximum(expected, 0), atol=1e-9)
        joint = policy[row][:, None] * predictions[row]
        marginals = joint.sum(1, keepdims=True) * joint.sum(0)
        information = (joint * np.log(np.where(joint > 0, joint, 1) / np.where(joint > 0, marginals, 1))).sum()
        assert np.dot(policy[row], [each[row] for each in found]) == pytest.approx(information, abs=1e-9)


def test_nobody_influences_those_that_do_not_care():
    same = torch.tensor([[0.2, 0.8], [0.2, 0.8]]).log()
    assert social_influence(same, torch.tensor([0.5, 0.5]), torch.tensor(0)).item() == pytest.approx(0.0, abs=1e-7)
    opposite = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).clamp(min=1e-20).log()
    even = social_influence(opposite, torch.tensor([0.5, 0.5]), torch.tensor(0)).item()
    assert even == pytest.approx(np.log(2), abs=1e-6)
    assert social_influence(opposite, torch.tensor([1.0, 0.0]), torch.tensor(0)).item() == pytest.approx(0.0, abs=1e-6)


def models_for(shape: tuple[int, ...], joint_actions: tuple[int, ...], seed: int = 0) -> OtherModels:
    torch.manual_seed(seed)
    architecture = Architecture.of(shape, 1.0, joint_actions[0], NetworkOptions(conv_filters=(4,)))
    models = OtherModels(architecture, joint_actions, 6)
    for parameter in models.parameters():
        nn.init.normal_(parameter, std=0.5)
    return models.double()


def plain_logits(models: OtherModels, observation: torch.Tensor, actions: list[int]) -> torch.Tensor:
    x = observation.double().unsqueeze(0)
    for convolution in models.convolutions:
        x = torch.relu(convolution(x))
    one_hot = [torch.eye(n)[a] for n, a in zip(models.joint_actions, actions, strict=True)]
    hidden = models.hidden(x.flatten()) + models.actions(torch.cat(one_hot).double())
    return models.out(torch.relu(hidden))


@pytest.mark.parametrize("shape", [(3, 4, 4), (5,)])
@pytest.mark.parametrize("joint_actions", [(3, 3), (2, 4, 3)])
def test_counterfactuals_are_whole_forward_passes(shape, joint_actions):
    models = models_for(shape, joint_actions)
    random = np.random.default_rng(1)
    seen = torch.tensor(random.integers(0, 2, (7, *shape)))
    actions = torch.tensor(np.stack([random.integers(n, size=7) for n in joint_actions], -1))
    before = actions.clone()
    with torch.no_grad():
        parameters = stack_parameters([models])
        features = encode(models.architecture, parameters, seen.unsqueeze(0))
        found = counterfactual_logits(parameters, features, actions.unsqueeze(0), joint_actions)[0]
        taken = next_action_logits(parameters, features, actions.unsqueeze(0), joint_actions)[0]
        for row in range(7):
            rest = actions[row, 1:].tolist()
            for action in range(joint_actions[0]):
                plain = plain_logits(models, seen[row], [action, *rest])
                torch.testing.assert_close(found[row, action], plain)
                if action == actions[row, 0]:
                    torch.testing.assert_close(taken[row], plain)
    assert torch.equal(actions, before)


def batch_of(seed: int) -> SocialBatch:
    return SocialBatch.of(torch.tensor([[0]]), made_up(seed, actions=4, shape=(5,)).to_tensors())


@few
@given(SEEDS)
def test_influence_counts_agents_that_are_there(seed):
    models, batch = models_for((5,), (4, 4, 4)), batch_of(seed)
    policy = torch.rand(*batch.rewards.shape, 4, dtype=torch.float64).softmax(-1)
    with torch.no_grad():
        found = influence_on_others(models, batch.observations, batch.actions, policy, batch.alive)
    for t, row in np.ndindex(*found.shape):
        alive, expected = batch.alive[0, t, row].tolist(), 0.0
        rest = batch.actions[0, t, row, 1:].tolist()
        with torch.no_grad():
            logits = torch.stack([plain_logits(models, batch.observations[0, t, row], [a, *rest]) for a in range(4)])
        for place, of_other in enumerate(by_co_player(logits, models.joint_actions), start=1):
            if alive[0] and alive[place]:
                p = of_other.softmax(-1).tolist()
                expected += slow_influence(p, policy[0, t, row].tolist(), int(batch.actions[0, t, row, 0]))
        assert found[t, row].item() == pytest.approx(expected, abs=1e-6)


@few
@given(SEEDS)
def test_models_learn_the_next_step_of_those_that_are_in_both(seed):
    models, batch = models_for((5,), (4, 4, 4)), batch_of(seed)
    loss, _ = prediction_loss([models], batch)
    surprises = []
    for t, row in np.ndindex(batch.rewards.shape[1] - 1, batch.rewards.shape[2]):
        with torch.no_grad():
            logits = plain_logits(models, batch.observations[0, t, row], batch.actions[0, t, row].tolist())
        for place, of_other in enumerate(by_co_player(logits, models.joint_actions), start=1):
            both = batch.alive[0, t, row, place] and batch.alive[0, t + 1, row, place]
            if both and batch.goes_on[0, t, row]:
                surprises.append(-of_other.log_softmax(-1)[batch.actions[0, t + 1, row, place]].item())
    assert loss.item() == pytest.approx(np.mean(surprises) if surprises else 0.0, abs=1e-6)
