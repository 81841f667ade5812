"""Reciprocators: what they see while acting, their rewards, presets, sharing, and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from env_registry import SettingError
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.learning.groups import LearningGroup
from rllib_empathy.policies.influence import Views, elapsed_steps
from rllib_empathy.policies.kind import checked_options
from rllib_empathy.policies.networks import evaluate, stack_parameters
from rllib_empathy.policies.reciprocator import PRESETS, Reciprocator, ReciprocatorOptions
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
from tests.core.agents import SMALL
from tests.core.test_reciprocity import plain_reward

IPD = ("iterated_prisoners_dilemma", {"preset": "reciprocator", "episode_length": 6})
COINS = ("coin_game", {"preset": "reciprocator", "episode_length": 6})
CLEANUP = ("cleanup", {"num_agents": 3, "episode_length": 6})
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ipd": IPD,
    "coins": COINS,
    "three": ("coin_game", {**COINS[1], "num_agents": 3}),
    "cleanup": CLEANUP,
}


def config_of(world: tuple[str, dict[str, Any]], population: Any = "reciprocator", **options: Any) -> EmpathyConfig:
    config = (
        EmpathyConfig()
        .environment(world[0], env_config=world[1])
        .population(population)
        .training(network=SMALL, **options)
        .env_runners(num_envs_per_env_runner=4, rollout_fragment_length=12)
        .debugging(seed=1)
    )
    config.validate()
    return config


def runner_of(config: EmpathyConfig) -> JointEnvRunner:
    """With parameters that are not small: influences matter."""
    runner = JointEnvRunner(config=config, worker_index=0)
    torch.manual_seed(2)
    for module in runner.module.values():
        for parameter in module.parameters():
            torch.nn.init.uniform_(parameter, 0.05, 1.0) if parameter.ndim < 2 else torch.nn.init.normal_(parameter)
    runner.policy.weights_changed()
    return runner


def of_seats(world: str) -> list[dict[str, Any]]:
    """Two Reciprocators, or three of which two share a network."""
    first = {"kind": "reciprocator", "count": 1 if world in ("ipd", "coins") else 2}
    return [{**first, "shared": True}, {"kind": "reciprocator", "name": "other"}]


@torch.no_grad()
def influence_of(estimator: Any, joint: Any) -> torch.Tensor:
    """`[T, B, N, N]`, of the first agent on the second, in episodes of 6 steps."""
    views = Views.of(joint.observations, joint.actions, joint.alive, elapsed_steps(joint.starts) / 6)
    given = estimator.influence(stack_parameters([estimator]), views)[0]
    agents = joint.shape[2]
    matrix = torch.zeros(*joint.shape, agents)
    for agent in range(agents):
        for place in range(agents - 1):
            matrix[..., agent, (agent + 1 + place) % agents] = given[..., agent, place]
    return matrix


@pytest.mark.parametrize("memory", ["none", "gru"])
@pytest.mark.parametrize(
    ("world", "shared"), [(w, s) for w in WORLDS for s in (True, False) if not (w == "cleanup" and s)]
)
def test_what_acted_is_what_learns(world, shared, memory):
    """The trajectory holds what the runner's policies saw and whom they influenced, and the Learner has the same balances."""
    config = config_of(WORLDS[world], of_seats(world), estimator={"shared": shared}, decay=0.9, pay_back=True)
    runner = runner_of(config.training(network={**SMALL, "memory": memory}))
    kinds: Any = runner.population.kinds()
    (joint,) = (trajectory.to_tensors() for trajectory in runner.sample())
    for module_id, kind in kinds.items():
        module = runner.module[module_id]
        kind.observe(joint, dict(runner.module.items()), kinds)
        group = LearningGroup((kind,), (module,))
        seen = group.gather(joint.observations)
        beside = group.inputs(joint.context, seen)
        assert beside.abs().max() <= 1
        parameters = stack_parameters([module.actor_critic])
        with torch.no_grad():
            answer = evaluate(module.architecture, parameters, seen, group.state(joint), group.starts(joint), beside)
        log_probs = torch.log_softmax(answer.logits, -1).gather(-1, group.gather(joint.actions).unsqueeze(-1))
        torch.testing.assert_close(log_probs.squeeze(-1), group.gather(joint.log_probs), atol=1e-4, rtol=1e-3)
        influence = influence_of(module.estimator, joint)
        others = joint.shape[2] - 1
        for agent in kind.agents:
            kept = torch.as_tensor(joint.context)[:, :, agent]
            assert kind.balances[agent].abs().max() > 0.1
            torch.testing.assert_close(kept[..., :others], kind.balances[agent], atol=1e-3, rtol=1e-3)
            assert torch.equal(kept[..., others], (torch.arange(12) % 6).unsqueeze(1).expand(12, 4).float())
            assert (torch.as_tensor(joint.tail_context)[:, agent, others] == 6).all()
            received, given = kind._exchanged(joint, agent, module)
            for place in range(others):
                other = (agent + 1 + place) % (others + 1)
                torch.testing.assert_close(received[..., place], influence[..., other, agent], atol=1e-3, rtol=1e-3)
                torch.testing.assert_close(given[..., place], influence[..., agent, other], atol=1e-3, rtol=1e-3)
    assert (group.goes_on(joint.tail_context) == 0).all()  # nothing follows the end of an episode


@pytest.mark.parametrize("form", ["product", "sign_of_balance", "sign_of_influence"])
@pytest.mark.parametrize(("pay_back", "noted"), [(True, True), (True, False), (False, False)])
def test_the_reward_is_extrinsic_plus_reciprocal(pay_back, noted, form):
    """Whether runners have noted who influenced whom or not."""
    config = config_of(
        WORLDS["three"], pay_back=pay_back, decay=0.9, reward_form=form, reciprocal_weight=((0, 1.0), (96, 3.0))
    )
    runner = runner_of(config)
    kinds: Any = runner.population.kinds()
    modules = dict(runner.module.items())
    (joint,) = (trajectory.to_tensors() for trajectory in runner.sample())
    if not noted:
        joint = replace(joint, context=None, tail_context=None)
    for agent, (module_id, kind) in enumerate(kinds.items()):
        kind.observe(joint, modules, kinds)
        influence = influence_of(modules[module_id].estimator, joint).numpy()
        expected = plain_reward(influence, joint.starts.numpy(), 0.9, pay_back, form)[..., agent]
        received = joint.rewards[..., agent]
        found = kind.reward(joint, agent, received).numpy()
        np.testing.assert_allclose(found, received.numpy() + 2 * expected, atol=1e-3, rtol=1e-3)  # 48 of 96 env steps
        assert np.abs(expected).max() > 0.1


def test_a_balance_is_a_running_sum_that_the_policy_sees_clipped():
    module = runner_of(config_of(COINS, balance_limit=2.0)).module["reciprocator_0"]
    assert module.inputs(torch.tensor([[1.0, 3.0], [-9.0, 6.0]])).tolist() == [[0.5, 0.5], [-1.0, 1.0]]


def test_without_seeing_balances_runners_need_no_estimator():
    runner = JointEnvRunner(config=config_of(COINS, balance_input=False), worker_index=0)
    assert not hasattr(runner.module["reciprocator_0"], "estimator")
    (joint,) = runner.sample()
    assert np.asarray(joint.context).shape == (12, 4, 2, 1)


def test_shared_estimators_are_fitted_once_and_copied():
    config = config_of(COINS, frozen_iterations=1, estimator={"epochs": 1}, balance_input=False)
    runner = JointEnvRunner(config=config, worker_index=0)
    kinds: Any = runner.population.kinds()
    modules = dict(config.get_multi_rl_module_spec().build().items())
    group = LearningGroup(tuple(kinds.values()), tuple(modules.values()))
    (joint,) = (trajectory.to_tensors() for trajectory in runner.sample())
    for kind in kinds.values():
        kind.observe(joint, modules, kinds)
        assert kind.num_epochs == 0
    losses = list(Reciprocator.auxiliary_losses(group, joint, torch.Generator().manual_seed(1)))
    assert all(loss.shape == (2,) for loss, _ in losses)
    states = [module.estimator.state_dict() for module in modules.values()]
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    for kind in kinds.values():
        kind.observe(joint, modules, kinds)
        assert kind.num_epochs == 2
    first, second = kinds.values()
    assert second._influence is first._influence
    assert list(Reciprocator.auxiliary_losses(group, joint, torch.Generator())) == []  # until the tenth iteration


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fill_what_is_not_given(preset):
    options = checked_options(Reciprocator, {"preset": preset, "lr": 0.5, "estimator": {"epochs": 3}})
    assert isinstance(options, ReciprocatorOptions)
    assert (options.lr, options.estimator.epochs) == (0.5, 3)
    assert options.estimator.form == ("auto" if preset == "default" else "twins")
    assert options.decay == (0.99 if preset == "authors_code" else 1.0)
    assert checked_options(Reciprocator, options.model_dump(mode="json")) == options
    config_of(COINS, [{"kind": "reciprocator", "preset": preset, "count": 2}])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"reciprocal_weight": [[0, 1.0]]}, "reciprocal_weight.*two or more"),
        ({"reciprocal_weight": [[10, 1.0], [0, 2.0]]}, "rising env steps that begin at 0"),
        ({"reciprocal_weight": -1}, "needs numbers >= 0"),
        ({"decay": 1.5}, "'decay' = 1.5.*less than or equal to 1"),
        ({"decay": -0.5}, "'decay' = -0.5"),
        ({"reward_form": "cube"}, "'reward_form' = 'cube'.*'product'"),
        ({"preset": "mine"}, "'preset' = 'mine'"),
        ({"estimator": {"form": "oracle"}}, r"'estimator.form' = 'oracle'"),
        ({"estimator": {"refit": 3}}, r"Unknown key in estimator 'refit'. Did you mean 'refit_every'"),
    ],
)
def test_options_that_make_no_sense(options, reason):
    with pytest.raises(SettingError, match=reason):
        checked_options(Reciprocator, options)


def test_worlds_that_do_not_fit():
    with pytest.raises(SettingError, match=r"estimator.shared = True needs a world .*shared: false"):
        config_of(CLEANUP, estimator={"shared": True})
    with pytest.raises(SettingError, match=r"'tabular' counts states .*'counterfactual'"):
        config_of(COINS, estimator={"form": "tabular"})


@pytest.mark.parametrize("fragment", [7, "auto"])
def test_parts_of_episodes_are_refused(fragment):
    config = config_of(COINS).env_runners(rollout_fragment_length=fragment)
    with pytest.raises(
        SettingError, match=r"need whole episodes.*complete_episodes.*multiple of the episode's 6 steps"
    ):
        config.validate()
    config.env_runners(batch_mode="complete_episodes").validate()


def test_a_trajectory_that_begins_within_an_episode_is_refused():
    runner = runner_of(config_of(COINS))
    runner.sample(num_timesteps=12)
    (joint,) = (trajectory.to_tensors() for trajectory in runner.sample())
    kinds: Any = runner.population.kinds()
    with pytest.raises(SettingError, match="begins within episodes"):
        kinds["reciprocator_0"].observe(joint, dict(runner.module.items()), kinds)
