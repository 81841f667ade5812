"""Groups of like agents: their rows, values, minibatches and losses, against loops over agents and rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rllib_empathy.joint import JointTrajectory, concatenate
from rllib_empathy.learning import groups
from rllib_empathy.learning.groups import (
    LearningGroup,
    all_parameters,
    group_modules,
    minibatches,
    row_weights,
    standardized,
)
from rllib_empathy.learning.statistics import explained_variance
from rllib_empathy.policies.actor_critic import Minibatch, scheduled
from rllib_empathy.policies.networks import evaluate, stack_parameters
from tests.core.agents import STATES, group_of, module_of
from tests.core.made_up import made_up

few = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**31)
PAIRS = {"kind": "ppo", "count": 2, "shared": True}
WHO: dict[str, list[Any]] = {
    "separate": ["ppo", "ppo", "ppo", "ppo"],
    "shared in pairs": [PAIRS, {**PAIRS, "name": "others"}],
    "one for all": [{**PAIRS, "count": 4}],
}
COLUMNS = ("actions", "log_probs", "advantages", "returns", "weights", "starts")


def values_of(group: LearningGroup, joint: JointTrajectory) -> tuple[Tensor, Tensor]:
    seen = group.gather(joint.observations)
    return groups.trajectory_values(group, joint, seen, group.inputs(joint.context, seen))


def batch_of(group: LearningGroup, joint: JointTrajectory, advantages: Tensor, returns: Tensor) -> Minibatch:
    seen = group.gather(joint.observations)
    return groups.group_batch(group, joint, seen, group.inputs(joint.context, seen), advantages, returns)


def some_batch(group: LearningGroup, memory: str = "none", **made: Any) -> tuple[JointTrajectory, Minibatch]:
    joint = made_up(1, agents=group.agents.numel(), memory=STATES[memory], **made).to_tensors()
    generator = torch.Generator().manual_seed(1)
    advantages, returns = (torch.randn(joint.shape, generator=generator) for _ in range(2))
    return joint, batch_of(group, joint, advantages, returns)


# -- rows


@pytest.mark.parametrize("who", WHO)
def test_gather_and_scatter_are_inverse(who):
    group = group_of(*WHO[who])
    column = torch.randn(5, 3, 4)
    gathered = group.gather(column)
    assert gathered.shape == (len(group.kinds), 5, 12 // len(group.kinds))
    out = torch.full_like(column, torch.nan)
    group.scatter(gathered, out)
    assert torch.equal(out, column)


@pytest.mark.parametrize("who", WHO)
def test_rows_are_the_agents_games_in_turn(who):
    group = group_of(*WHO[who])
    column = torch.randn(5, 3, 4, 2)
    gathered = group.gather(column)
    for number, kind in enumerate(group.kinds):
        for place, agent in enumerate(kind.agents):
            for game in range(3):
                assert torch.equal(gathered[number, :, place * 3 + game], column[:, game, agent])


def test_agents_that_are_no_members_are_left_alone():
    group = group_of("ppo", "ppo", "ppo", "ppo")
    part = LearningGroup(group.kinds[1:3], group.modules[1:3])
    column = torch.randn(5, 3, 4)
    out = torch.zeros_like(column)
    part.scatter(part.gather(column), out)
    assert torch.equal(out[..., 1:3], column[..., 1:3])
    assert not out[..., [0, 3]].any()


@pytest.mark.parametrize("who", WHO)
def test_starts_and_states_follow_the_rows(who):
    group = group_of(*WHO[who], memory="lstm")
    joint = made_up(1, agents=4, memory=STATES["lstm"]).to_tensors()
    starts, state = group.starts(joint), group.state(joint)
    assert torch.equal(starts, group.gather(joint.starts.unsqueeze(-1).expand(joint.shape)))
    for name, value in state.items():
        column = torch.stack([of_agent[name] for of_agent in joint.states], 1).unsqueeze(0)
        assert torch.equal(value, group.gather(column)[:, 0])


# -- which agents are learned together


def grouped(shuffle: int = 0) -> list[list[str]]:
    kinds: dict[str, Any] = {}
    modules: dict[str, Any] = {}
    members: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("big", {"kind": "ppo"}, {"hidden": (9,)}),
        ("plain", {"kind": "ppo"}, {}),
        ("often", {"kind": "ppo", "num_epochs": 5}, {}),
        ("small_batches", {"kind": "ppo", "minibatch_size": 10}, {}),
        ("other_kind", {"kind": "a2c"}, {}),
        ("other_numbers", {"kind": "ppo", "lr": 0.5, "gamma": 0.1, "clip_param": 0.4, "vf_clip_param": 3.0}, {}),
        ("shared", {"kind": "ppo", "count": 2, "shared": True}, {}),
        ("memory", {"kind": "ppo"}, {"memory": "gru"}),
    ]
    for prefix, entry, network in members:
        for copy in range(2):
            name = f"{prefix}_{copy}"
            kinds[name] = group_of(entry, **network).kinds[0]
            modules[name] = module_of(entry["kind"], **network)
            kinds[name].module_id = name
    order = np.random.default_rng(shuffle).permutation(sorted(kinds)).tolist()
    found = group_modules({name: kinds[name] for name in order}, modules, 100)
    for group in found:
        assert all(modules[kind.module_id] is m for kind, m in zip(group.kinds, group.modules, strict=True))
    return [[kind.module_id for kind in group.kinds] for group in found]


def test_only_like_agents_are_learned_together():
    together = {frozenset(name.rsplit("_", 1)[0] for name in names): len(names) for names in grouped()}
    alike = frozenset({"plain", "other_numbers"})
    assert together.pop(alike) == 4
    assert set(together.values()) == {2}
    assert all(len(names) == 1 for names in together)
    assert len(together) == 6


def test_the_order_of_modules_does_not_matter():
    assert grouped(1) == grouped(2) == grouped(3)
    assert all(names == sorted(names) for names in grouped())


# -- values


def slow_values(group: LearningGroup, joint: JointTrajectory) -> tuple[Tensor, Tensor]:
    """One agent, game and step at a time: `[T, B, N]` and `[K, N]`."""
    steps, games, agents = joint.shape
    values, tail_values = torch.zeros(steps, games, agents), torch.zeros(len(joint.tail_steps), agents)
    places = list(zip(joint.tail_steps.tolist(), joint.tail_games.tolist(), strict=True))
    for kind, module in zip(group.kinds, group.modules, strict=True):
        parameters = stack_parameters([module.actor_critic])

        def look(seen: Tensor, state: dict[str, Tensor], module: Any = module, parameters: Any = parameters) -> Any:
            return evaluate(module.architecture, parameters, seen.view(1, 1, 1, *seen.shape), state)

        for agent in kind.agents:
            for game in range(games):
                state = {name: v[game].view(1, 1, -1) for name, v in joint.states[agent].items()}
                for step in range(steps):
                    if joint.starts[step, game]:
                        state = {name: torch.zeros_like(value) for name, value in state.items()}
                    answer = look(joint.observations[step, game, agent], state)
                    state = answer.state
                    values[step, game, agent] = answer.values
                    if (step, game) in places:
                        number = places.index((step, game))
                        tail = look(joint.tail_observations[number, agent], state)
                        tail_values[number, agent] = tail.values
    return values, tail_values


@pytest.mark.parametrize("whole_episodes", [False, True])
@pytest.mark.parametrize("memory", STATES)
@pytest.mark.parametrize("who", WHO)
@torch.no_grad()
def test_values_like_a_loop_over_agents_games_and_steps(who, memory, whole_episodes):
    group = group_of(*WHO[who], memory=memory)
    joint = made_up(4, agents=4, memory=STATES[memory], whole_episodes=whole_episodes, ends=0.25).to_tensors()
    assert whole_episodes or (joint.tail_steps < joint.shape[0] - 1).any()
    assert_values(group, joint)


@pytest.mark.parametrize("shape", [(5,), (3, 4, 4)])
@torch.no_grad()
def test_values_in_pieces(shape, monkeypatch):
    monkeypatch.setattr(groups, "ROWS_AT_ONCE", 7)
    assert_values(group_of("ppo", "ppo", shape=shape), made_up(4, agents=2, shape=shape).to_tensors())


@pytest.mark.parametrize("memory", STATES)
@torch.no_grad()
def test_values_of_games_that_all_end_before_the_last_row(memory):
    """Learners take shares of whole episodes; in some shares nobody plays as long as elsewhere."""
    joint = made_up(2, games=4, agents=2, memory=STATES[memory], whole_episodes=True, ends=0.4)
    share = joint.games(1, 4)
    assert share.tail_steps.max() < joint.shape[0] - 1
    assert_values(group_of("ppo", "ppo", memory=memory), share.to_tensors())


@pytest.mark.parametrize("memory", STATES)
@torch.no_grad()
def test_values_of_padded_games(memory):
    parts = [made_up(seed, steps=3 + 4 * seed, games=2, agents=2, memory=STATES[memory]) for seed in range(2)]
    assert_values(group_of("ppo", "ppo", memory=memory), concatenate(parts).to_tensors())


def assert_values(group: LearningGroup, joint: JointTrajectory) -> None:
    values, tail_values = values_of(group, joint)
    expected, expected_tails = slow_values(group, joint)
    assert values.shape[1] == joint.shape[0]
    torch.testing.assert_close(values, group.gather(expected), atol=1e-5, rtol=1e-4)
    by_agent = torch.empty_like(expected_tails)
    for number, kind in enumerate(group.kinds):
        by_agent[:, list(kind.agents)] = tail_values[number]
    torch.testing.assert_close(by_agent, expected_tails, atol=1e-5, rtol=1e-4)


# -- standardised advantages, explained variance


@few
@given(SEEDS, st.floats(0, 1), st.floats(-100, 100), st.floats(0.01, 100))
def test_standardized_like_numpy(seed, share, shift, spread):
    rng = np.random.default_rng(seed)
    x = (shift + spread * rng.normal(size=(3, 6, 5))).astype(np.float32)
    mask = rng.random(x.shape) < share
    ours = standardized(torch.from_numpy(x), torch.from_numpy(mask)).numpy()
    assert ours.dtype == np.float32
    assert np.isfinite(ours).all()
    for agent in range(3):
        entries = x[agent][mask[agent]].astype(np.float64)
        if len(entries) > 1 and entries.std() > 1e-3 * spread:
            expected = (entries - entries.mean()) / entries.std()
            np.testing.assert_allclose(ours[agent][mask[agent]], expected, atol=2e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, 100.0, -1e4])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.0])
def test_entries_that_are_all_the_same_are_no_news(value, share):
    x = torch.full((2, 40, 30), value)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < share
    assert (standardized(x, mask)[mask].abs() < 1e-2).all()


def test_what_is_masked_does_not_count():
    x = torch.randn(2, 6, 5)
    mask = torch.rand(x.shape) < 0.5
    other = torch.where(mask, x, 1e4)
    assert torch.equal(standardized(x, mask)[mask], standardized(other, mask)[mask])


@few
@given(SEEDS)
def test_explained_variance_like_numpy(seed):
    rng = np.random.default_rng(seed)
    returns, noise = rng.normal(3, 2, (2, 3, 6, 5))
    values = returns + noise * np.array([0, 0.5, 3])[:, None, None]
    mask = rng.random(returns.shape) < 0.6
    ours = explained_variance(*map(torch.from_numpy, (values, returns, mask)))
    for agent in range(3):
        of_returns, errors = returns[agent][mask[agent]], (returns - values)[agent][mask[agent]]
        assert ours[agent].item() == pytest.approx(1 - errors.var() / of_returns.var(), abs=1e-6)
    assert ours[0].item() == pytest.approx(1)


def test_explained_variance_where_nothing_varies():
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[1] = False
    ours = explained_variance(torch.randn(2, 3, 4), torch.full((2, 3, 4), 2.0), mask)
    assert torch.equal(ours, torch.zeros(2))


# -- minibatches


def numbered(group: LearningGroup, memory: str, rows_of: int = 4) -> Minibatch:
    """A batch whose returns number its entries."""
    _, batch = some_batch(group, memory, games=rows_of)
    return batch._replace(returns=torch.arange(batch.returns.numel()).view(batch.returns.shape))


@pytest.mark.parametrize("size", [None, 1, 5, 7, 9, 36, 1000])
@pytest.mark.parametrize("memory", STATES)
@pytest.mark.parametrize("who", WHO)
def test_every_row_once_per_epoch(who, memory, size):
    entries = [
        {**({"kind": e} if isinstance(e, str) else e), "minibatch_size": size, "num_epochs": 3} for e in WHO[who]
    ]
    group = group_of(*entries, memory=memory)
    batch = numbered(group, memory)
    parts = list(minibatches(group, batch, 36, torch.Generator().manual_seed(1)))
    epochs = [parts[begin : begin + len(parts) // 3] for begin in range(0, len(parts), len(parts) // 3)]
    assert len(epochs) == 3
    steps = batch.actions.shape[1]
    for epoch in epochs:
        assert all(part.actions.numel() > 0 for part in epoch)
        rows = torch.cat([part.returns for part in epoch], 2)
        for mine, whole in zip(rows, batch.returns, strict=True):
            columns = {tuple(row) for row in mine.T.tolist()}
            assert columns == {tuple(row) for row in whole.T.tolist()}
            assert len(columns) == mine.shape[1]
        sizes = [part.actions.shape[2] for part in epoch]
        assert max(sizes) - min(sizes) <= 1
    for part in parts:
        at = part.returns // steps if memory == "none" else None
        assert part.returns.shape[1] == steps
        assert at is None or steps == 1
        assert_rows_belong_together(batch, part)


def assert_rows_belong_together(batch: Minibatch, part: Minibatch) -> None:
    """Every column of the part is what the batch has in the places that the part's returns name."""
    for name in (*COLUMNS, "observations"):
        whole = getattr(batch, name).reshape(batch.returns.numel(), -1)
        mine = getattr(part, name).reshape(part.returns.numel(), -1)
        assert torch.equal(whole[part.returns.flatten()], mine)
    rows = batch.returns.shape[2]
    for name, value in batch.state.items():
        for agent in range(len(value)):
            chosen = part.returns[agent, 0] % rows
            assert torch.equal(part.state[name][agent], value[agent, chosen])


def test_shuffled_anew_in_every_epoch_and_the_same_from_the_same_source():
    group = group_of({"kind": "ppo", "num_epochs": 2})
    batch = numbered(group, "none")

    def order(seed: int) -> list[list[int]]:
        parts = list(minibatches(group, batch, 36, torch.Generator().manual_seed(seed)))
        assert len(parts) == 8
        return [torch.cat([p.returns.flatten() for p in epoch]).tolist() for epoch in (parts[:4], parts[4:])]

    assert order(1) == order(1)
    assert order(1)[0] != order(1)[1]
    assert order(1) != order(2)


def test_a2c_takes_the_batch_as_it_is():
    group = group_of("a2c", "a2c")
    batch = numbered(group, "none")
    (only,) = minibatches(group, batch, 36, torch.Generator())
    assert only is batch


def test_batches_without_memory_are_rows_and_with_memory_sequences():
    joint, batch = some_batch(group_of("ppo", "ppo"))
    assert batch.actions.shape == (2, 1, joint.shape[0] * joint.shape[1])
    assert batch.state == {}
    joint, batch = some_batch(group_of("ppo", "ppo", memory="lstm"), "lstm")
    assert batch.actions.shape == (2, joint.shape[0], joint.shape[1])
    assert {name: value.shape for name, value in batch.state.items()} == {"h": (2, 4, 5), "c": (2, 4, 5)}


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_advantages_are_standardized_for_those_who_want_it(memory):
    group = group_of("ppo", {"kind": "ppo", "normalize_advantages": False}, memory=memory)
    joint = made_up(1, agents=2, memory=STATES[memory]).to_tensors()
    advantages = 5 + 3 * torch.randn(joint.shape, generator=torch.Generator().manual_seed(1))
    batch = batch_of(group, joint, advantages, advantages)
    raw = group.gather(advantages).reshape(batch.advantages.shape)
    assert torch.equal(batch.advantages[1], raw[1])
    alive = group.gather(joint.alive).reshape(raw.shape)[0]
    mine = batch.advantages[0][alive]
    assert mine.mean().item() == pytest.approx(0, abs=1e-5)
    assert mine.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert torch.equal(batch.returns, group.gather(advantages).reshape(raw.shape))


def test_rows_weigh_as_much_as_they_are_alive():
    alive = torch.tensor([[[True, True, False, False]], [[True, True, True, True]], [[False, False, False, False]]])
    expected = torch.tensor([[[2.0, 2.0, 0.0, 0.0]], [[1.0, 1.0, 1.0, 1.0]], [[0.0, 0.0, 0.0, 0.0]]])
    torch.testing.assert_close(row_weights(alive), expected.double())


# -- losses


def policies_now(group: LearningGroup, batch: Minibatch) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of all actions and values, float64."""
    with torch.no_grad():
        parameters = stack_parameters([module.actor_critic for module in group.modules])
        answer = evaluate(group.modules[0].architecture, parameters, batch.observations, batch.state, batch.starts)
    logits = answer.logits.double().numpy()
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), answer.values.double().numpy()


def slow_losses(group: LearningGroup, batch: Minibatch, alive: np.ndarray, env_steps: int) -> list[dict[str, float]]:
    """Row by row, as the papers write it; `alive` `[G, T, M]`."""
    log_policy, values = policies_now(group, batch)
    found = []
    kinds: tuple[Any, ...] = group.kinds
    for agent, kind in enumerate(kinds):
        parts: dict[str, list[float]] = {"policy_loss": [], "vf_loss": [], "entropy": [], "mean_kl": []}
        for step, row in np.argwhere(alive[agent]):
            at = (agent, step, row)
            log_probs = log_policy[at]
            now, before = log_probs[int(batch.actions[at])], float(batch.log_probs[at])
            advantage, target = float(batch.advantages[at]), float(batch.returns[at])
            error = (values[at] - target) ** 2
            if kind.name == "ppo":
                ratio, clip = np.exp(now - before), kind.options.clip_param
                parts["policy_loss"].append(-min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage))
                if kind.options.vf_clip_param is not None:
                    error = min(error, kind.options.vf_clip_param)
            else:
                parts["policy_loss"].append(-advantage * now)
            parts["vf_loss"].append(error)
            parts["entropy"].append(-sum(np.exp(p) * p for p in log_probs))
            parts["mean_kl"].append(np.exp(now - before) - 1 - (now - before))
        means = {name: float(np.mean(numbers)) if numbers else 0.0 for name, numbers in parts.items()}
        entropy_coeff = scheduled(kind.options.entropy_coeff, env_steps)
        means["total_loss"] = (
            means["policy_loss"] + kind.options.vf_loss_coeff * means["vf_loss"] - entropy_coeff * means["entropy"]
        )
        found.append(means)
    return found


PPO_AGENTS = [
    {"kind": "ppo", "clip_param": 0.1, "vf_clip_param": 0.5, "entropy_coeff": [[0, 0.0], [100, 1.0]]},
    {"kind": "ppo", "clip_param": 0.4, "entropy_coeff": 0.0, "vf_loss_coeff": 2.0, "normalize_advantages": False},
    {"kind": "ppo"},
]
A2C_AGENTS = [{"kind": "a2c", "vf_loss_coeff": 0.1}, {"kind": "a2c", "entropy_coeff": 0.3}]


@pytest.mark.parametrize("entries", [PPO_AGENTS, A2C_AGENTS, [{**PAIRS, "kind": "a2c"}]], ids=["ppo", "a2c", "shared"])
@pytest.mark.parametrize("memory", STATES)
def test_losses_like_the_formula_row_by_row(entries, memory):
    group = group_of(*entries, memory=memory)
    joint, batch = some_batch(group, memory)
    alive = group.gather(joint.alive).reshape(batch.actions.shape).numpy()
    loss, parts = group.kinds[0].losses(group.kinds, group.modules, batch, 30)
    expected = slow_losses(group, batch, alive, 30)
    assert set(parts) == set(expected[0])
    for agent, means in enumerate(expected):
        for name, number in means.items():
            assert parts[name][agent].item() == pytest.approx(number, abs=1e-4, rel=1e-4), name
    torch.testing.assert_close(loss, parts["total_loss"])
    assert not any(part.requires_grad for part in parts.values())


def gradients(group: LearningGroup, batch: Minibatch) -> list[Tensor]:
    parameters = all_parameters(group.modules)
    for parameter in parameters:
        parameter.grad = None
    group.kinds[0].losses(group.kinds, group.modules, batch, 0)[0].sum().backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


@pytest.mark.parametrize("memory", STATES)
def test_a2c_is_the_first_step_of_ppo(memory):
    """Where the policy is still the one that acted, the ratio is 1 and its gradient that of log pi."""
    of_kind = {name: group_of(name, name, memory=memory) for name in ("ppo", "a2c")}
    _, batch = some_batch(of_kind["ppo"], memory)
    log_policy, _ = policies_now(of_kind["ppo"], batch)
    acted = np.take_along_axis(log_policy, batch.actions.unsqueeze(-1).numpy(), -1).squeeze(-1)
    batch = batch._replace(log_probs=torch.from_numpy(acted).float())
    of_ppo, of_a2c = (gradients(group, batch) for group in of_kind.values())
    torch.testing.assert_close(of_ppo, of_a2c, atol=1e-5, rtol=1e-4)
    assert all(gradient.abs().sum() > 0 for gradient in of_ppo)


def test_ppo_stops_where_the_ratio_has_gone_far_enough():
    group = group_of({"kind": "ppo", "vf_loss_coeff": 0.0, "entropy_coeff": 0.0})
    _, batch = some_batch(group)
    log_policy, _ = policies_now(group, batch)
    acted = torch.from_numpy(np.take_along_axis(log_policy, batch.actions.unsqueeze(-1).numpy(), -1).squeeze(-1))
    for advantage, ratio, moves in ((1, 1.3, False), (1, 0.7, True), (-1, 0.7, False), (-1, 1.3, True)):
        far = batch._replace(
            log_probs=(acted - np.log(ratio)).float(), advantages=torch.full_like(batch.advantages, advantage)
        )
        assert any(gradient.abs().sum() > 0 for gradient in gradients(group, far)) == moves


@pytest.mark.parametrize("memory", STATES)
@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_rows_of_absent_agents_change_nothing(name, memory):
    group = group_of(name, name, memory=memory)
    joint, batch = some_batch(group, memory, deaths=0.3)
    alive = group.gather(joint.alive).reshape(batch.actions.shape)
    assert 0 < alive.float().mean() < 1
    before = gradients(group, batch)
    nonsense = {name: torch.where(alive, getattr(batch, name), -3.0) for name in ("advantages", "returns", "log_probs")}
    actions = torch.where(alive, batch.actions, 0)
    other: Minibatch = batch._replace(actions=actions, **nonsense)  # type: ignore[arg-type]
    torch.testing.assert_close(gradients(group, other), before)


def test_agents_that_were_never_there_learn_nothing():
    group = group_of("ppo", "ppo")
    joint = made_up(1, agents=2).to_tensors()
    joint = replace(joint, alive=joint.alive & torch.tensor([True, False]))
    batch = batch_of(group, joint, torch.randn(joint.shape), torch.randn(joint.shape))
    found = gradients(group, batch)
    own = len(found) // 2
    assert all(gradient.abs().sum() > 0 for gradient in found[:own])
    assert all((gradient == 0).all() for gradient in found[own:])


def test_minibatches_add_up_to_the_batch():
    """The mean of the minibatches' gradients is the batch's, however the living rows are spread over them."""
    group = group_of({"kind": "a2c"}, {"kind": "a2c"})
    _, batch = some_batch(group, deaths=0.3)
    whole = gradients(group, batch)
    rows = torch.arange(batch.actions.shape[2])
    parts = [batch.each(lambda c, at=at: c.index_select(2, at), {}) for at in rows.tensor_split(4)]  # type: ignore[misc]
    assert len({part.actions.shape for part in parts}) == 1
    each = [gradients(group, part) for part in parts]
    mean = [torch.stack(same).mean(0) for same in zip(*each, strict=True)]
    torch.testing.assert_close(mean, whole, atol=1e-5, rtol=1e-4)


@few
@given(st.integers(0, 400))
def test_schedules_change_linearly(env_steps):
    assert scheduled(0.3, env_steps) == 0.3
    points = ((0, 1.0), (100, 0.0), (300, 4.0))
    expected = max(0.0, 1 - env_steps / 100) + min(4.0, max(0.0, 4 * (env_steps - 100) / 200))
    assert scheduled(points, env_steps) == pytest.approx(expected)
