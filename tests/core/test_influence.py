"""Estimators of value influence against plain forward passes, counts and a game that is known exactly."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rllib_empathy.learning.advantages import discounted
from rllib_empathy.policies.influence import (
    ESTIMATORS,
    Counterfactual,
    EstimatorOptions,
    Lessons,
    Tabular,
    Twins,
    Views,
    Weights,
    elapsed_steps,
    received,
)
from rllib_empathy.policies.networks import Architecture, NetworkOptions, stack_parameters
from tests.core.made_up import made_up

ACTIONS = 4
SHAPES = {"vector": (5,), "grid": (2, 3, 3)}


def estimator_of(form: str, shape: tuple[int, ...] = (5,), players: int = 3, seed: int = 0, **options: Any) -> Any:
    """With random parameters."""
    torch.manual_seed(seed)
    network = NetworkOptions(conv_filters=(4,), padding="circular", hidden=())
    architecture = Architecture.of(shape, 255.0, ACTIONS, network)
    estimator = ESTIMATORS[form](architecture, players, ACTIONS, 0.9, EstimatorOptions(hidden=8, **options))
    for parameter in estimator.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return estimator.double()


def views_of(joint: Any) -> Views:
    time = elapsed_steps(joint.starts) / 10
    return Views.of(joint.observations.double(), joint.actions, joint.alive, time.double(), joint.action_masks)


def whole(seed: int, shape: tuple[int, ...] = (5,), **made: Any) -> Any:
    return made_up(seed, shape=shape, actions=ACTIONS, whole_episodes=True, **made).to_tensors()


def plain_values(estimator: Any, seen: torch.Tensor, seat: int, time: float, actions: list[int], twin: int = 0) -> Any:
    """Q [N - 1] of the co-players, layer by layer, and the log-policy of who sees; actions in order of place."""
    players = estimator.players
    one_hot = torch.eye(ACTIONS, dtype=torch.float64)[actions]
    beside = torch.cat([torch.eye(players, dtype=torch.float64)[seat], torch.tensor([time], dtype=torch.float64)])
    if isinstance(estimator, Twins):
        one_hot[0] *= 1 - twin
        x = torch.cat([seen.flatten() / 255, beside, one_hot.flatten()])
        for number in range(3):
            weight, bias = (getattr(estimator, f"{name}_{number}")[twin] for name in ("weight", "bias"))
            x = weight @ x + bias
            x = torch.relu(x) if number < 2 else x
        return x[: players - 1] + estimator.gamma * x[players - 1 :], None
    x = seen.unsqueeze(0) / 255 if seen.ndim == 3 else seen / 255
    for convolution in estimator.convolutions:
        x = torch.relu(convolution(nn.functional.pad(x, (1, 1, 1, 1), "circular")))
    trunk = torch.relu(estimator.trunk(torch.cat([x.flatten(), beside])))
    outcome = estimator.outcome(torch.relu(estimator.outcome_hidden(torch.cat([trunk, one_hot.flatten()]))))
    policy = torch.log_softmax(estimator.policy(torch.relu(estimator.policy_hidden(trunk))), -1)
    return outcome[: players - 1] + estimator.gamma * outcome[players - 1 :], policy


@pytest.mark.parametrize("players", [2, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("form", ["counterfactual", "twins"])
@pytest.mark.parametrize("masks", [False, True])
@torch.no_grad()
def test_influence_is_that_of_whole_forward_passes(form, shape, players, masks):
    """One viewer, one co-player and one counterfactual action at a time; two estimators at once."""
    estimators = [estimator_of(form, shape, players, seed) for seed in range(2)]
    joint = whole(1, shape, steps=4, games=2, agents=players, masks=masks)
    views = views_of(joint)
    found = estimators[0].influence(stack_parameters(estimators), views)
    assert found.shape == (2, 4, 2, players, players - 1)
    compared = 0
    for number, step, game, i, place in product(range(2), range(4), range(2), range(players), range(players - 1)):
        value = found[number, step, game, i, place].item()
        order = [(i + k) % players for k in range(players)]
        if not (joint.alive[step, game, i] and joint.alive[step, game, order[place + 1]]):
            assert value == 0
            continue
        taken = [int(joint.actions[step, game, player]) for player in order]
        seen, time = joint.observations[step, game, i].double(), views.time[step, game, i].item()

        def q(actions: list[int], twin: int = 0, see: Any = (number, seen, i, time), place: int = place) -> float:
            return plain_values(estimators[see[0]], see[1], see[2], see[3], actions, twin)[0][place].item()

        if form == "twins":
            expected = q(taken) - q(taken, twin=1)
        else:
            policy = plain_values(estimators[number], seen, i, time, taken)[1].exp()
            might = [a for a in range(ACTIONS) if not masks or joint.action_masks[step, game, i, a]]
            share = sum(policy[a].item() for a in might)
            expected = q(taken) - sum(policy[a].item() / share * q([a, *taken[1:]]) for a in might)
        assert value == pytest.approx(expected, abs=1e-9)
        compared += 1
    assert compared > 10


@torch.no_grad()
def test_rows_in_pieces_and_absent_viewers(monkeypatch):
    estimator = estimator_of("counterfactual")
    views = views_of(whole(2))
    parameters = stack_parameters([estimator])
    together = estimator.influence(parameters, views)
    monkeypatch.setattr("rllib_empathy.policies.influence.ROWS_AT_ONCE", 7)
    torch.testing.assert_close(estimator.influence(parameters, views), together)


@pytest.mark.parametrize("players", [2, 3, 5])
def test_what_one_gives_another_receives(players):
    given = torch.rand(3, 2, players, players - 1)
    got = received(given)
    for i, k in product(range(players), range(1, players)):
        j = (i + k) % players
        place_of_i = (i - j) % players
        assert torch.equal(got[..., i, k - 1], given[..., j, place_of_i - 1])


def test_elapsed_steps_and_discounted_sums():
    starts = torch.tensor([[1, 1], [0, 0], [0, 1], [1, 0], [0, 0]]).bool()
    assert elapsed_steps(starts).T.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    rewards = torch.tensor([1.0, 2.0, 4.0, 8.0])
    goes_on = torch.tensor([True, False, True, False])
    assert discounted(rewards, goes_on, 0.5).tolist() == [2.0, 2.0, 8.0, 8.0]


def matrix_lessons(seed: int, steps: int = 6, games: int = 300) -> tuple[Lessons, np.ndarray, dict[str, torch.Tensor]]:
    """Two players of a prisoner's dilemma with known probabilities of defection in each state, as each sees it."""
    random = np.random.default_rng(seed)
    defects = random.uniform(0.1, 0.9, (2, 5))
    payoffs = np.array([-1.0, -3.0, 0.0, -2.0])
    made = {name: [] for name in ("observations", "actions", "rewards")}  # type: ignore[var-annotated]
    last = np.full((games, 2), 4)
    for _ in range(steps):
        actions = (random.random((games, 2)) < defects[np.arange(2), last]).astype(np.int64)
        made["observations"].append(np.eye(5, dtype=np.float32)[last])
        last = np.stack([2 * actions[:, i] + actions[:, 1 - i] for i in range(2)], 1)
        made["actions"].append(actions)
        made["rewards"].append(payoffs[last].astype(np.float32))
    columns = {name: torch.from_numpy(np.stack(parts)) for name, parts in made.items()}
    alive = torch.ones(steps, games, 2, dtype=torch.bool)
    views = Views.of(columns["observations"], columns["actions"], alive, torch.zeros(steps, games))
    goes_on = alive.clone()
    goes_on[-1] = False
    return Lessons(views, columns["rewards"].flip(-1).unsqueeze(-1), goes_on.unsqueeze(-1)), defects, columns


def test_counting_gives_frequencies_and_payoffs():
    lessons, defects, columns = matrix_lessons(1)
    architecture = Architecture.of((5,), 1.0, 2, NetworkOptions(conv_filters=(), hidden=()))
    estimator = Tabular(architecture, 2, 2, 0.96, EstimatorOptions())
    assert list(Tabular.fit([estimator], lessons, torch.Generator())) == []
    counts = estimator.frequencies[..., 1].numpy()
    np.testing.assert_allclose(counts, defects, atol=0.12)
    payoffs = np.array([-1.0, -3.0, 0.0, -2.0])
    for mine, other in product(range(2), range(2)):  # what the other gets for it
        np.testing.assert_allclose(estimator.rewards[:, mine, other, 0], payoffs[2 * other + mine])
    influence = estimator.influence(stack_parameters([estimator]), lessons.views)[0].numpy()
    actions, state = columns["actions"].numpy(), columns["observations"].numpy().argmax(-1)
    for step, game, i in product(range(6), range(5), range(2)):
        other = actions[step, game, 1 - i]
        by_action = payoffs[[2 * other, 2 * other + 1]]
        defection = counts[i, state[step, game, i]]
        baseline = (1 - defection) * by_action[0] + defection * by_action[1]
        expected = by_action[actions[step, game, i]] - baseline
        assert influence[step, game, i, 0] == pytest.approx(expected, abs=1e-6)


def test_states_that_were_never_visited_keep_equal_frequencies():
    lessons, _, _ = matrix_lessons(1, steps=1, games=8)
    architecture = Architecture.of((5,), 1.0, 2, NetworkOptions(conv_filters=(), hidden=()))
    estimator = Tabular(architecture, 2, 2, 0.96, EstimatorOptions())
    list(Tabular.fit([estimator], lessons, torch.Generator()))
    assert (estimator.frequencies[:, :4] == 0.5).all()
    assert torch.isfinite(estimator.influence(stack_parameters([estimator]), lessons.views)).all()


@pytest.mark.parametrize("form", ["counterfactual", "twins"])
def test_absent_players_teach_nothing(form):
    """The loss is the same whatever the absent did and earned."""
    joint = whole(3, deaths=0.3)
    lessons = Lessons.of(joint, 10.0)
    rows = lessons.views.rows()
    rewards = lessons.rewards.flatten(0, 2)
    both = rows.alive[:, :1] & rows.alive[:, 1:]
    other = torch.where(both, rewards, 100.0)
    estimator = estimator_of(form).float()
    targets = {name: torch.ones(1, *rewards.shape) for name in ("future", "value")}
    rows = rows._replace(observations=rows.observations.float())
    losses = [
        type(estimator).loss([estimator], rows, Weights.of(rows), {**targets, "reward": r.unsqueeze(0)})[0]
        for r in (rewards, other)
    ]
    assert torch.equal(*losses)
    assert (~both).any()


@pytest.mark.parametrize("form", ["counterfactual", "twins"])
def test_minibatches_add_up_to_the_batch(form):
    """However many are absent in each: the mean of their losses is that of all rows at once."""
    lessons = Lessons.of(whole(3, steps=8, games=4, deaths=0.4), 10.0)
    rows = len(lessons.views.rows().seats)
    assert rows % 4 == 0
    losses = []
    for size in (rows, rows // 4):
        estimator = estimator_of(form, minibatch_size=size, epochs=1).float()
        parts = [loss for loss, _ in type(estimator).fit([estimator], lessons, torch.Generator().manual_seed(1))]
        assert len(parts) == rows // size
        losses.append(torch.stack(parts).mean())
    torch.testing.assert_close(*losses)


def test_values_are_fitted_to_lambda_returns():
    """With lambda = 1 these are discounted sums of rewards, whatever the network says; with 0 one step and then its values."""
    joint = whole(4, deaths=0.0, joins=0.0)
    lessons = Lessons.of(joint, 10.0)
    exact = discounted(lessons.rewards, lessons.goes_on, 0.9)
    full = estimator_of("counterfactual", lambda_=1.0).float()
    with torch.no_grad():
        targets = Counterfactual.targets([full], lessons)
        torch.testing.assert_close(targets["value"][0], exact, atol=1e-4, rtol=1e-4)
        one_step = Counterfactual.targets([estimator_of("counterfactual", lambda_=0.0).float()], lessons)
    torch.testing.assert_close(
        one_step["value"][0], lessons.rewards + 0.9 * one_step["future"][0], atol=1e-4, rtol=1e-4
    )
    assert (one_step["future"][0][~lessons.goes_on] == 0).all()


@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize("form", ["counterfactual", "twins"])
def test_fitting_lowers_the_loss(form, shared):
    lessons, _, _ = matrix_lessons(2)
    architecture = Architecture.of((5,), 1.0, 2, NetworkOptions(conv_filters=(), hidden=()))
    torch.manual_seed(0)
    options = EstimatorOptions(form=form, epochs=30, minibatch_size=400)
    estimators = [ESTIMATORS[form](architecture, 2, 2, 0.9, options) for _ in range(shared)]
    optimizer = torch.optim.Adam([p for e in estimators for p in e.parameters()], lr=0.01)
    once = EstimatorOptions(form=form, epochs=1, minibatch_size=10**6)  # says how good it is before its only step
    torch.manual_seed(0)
    unfitted = [ESTIMATORS[form](architecture, 2, 2, 0.9, once) for _ in range(shared)]
    ((_, before),) = ESTIMATORS[form].fit(unfitted, lessons, torch.Generator().manual_seed(1))
    assert (before["estimator/reward_explained_var"] < 0.3).all()
    losses, logged = [], {}
    for loss, statistics in ESTIMATORS[form].fit(estimators, lessons, torch.Generator().manual_seed(1)):
        assert loss.shape == (shared,)
        assert "estimator/reward_explained_var" not in logged  # worked out for the last rows only
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.detach())
        logged = statistics
    assert (losses[-1] < 0.7 * losses[0]).all()
    assert (logged["estimator/reward_explained_var"] > 0.98).all()
