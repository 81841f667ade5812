"""Actions drawn evenly now and then: the policy that acts is a mixture, and learning knows it."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.core.columns import Columns
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.learning.learner import EmpathyLearner
from rllib_empathy.learning.training_data import JointTrainingData
from rllib_empathy.policies.actor_critic import Minibatch, exploring
from rllib_empathy.policies.networks import evaluate, stack_parameters
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
from tests.core.agents import group_of, module_of

ACTIONS = 4


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 1e-6, 0.05, 0.5, 1.0]), st.integers(1, 7))
def test_the_mixture_is_the_formula(seed, share, actions):
    policy = np.random.default_rng(seed).dirichlet(np.full(actions, 0.3), size=(2, 5)) + 1e-30
    found = exploring(torch.from_numpy(np.log(policy)), torch.full((2,), share, dtype=torch.float64), actions)
    np.testing.assert_allclose(found.exp().numpy(), (1 - share) * policy + share / actions, rtol=1e-9)
    np.testing.assert_allclose(found.exp().sum(-1), 1.0)


def test_no_exploration_changes_nothing_and_every_agent_has_its_own():
    log_policy = torch.log_softmax(torch.randn(2, 3, 5, ACTIONS), -1)
    found = exploring(log_policy, torch.tensor([0.0, 1.0]), ACTIONS)
    assert torch.equal(found[0], log_policy[0])
    torch.testing.assert_close(found[1], torch.full((3, 5, ACTIONS), -log(ACTIONS)))


@torch.no_grad()
def test_actions_come_from_the_mixture_and_greedy_ones_do_not():
    module = module_of("ppo")
    module.exploration.fill_(0.4)
    seen = torch.randn(1, 1, 5).expand(1, 20_000, 5)
    parameters = module.stacked([module], 1)
    logits = evaluate(module.architecture, parameters, seen[:, :1].unsqueeze(1)).logits.flatten()
    mixture = 0.6 * logits.softmax(-1) + 0.4 / ACTIONS
    generator = torch.Generator().manual_seed(0)
    answer = module.act([module], parameters, seen, {}, generator, True)
    torch.testing.assert_close(answer.log_probs, mixture.log()[answer.actions])
    drawn = torch.bincount(answer.actions.flatten(), minlength=ACTIONS) / 20_000
    assert ((drawn - mixture).abs() < 4 * (mixture * (1 - mixture) / 20_000).sqrt()).all()
    greedy = module.act([module], parameters, seen, {}, generator, False)
    assert (greedy.actions == logits.argmax()).all()
    torch.testing.assert_close(greedy.log_probs[0, 0], logits.log_softmax(-1).max())
    outputs = module.forward_exploration({Columns.OBS: seen[0, :1]})[Columns.ACTION_DIST_INPUTS]
    torch.testing.assert_close(outputs.softmax(-1)[0], mixture)
    outputs = module.forward_inference({Columns.OBS: seen[0, :1]})[Columns.ACTION_DIST_INPUTS]
    torch.testing.assert_close(outputs[0], logits)


@pytest.mark.parametrize("kind", ["a2c", "ppo"])
def test_gradients_are_those_of_the_mixture(kind):
    """Ratios and log-probabilities of mixtures, written out, with two agents that explore differently."""
    group = group_of(kind, kind)
    shares = torch.tensor([0.3, 0.0])
    for module, share in zip(group.modules, shares, strict=True):
        module.exploration.fill_(share)
    random = torch.Generator().manual_seed(0)
    size = (2, 1, 50)
    batch = Minibatch(
        observations=torch.randn(*size, 5, generator=random),
        actions=torch.randint(ACTIONS, size, generator=random),
        log_probs=-1.5 + 0.3 * torch.randn(size, generator=random),
        advantages=torch.randn(size, generator=random),
        returns=torch.randn(size, generator=random),
        weights=torch.ones(size),
        starts=torch.zeros(size, dtype=torch.bool),
        inputs=torch.zeros(*size, 0),
        state={},
    )
    parameters = [p for module in group.modules for p in module.actor_critic.parameters()]
    loss, statistics = group.kinds[0].losses(group.kinds, group.modules, batch, 0)
    found = torch.autograd.grad(loss.sum(), parameters)

    stacked = stack_parameters([module.actor_critic for module in group.modules])
    answer = evaluate(
        group.modules[0].architecture, group.modules[0].stacked(group.modules, 50) | stacked, batch.observations
    )
    policy = answer.logits.softmax(-1)
    mixture = (1 - shares.view(2, 1, 1, 1)) * policy + shares.view(2, 1, 1, 1) / ACTIONS
    taken = mixture.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
    if kind == "a2c":
        gain = batch.advantages * taken.log()
    else:
        ratio = taken / batch.log_probs.exp()
        gain = torch.minimum(ratio * batch.advantages, ratio.clamp(0.8, 1.2) * batch.advantages)
    entropy = -(policy * policy.log()).sum(-1)
    plain = (-gain + 0.5 * (answer.values - batch.returns) ** 2 - 0.01 * entropy).mean((1, 2))
    torch.testing.assert_close(loss, plain)
    for ours, theirs in zip(found, torch.autograd.grad(plain.sum(), parameters), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(statistics["mean_kl"], torch.zeros(2))


def test_the_learner_sets_it_and_it_travels_with_the_weights():
    config = (
        EmpathyConfig()
        .environment("iterated_prisoners_dilemma")
        .population([{"kind": "a2c", "exploration": [[0, 0.5], [1000, 0.1]]}, {"kind": "a2c", "exploration": 0.2}])
        .env_runners(num_envs_per_env_runner=4, rollout_fragment_length=5)
        .debugging(seed=0)
    )
    config.validate()
    runner = JointEnvRunner(config=config, worker_index=0)
    learner = EmpathyLearner(config=config, module_spec=config.get_multi_rl_module_spec())
    learner.build()
    runner.set_state({"rl_module": learner.module.get_state(inference_only=True), "weights_seq_no": 1})
    for iteration, (now, following) in enumerate([(0.5, 0.3), (0.3, 0.1)], 1):
        for modules in (runner.module, learner.module):
            assert modules["a2c_0"].exploration.item() == pytest.approx(now)
            assert modules["a2c_1"].exploration.item() == pytest.approx(0.2)
        found = learner.update(
            training_data=JointTrainingData(trajectories=runner.sample()),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: 500 * iteration},
        )
        assert found["a2c_0"]["mean_kl"].peek() == pytest.approx(
            0, abs=1e-6
        )  # the policy that acted is the one that learns
        runner.set_state({"rl_module": learner.module.get_state(inference_only=True), "weights_seq_no": iteration + 1})
        assert runner.module["a2c_0"].exploration.item() == pytest.approx(following)


@pytest.mark.parametrize("wrong", [1.5, -0.1, [[0, 0.5], [10, 1.1]], [[5, 0.5], [10, 0.1]], [[0, 0.5]]])
def test_wrong_shares_are_named(wrong):
    config = EmpathyConfig().environment("iterated_prisoners_dilemma").population("ppo").training(exploration=wrong)
    with pytest.raises(ValueError, match="exploration"):
        config.validate()
