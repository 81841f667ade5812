"""LIO: incentives, and what they are worth, against loops, against autograd and against finite differences of a whole update."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from env_registry.parameters import SettingError
from rllib_empathy.learning.advantages import generalized_advantages
from rllib_empathy.learning.groups import group_batch, group_modules, trajectory_values
from rllib_empathy.policies.kind import WorldFacts, checked_options
from rllib_empathy.policies.lio import LIO, LIOOptions
from rllib_empathy.population import Population
from rllib_empathy.reshaping.incentives import directional_derivatives, less_the_others_mean, worth_of_rewards
from tests.algorithm.common import small_config
from tests.core.agents import SMALL, facts_of
from tests.core.made_up import made_up

few = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 2**31)
ACTIONS = (4, 3, 2, 4)


# -- pure functions


@few
@given(SEEDS, st.integers(1, 4))
def test_each_game_is_compared_with_the_others(seed, games):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 3, games))
    counts = rng.random((3, games)) < 0.7
    found = less_the_others_mean(torch.tensor(x), torch.tensor(counts)).numpy()
    for step, game in np.ndindex(3, games):
        others = [x[step, other] for other in range(games) if other != game and counts[step, other]]
        expected = (x[step, game] - (np.mean(others) if others else 0.0)) * counts[step, game]
        assert found[step, game] == pytest.approx(expected, abs=1e-12)
    swapped = less_the_others_mean(torch.tensor(y), torch.tensor(counts)).numpy()
    np.testing.assert_allclose((y * found).sum(1), (swapped * x).sum(1), atol=1e-9)


def test_directional_derivatives_are_gradients_of_each_output_along_the_directions():
    torch.manual_seed(0)
    parameters = [torch.randn(3, 2, requires_grad=True), torch.randn(3, requires_grad=True)]
    directions = [[torch.randn(3, 2), torch.randn(3)] for _ in range(4)]
    inputs = torch.randn(5, 2)
    outputs = torch.tanh(inputs @ parameters[0].T + parameters[1]).prod(-1).view(5, 1)
    found = directional_derivatives(outputs, parameters, directions)
    assert found.shape == (4, 5, 1)
    for row in range(5):
        gradients = torch.autograd.grad(outputs[row, 0], parameters, retain_graph=True)
        for number, direction in enumerate(directions):
            expected = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
            torch.testing.assert_close(found[number, row, 0], expected)


@few
@given(SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_the_worth_of_rewards_is_the_adjoint_of_advantage_estimation(seed, gamma, lambda_):
    joint = made_up(seed).to_tensors()
    generator = torch.Generator().manual_seed(seed)
    x, values, rewards = torch.randn(3, *joint.shape, generator=generator, dtype=torch.float64)
    tails = torch.randn(len(joint.tail_steps), 3, generator=generator, dtype=torch.float64)
    rewards.requires_grad_()
    discount, share = torch.full((3,), gamma).double(), torch.full((3,), lambda_).double()
    advantages = generalized_advantages(joint, rewards, values, tails, discount, share)
    expected = torch.autograd.grad((x * joint.alive * advantages).sum(), rewards)[0]
    goes_on = joint.alive & joint.survives & ~(joint.terminated | joint.truncated).unsqueeze(-1)
    x, alive, goes_on = (column.movedim(2, 0) for column in (x, joint.alive, goes_on))
    found = worth_of_rewards(x, alive, goes_on, (discount * share).view(-1, 1))
    torch.testing.assert_close(found.movedim(0, 2), expected)


# -- a small population in double precision


class Stage:
    """LIO agents among others in made-up games, and all that a Learner does to their policies, in double precision."""

    def __init__(self, *entries: Any, actions: tuple[int, ...] = ACTIONS, shape: tuple[int, ...] = (3,)) -> None:
        space = Box(0, 255, shape, np.uint8) if len(shape) == 3 else Box(-np.inf, np.inf, shape, np.float32)
        spaces = tuple(Discrete(count) for count in actions)
        facts = WorldFacts(None, {}, object, len(actions), space, spaces, "a world")
        defaults = {"network": {**SMALL, "hidden": (4,)}, "incentive_hidden": (4, 3), "exploration": 0.1}
        self.population = Population.of(entries, len(actions), defaults)
        self.kinds: Any = self.population.kinds()
        self.modules: dict[str, Any] = {}
        self.actions, self.shape = np.array(actions), shape
        torch.manual_seed(1)
        for member in self.population.members:
            config = member.kind.model_config(member.options, facts, member.agents)
            module: Any = member.kind.Module(
                observation_space=space, action_space=spaces[member.agents[0]], model_config=config
            )
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.5)
            self.modules[member.module_id] = module.double()

    @property
    def lio_groups(self) -> list[Any]:
        return [group for group in group_modules(self.kinds, self.modules, 36) if isinstance(group.kinds[0], LIO)]

    def games(self, seed: int, **options: Any) -> Any:
        made = made_up(seed, agents=len(self.actions), shape=self.shape, whole_episodes=True, **options)
        made = replace(made, actions=made.actions % self.actions, rewards=made.rewards.astype(np.float64))
        if made.action_masks is not None:
            taken = np.arange(made.action_masks.shape[-1]) == made.actions[..., None]
            made = replace(made, action_masks=made.action_masks | taken)
        return made.to_tensors()

    def rewards(self, joint: Any, payments: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """What all learn from, by the kinds' own `observe` and `reward`; the payments of some may be given."""
        for kind in self.kinds.values():
            kind.observe(joint, self.modules, self.kinds)
        whose = [self.kinds[module_id] for _, module_id in sorted(self.population.module_of_agent.items())]
        for agent, to_each in payments.items():
            whose[agent]._paid[agent] = to_each
        return torch.stack([kind.reward(joint, i, joint.rewards[..., i]) for i, kind in enumerate(whose)], -1)

    def payments(self, joint: Any) -> dict[int, torch.Tensor]:
        """What all LIO agents pay, agent -> `[T, B, N]`."""
        self.rewards(joint, {})
        return {agent: to for group in self.lio_groups for kind in group.kinds for agent, to in kind._paid.items()}

    def stepped(self, joint: Any, payments: Mapping[int, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
        """The policies' parameters after the plain steps that a Learner would take: module id -> name -> parameter."""
        rewards = self.rewards(joint, payments)
        after: dict[str, dict[str, torch.Tensor]] = {}
        gamma, lambda_, scale = torch.ones(3, joint.shape[2], dtype=torch.float64)
        for kind in self.kinds.values():
            own = kind.options.gamma, kind.options.lambda_, kind.options.reward_scale
            gamma[list(kind.agents)], lambda_[list(kind.agents)], scale[list(kind.agents)] = own
        for group in self.lio_groups:
            seen = group.gather(joint.observations)
            inputs = group.inputs(None, seen)
            values, tail_values = trajectory_values(group, joint, seen, inputs)
            everyone, tails = torch.zeros_like(rewards), rewards.new_zeros(len(joint.tail_steps), joint.shape[2])
            group.scatter(values.double(), everyone)
            group.scatter(tail_values.double().permute(0, 2, 1).flatten(1).unsqueeze(1), tails.unsqueeze(0))
            advantages = generalized_advantages(joint, rewards * scale, everyone, tails, gamma, lambda_)
            batch = group_batch(group, joint, seen, inputs, advantages, advantages + everyone)
            loss, _ = LIO.losses(group.kinds, group.modules, batch, 0)
            for kind, module, of_kind in zip(group.kinds, group.modules, loss, strict=True):
                named = dict(module.actor_critic.named_parameters())
                gradients = torch.autograd.grad(of_kind, list(named.values()), retain_graph=True)
                after[kind.module_id] = {
                    name: p.detach() - (0.0 if name.startswith("value.") else kind.options.lr * g)
                    for (name, p), g in zip(named.items(), gradients, strict=True)
                }
        return after


def slow_objective(stage: Stage, giver: int, before: Any, now: Any, payments: Mapping[int, torch.Tensor]) -> float:
    """J_i at the policies after their steps on `before`, less the cost of what i pays there, row by row.

    What the others pay is given.
    """
    policies = stage.stepped(before, {agent: to for agent, to in payments.items() if agent != giver})
    of_agent = stage.population.module_of_agent
    kind = stage.kinds[of_agent[giver]]
    gamma = kind.options.gamma
    steps, games, agents = now.shape
    ended = (now.terminated | now.truncated).numpy()
    returns = np.zeros((steps + 1, games))
    for t, b in np.ndindex(steps, games):
        t = steps - 1 - t
        returns[t, b] = now.rewards[t, b, giver] * now.alive[t, b, giver]
        returns[t, b] += 0.0 if ended[t, b] else gamma * returns[t + 1, b]
    log_probs = {}
    for group in stage.lio_groups:
        for kind_j, module in zip(group.kinds, group.modules, strict=True):
            batch = {"obs": now.observations.flatten(0, 2).double()}
            logits = torch.func.functional_call(
                module, {f"actor_critic.{n}": p for n, p in policies[kind_j.module_id].items()}, (batch,)
            )["action_dist_inputs"]
            policy = logits.softmax(-1).reshape(steps, games, agents, -1)
            masks = now.action_masks
            might = torch.ones_like(policy) if masks is None else masks[..., : policy.shape[-1]].double()
            policy = policy * might / (policy * might).sum(-1, keepdim=True)
            even, share = might / might.sum(-1, keepdim=True), kind_j.options.exploration
            for agent in kind_j.agents:
                log_probs[agent] = ((1 - share) * policy[:, :, agent] + share * even[:, :, agent]).log()
    total = 0.0
    for t, b in np.ndindex(steps, games):
        others = [returns[t, c] for c in range(games) if c != b and now.alive[t, c].any()]
        advantage = float(returns[t, b] - (np.mean(others) if others else 0.0))
        for agent, log_policy in log_probs.items():
            if agent != giver and now.alive[t, b, agent]:
                total += float(log_policy[t, b, now.actions[t, b, agent]]) * advantage
    elapsed, cost = np.zeros(games, int), 0.0
    for t, b in np.ndindex(*before.shape[:2]):
        elapsed[b] = 0 if before.starts[t, b] else elapsed[b] + 1
        cost += gamma ** elapsed[b] * float(kind._paid[giver][t, b].sum())
    return total / now.env_steps() - kind.options.incentive_cost * cost / before.env_steps()


POPULATIONS: dict[str, tuple[Any, ...]] = {
    "unlike": (
        {"kind": "lio", "gamma": 0.9, "lr": 0.7, "entropy_coeff": 0.1, "name": "a"},
        {"kind": "lio", "gamma": 0.8, "lambda_": 0.6, "reward_scale": 0.5, "incentive_cost": 0.3, "name": "b"},
        {"kind": "lio", "exploration": 0.5, "largest_incentive": 2.0, "name": "c"},
        "ppo",
    ),
    "shared": ({"kind": "lio", "count": 2, "shared": True, "lr": 0.5}, {"kind": "lio", "count": 2, "incentive_cost": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize(
    ("shape", "options"), [((3,), {}), ((3,), {"seats": True}), ((2, 3, 3), {}), ((3,), {"masks": True})]
)
def test_the_gradient_is_that_of_what_is_earned_after_the_others_steps(population, shape, options):
    """Finite differences through paying, advantages, the loss of the policies, their steps, and J_i, less the cost."""
    alike = population == "shared" or bool(options)  # agents that share, or change seats, have actions alike
    stage = Stage(*POPULATIONS[population], actions=(3,) * 4 if alike else ACTIONS, shape=shape)
    before, now = stage.games(1, **options), stage.games(2, **options)
    assert LIO.losses_before_rewards(stage.lio_groups, before, 0) == []
    payments = stage.payments(before)
    begun = {module_id: copy.deepcopy(module.actor_critic.state_dict()) for module_id, module in stage.modules.items()}
    for module_id, after in stage.stepped(before, {}).items():
        stage.modules[module_id].actor_critic.load_state_dict(after)
    found = LIO.losses_before_rewards(stage.lio_groups, now, 36)
    for group, loss, statistics in found:
        assert all(value.shape == loss.shape == (len(group.kinds),) for value in statistics.values())
    torch.stack([loss.sum() for _, loss, _ in found]).sum().backward()
    for module_id, before_step in begun.items():  # every objective takes its own steps from there
        stage.modules[module_id].actor_critic.load_state_dict(before_step)

    generator = torch.Generator().manual_seed(3)
    for group in stage.lio_groups:
        for kind, module in zip(group.kinds, group.modules, strict=True):
            parameters = list(module.incentives.parameters())
            direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
            slope = 0.0
            for step in (1e-4, -1e-4):
                nn.utils.vector_to_parameters(vector(parameters) + step * vector(direction), parameters)
                slope += sum(slow_objective(stage, giver, before, now, payments) for giver in kind.agents) / (2 * step)
                nn.utils.vector_to_parameters(vector(parameters) - step * vector(direction), parameters)
            gradient = vector([p.grad for p in parameters])
            assert abs(slope) > 1e-6
            assert -float(gradient @ vector(direction)) == pytest.approx(slope, rel=1e-4), kind.module_id


def vector(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


# -- payments, and who learns from what


@pytest.mark.parametrize("seats", [False, True])
def test_payments_are_those_of_one_row_at_a_time(seats):
    stage = Stage(*POPULATIONS["unlike"], actions=(3,) * 4)
    joint = stage.games(5, seats=seats)
    payments = stage.payments(joint)
    assert sorted(payments) == [0, 1, 2]
    places = joint.places()
    for (agent, to_each), largest in zip(sorted(payments.items()), (3.0, 3.0, 2.0), strict=True):
        network = stage.modules[stage.population.module_of_agent[agent]].incentives
        for t, b in np.ndindex(*joint.shape[:2]):
            around = places[t, b, agent]
            did = joint.actions[t, b, around[1:]]
            x = network.hidden_1.weight @ joint.observations[t, b, agent].double() + network.hidden_1.bias
            x = x + sum(network.actions.weight[:, 3 * place + action] for place, action in enumerate(did.tolist()))
            shares = torch.sigmoid(network.out(torch.relu(network.hidden_2(torch.relu(x)))))
            expected = [0.0] * 4
            for other, share in zip(around[1:].tolist(), shares.tolist(), strict=True):
                both = joint.alive[t, b, agent] and joint.alive[t, b, other]
                expected[other] = largest * share * bool(both) * (other != 3)  # who is of another kind is not paid
            np.testing.assert_allclose(to_each[t, b], expected, atol=1e-12)


def test_incentives_are_added_to_what_lio_agents_receive_and_to_nobody_elses():
    stage = Stage(*POPULATIONS["unlike"])
    joint = stage.games(5)
    payments = stage.payments(joint)
    rewards = stage.rewards(joint, {})
    for agent in range(3):
        expected = joint.rewards[..., agent] + sum(to_each[..., agent] for to_each in payments.values())
        torch.testing.assert_close(rewards[..., agent], expected)
    assert torch.equal(rewards[..., 3], joint.rewards[..., 3])
    logged = {name: value for kind in stage.kinds.values() for name, value in kind.statistics().items()}
    there = joint.alive[..., 0] & joint.alive[..., 1]
    assert logged["incentive/agent_0_to_1"] == pytest.approx(float(payments[0][..., 1][there].mean()))
    assert logged["incentive_given/agent_0"] == pytest.approx(float(payments[0].sum(-1).mean()))
    received: Any = sum(to_each[..., 0] for to_each in payments.values())
    assert logged["incentive_received/agent_0"] == pytest.approx(float(received.mean()))
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    assert {name for name in logged if "_to_" in name} == {f"incentive/agent_{i}_to_{j}" for i, j in pairs}


def test_one_lio_agent_alone_pays_nobody_and_learns():
    stage = Stage("ppo", "lio", "ppo", "a2c")
    before, now = stage.games(1), stage.games(2)
    assert torch.equal(stage.rewards(before, {}), before.rewards)
    LIO.losses_before_rewards(stage.lio_groups, before, 0)
    ((_, loss, _),) = LIO.losses_before_rewards(stage.lio_groups, now, 36)
    assert loss.tolist() == [0.0]


def test_policies_values_and_incentives_learn_apart():
    stage = Stage(*["lio"] * 4, actions=(3,) * 4)
    before, now = stage.games(1), stage.games(2)
    LIO.losses_before_rewards(stage.lio_groups, before, 0)
    (group,) = stage.lio_groups
    ((_, loss, _),) = LIO.losses_before_rewards([group], now, 36)
    loss.sum().backward()
    for module in group.modules:
        moved = {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert moved == {name for name, _ in module.named_parameters() if name.startswith("incentives.")}
        module.zero_grad(set_to_none=True)

    seen = group.gather(now.observations)
    advantages, returns = torch.randn(2, *now.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = group_batch(group, now, seen, group.inputs(None, seen), advantages, returns)
    gradients = []
    for target in (batch.returns, batch.returns + 1):
        loss, _ = LIO.losses(group.kinds, group.modules, batch._replace(returns=target), 0)
        gradients.append(torch.autograd.grad(loss.sum(), list(group.modules[0].actor_critic.parameters())))
    assert all(p.grad is None for module in group.modules for p in module.incentives.parameters())
    for (name, _), one, other in zip(group.modules[0].actor_critic.named_parameters(), *gradients, strict=True):
        assert torch.equal(one, other) == (not name.startswith("value.")), name


# -- what is wrong is said


WRONG = {
    "clipping": ({"grad_clip": 1.0}, "'grad_clip' = 1.0: is not for LIO agents"),
    "normalising": ({"normalize_advantages": True}, "'normalize_advantages' = True: is not for LIO agents"),
    "no incentives": ({"largest_incentive": 0}, "'largest_incentive' = 0"),
    "a reward for paying": ({"incentive_cost": -1}, "'incentive_cost' = -1"),
    "no width": ({"incentive_hidden": (4, 0)}, "widths are at least 1"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_named(options, message):
    with pytest.raises(SettingError, match=message):
        checked_options(LIO, options)


def test_worlds_and_networks_that_do_not_fit_are_refused_at_once():
    space = Box(-1, 1, (3,), np.float32)
    alone = facts_of(space)._replace(num_agents=1, action_spaces=(Discrete(2),))
    with pytest.raises(SettingError, match="somebody to pay"):
        LIO.check_world(alone, LIOOptions())
    recurrent = checked_options(LIO, {"network": {"memory": "gru"}})
    with pytest.raises(SettingError, match=r"network\.memory = 'gru'.*Use memory 'none'"):
        LIO.check_spaces(space, Discrete(2), recurrent)
    config = small_config("iterated_prisoners_dilemma", "lio", steps=50)
    with pytest.raises(SettingError, match="kind 'lio' need whole episodes"):
        config.validate()


def test_who_sits_elsewhere_forgets_the_last_step():
    options = LIOOptions()
    kind = LIO("lio_0", options, (0,))
    state = {"agents": (0,), "batch": None, "step": ({"w": np.ones(2)}, np.zeros(1), 0.1)}
    kind.set_state(state)
    assert kind.step is not None
    assert kind.step.size == 0.1
    moved = LIO("lio_0", options, (1,))
    moved.set_state(state)
    assert moved.step is None
    assert moved.get_state() == {}
