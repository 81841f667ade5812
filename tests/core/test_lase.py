"""What LASE agents infer and learn, against one focal agent, one co-player and one step at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.policies.lase import LASE, LASEModule, LASEOptions
from rllib_empathy.policies.networks import Architecture, NetworkOptions, stack_parameters
from rllib_empathy.policies.social_inference import infer_relationships
from rllib_empathy.policies.social_learning import SocialBatch, perspective_loss, social_losses
from rllib_empathy.policies.social_networks import SocialNetworks
from rllib_empathy.policies.social_options import SocialOptions
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner

SHAPES = {"grid": (4, 5, 5), "vector": (6,)}


def lase_module(shape: tuple[int, ...], joint_actions: tuple[int, ...]) -> LASEModule:
    module = LASEModule(
        observation_space=Box(0, 1, shape, np.uint8),
        action_space=Discrete(joint_actions[0]),
        model_config={"network": {"hidden": (8,)}, "joint_actions": joint_actions, "social_hidden": 16},
        inference_only=False,
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return module.double()


def random_joint(
    shape: tuple[int, ...], counts: list[int], seed: int, steps: int = 6, games: int = 4, masks: bool = False
) -> JointTrajectory:
    random = np.random.default_rng(seed)
    players = len(counts)
    every = (steps, games, players)
    columns: dict[str, Any] = {
        "observations": random.integers(0, 2, (*every, *shape)).astype(np.uint8),
        "actions": np.stack([random.integers(0, count, every[:2]) for count in counts], -1),
        "log_probs": np.zeros(every, np.float32),
        "rewards": (random.normal(size=every) * (random.random(every) < 0.7)).astype(np.float32),
        "alive": random.random(every) < 0.85,
        "survives": np.ones(every, bool),
        "starts": np.zeros(every[:2], bool),
        "terminated": np.zeros(every[:2], bool),
        "truncated": np.zeros(every[:2], bool),
        "tail_steps": np.zeros(0, int),
        "tail_games": np.zeros(0, int),
        "tail_observations": np.zeros((0, players, *shape), np.uint8),
    }
    if masks:
        allowed = random.random((*every, max(counts))) < 0.5
        allowed |= np.arange(max(counts)) == columns["actions"][..., None]
        columns["action_masks"] = allowed | ~columns["alive"][..., None]
    return JointTrajectory(**columns).to_tensors()


def plain_encode(convolutions, observation: torch.Tensor) -> torch.Tensor:
    x = observation.double().unsqueeze(0)
    for convolution in convolutions:
        x = torch.relu(convolution(x))
    return x.flatten()


def plain_weight(module: LASEModule, joint: JointTrajectory, agent: int, other: int, step: int, game: int) -> float:
    """w^ij of one step by whole forward passes, one for every action that was allowed to the co-player."""
    players = joint.shape[2]
    order = [(agent + place) % players for place in range(players)]
    place = order.index(other)
    observation = joint.observations[step, game, agent]
    social, conversion = module.social.relationship, module.social.conversion

    def q(actions: list[int]) -> float:
        features = plain_encode(social.convolutions, observation)
        one_hot = torch.cat(
            [
                torch.eye(count, dtype=torch.float64)[action]
                for count, action in zip(module.social.joint_actions, actions, strict=True)
            ]
        )
        hidden = torch.relu(social.critic_hidden(features) + social.critic_actions(one_hot))
        return social.critic_out(hidden).item()

    taken = [int(joint.actions[step, game, player]) for player in order]
    choices = module.social.joint_actions[place]
    if choices == module.social.joint_actions[0]:
        who = torch.eye(players - 1, dtype=torch.float64)[place - 1]
        x = torch.cat([plain_encode(conversion.convolutions, observation), who])
        x = torch.relu(conversion.hidden_2(torch.relu(conversion.hidden_1(x))))
        converted = torch.sigmoid(conversion.out(x)).reshape(observation.shape)
        hidden = torch.relu(social.policy_hidden(plain_encode(social.convolutions, converted)))
        prediction = torch.softmax(social.policy_out(hidden), -1).tolist()
    else:
        prediction = [1 / choices] * choices
    allowed = range(choices)
    if joint.action_masks is not None:
        allowed = [a for a in allowed if joint.action_masks[step, game, other, a]]  # type: ignore[assignment]
    values = [q([*taken[:place], action, *taken[place + 1 :]]) for action in allowed]
    spread = max(values) - min(values)
    prediction = [prediction[action] / sum(prediction[a] for a in allowed) for action in allowed]
    base = sum(p * v for p, v in zip(prediction, values, strict=True))
    if len(values) == 1:
        return 0.0  # it could do nothing else
    return max(0.0, (q(taken) - base) / ((players - 1) * spread))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("counts", [[2, 2], [4, 4, 4], [3, 3, 5, 3], [2, 2, 2, 2, 2, 2, 2, 2]])
@pytest.mark.parametrize("masks", [False, True])
@torch.no_grad()
def test_weights_are_those_of_whole_forward_passes(counts, shape, masks):
    torch.manual_seed(0)
    joint = random_joint(shape, counts, seed=len(counts), masks=masks)
    before = joint.actions.clone()
    agent = len(counts) - 1
    module = lase_module(shape, tuple(counts[agent:] + counts[:agent]))
    kind = LASE("lase", LASEOptions(), (agent,))
    kind.observe(joint, {"lase": module}, {})
    found = kind.gift_weights(joint, agent)
    assert torch.equal(joint.actions, before)
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-6)
    compared = 0
    for step, game in np.ndindex(*joint.shape[:2]):
        gives = joint.alive[step, game, agent] and joint.rewards[step, game, agent] != 0
        for other in range(agent):
            if gives and joint.alive[step, game, other]:
                expected = plain_weight(module, joint, agent, other, step, game)
                np.testing.assert_allclose(found[step, game, other], expected, atol=1e-6)
                compared += 1
            else:
                assert found[step, game, other] == 0
    assert compared > 5


def test_inferring_only_where_there_is_a_reward_is_exact():
    """Gifts are shares of rewards: with rewards everywhere, the same steps get the same weights."""
    counts, shape = [3, 3, 3], SHAPES["grid"]
    sparse = random_joint(shape, counts, seed=1)
    module = lase_module(shape, (3, 3, 3))
    kinds = [LASE("lase", LASEOptions(), (0,)) for _ in range(2)]
    kinds[0].observe(sparse, {"lase": module}, {})
    dense = JointTrajectory(**{**vars(sparse), "rewards": torch.where(sparse.rewards == 0, 1.0, sparse.rewards)})
    kinds[1].observe(dense, {"lase": module}, {})
    amounts = [kind.gift_weights(sparse, 0) * sparse.rewards[..., :1] for kind in kinds]
    torch.testing.assert_close(amounts[0], amounts[1])


def test_unseen_co_players_get_nothing_if_only_visible_ones_count():
    counts, shape = [3, 3, 3], SHAPES["grid"]
    joint = random_joint(shape, counts, seed=2)
    joint.observations[:, :, :, 1] = 0
    joint.observations[:, ::2, :, 1, 2, 2] = 1
    kind = LASE("lase", LASEOptions(visible_only=True), (0,))
    kind.observe(joint, {"lase": lase_module(shape, (3, 3, 3))}, {})
    weights = kind.gift_weights(joint, 0)
    assert (weights[:, 1::2, 1] == 0).all()
    assert (weights[:, ::2, 1] > 0).any()
    assert (weights[..., 2] > 0).any()


def test_shuffling_hands_the_same_shares_to_others():
    counts, shape = [3] * 4, SHAPES["grid"]
    joint = random_joint(shape, counts, seed=3)
    module = lase_module(shape, tuple(counts))
    plain, shuffled = LASE("lase", LASEOptions(), (0,)), LASE("lase", LASEOptions(shuffled=True), (0,))
    plain.observe(joint, {"lase": module}, {})
    shuffled.observe(joint, {"lase": module}, {})
    left, right = plain.gift_weights(joint, 0)[..., 1:], shuffled.gift_weights(joint, 0)[..., 1:]
    torch.testing.assert_close(left.sort(-1).values, right.sort(-1).values)
    assert not torch.equal(left, right)


def test_shuffled_orders_go_on_from_a_checkpoint():
    joint, module = random_joint(SHAPES["vector"], [3] * 4, seed=3), lase_module(SHAPES["vector"], (3,) * 4)
    kinds = [LASE("lase", LASEOptions(shuffled=True), (0,)) for _ in range(2)]
    kinds[0].observe(joint, {"lase": module}, {})
    first = kinds[0].gift_weights(joint, 0)
    kinds[1].set_state(kinds[0].get_state())
    for kind in kinds:
        kind.observe(joint, {"lase": module}, {})
        torch.rand(3)  # what others draw changes nothing
    resumed = kinds[1].gift_weights(joint, 0)
    assert torch.equal(kinds[0].gift_weights(joint, 0), resumed)
    assert not torch.equal(first, resumed)


@torch.no_grad()
def test_co_players_are_told_apart_by_their_seats():
    """Agents that sit elsewhere infer what an agent would on that seat, of the co-players who sit where its sat."""
    shape = SHAPES["grid"]
    plain = random_joint(shape, [3] * 4, seed=4)
    steps, games, players = plain.shape
    seats = np.random.default_rng(4).permuted(np.tile(np.arange(players), (steps, games, 1)), axis=2)
    where = (np.arange(steps)[:, None, None], np.arange(games)[:, None], seats)
    per_agent = ("observations", "actions", "rewards", "alive")
    moved = JointTrajectory(
        **{**vars(plain), **{name: getattr(plain, name)[where] for name in per_agent}, "seats": torch.from_numpy(seats)}
    )
    module = lase_module(shape, (3,) * players)
    expected = torch.stack(
        [infer_relationships(module.social, SocialOptions(), plain, agent)[0] for agent in range(players)], 2
    )
    everybody = torch.arange(players).unsqueeze(1)
    on_seats, of_agents = SocialBatch.of(everybody, plain), SocialBatch.of(everybody, moved)
    for step, game in np.ndindex(steps, games):
        for agent in range(players):
            seat = seats[step, game, agent]
            for name in ("observations", "actions", "alive"):
                mine, there = getattr(of_agents, name)[agent, step, game], getattr(on_seats, name)[seat, step, game]
                torch.testing.assert_close(mine, there)
    for agent in range(players):
        found = infer_relationships(module.social, SocialOptions(), moved, agent)[0]
        of_seats = expected[where[0][..., 0], where[1][..., 0], seats[..., agent]]
        torch.testing.assert_close(found, of_seats.gather(-1, torch.from_numpy(seats)))


def test_averaging_is_over_the_steps_of_an_episode():
    counts, shape = [3] * 3, SHAPES["vector"]
    joint = random_joint(shape, counts, seed=4)
    joint = JointTrajectory(**{**vars(joint), "starts": torch.rand(joint.shape[:2]) < 0.3})
    everywhere = JointTrajectory(**{**vars(joint), "rewards": torch.ones_like(joint.rewards)})
    networks = lase_module(shape, tuple(counts)).social
    raw, _ = infer_relationships(networks, SocialOptions(), everywhere, 0)
    found, inferred = infer_relationships(networks, SocialOptions(averaging=0.8), joint, 0)
    assert torch.equal(inferred, joint.alive[..., 0])
    for game in range(joint.shape[1]):
        mean = raw[0, game]
        for step in range(joint.shape[0]):
            if step and joint.starts[step, game]:
                mean = raw[step, game]
            elif step:
                mean = 0.8 * mean + 0.2 * raw[step, game]
            expected = mean * joint.alive[step, game] * joint.alive[step, game, 0]
            torch.testing.assert_close(found[step, game], expected)


def test_a_guard_against_noise_shrinks_relationships():
    counts, shape = [3] * 3, SHAPES["vector"]
    joint = random_joint(shape, counts, seed=4)
    networks = lase_module(shape, tuple(counts)).social
    plain, _ = infer_relationships(networks, SocialOptions(), joint, 0)
    unknown, _ = infer_relationships(networks, SocialOptions(noise_guard=1.0), joint, 0)
    assert torch.equal(plain, unknown)  # no error is known yet
    networks.critic_error.fill_(2.0)
    guarded, _ = infer_relationships(networks, SocialOptions(noise_guard=1.0), joint, 0)
    positive = plain > 0
    assert positive.any()
    assert (guarded[positive] < plain[positive]).all()
    assert torch.equal(guarded.sign(), plain.sign())


@pytest.mark.parametrize("epochs", [1, 3])
def test_passes_and_minibatches_cover_every_game(epochs):
    joint = random_joint((6,), [2, 2], seed=5, games=8)
    networks = lase_module((6,), (2, 2)).social.float()
    options = SocialOptions(social_epochs=epochs, social_minibatches=4)
    generator = torch.Generator().manual_seed(0)
    steps = list(social_losses([networks], [options], torch.tensor([[0]]), joint, generator))
    assert len(steps) == 4 * epochs
    assert networks.critic_error.item() == pytest.approx(steps[-1][1]["social_critic_error"].item())


def test_rows_may_be_evaluated_in_pieces(monkeypatch):
    joint = random_joint((4, 5, 5), [3, 3], seed=5)
    networks, options = lase_module((4, 5, 5), (3, 3)).social.double(), SocialOptions(perspective_taking=False)

    def losses() -> list[float]:
        found = social_losses([networks], [options], torch.tensor([[1]]), joint, torch.Generator().manual_seed(0))
        return [loss.item() for loss, _ in found]

    whole = losses()
    monkeypatch.setattr("rllib_empathy.policies.social_learning.ROWS_AT_ONCE", 5)
    np.testing.assert_allclose(losses(), whole, rtol=1e-12)


def test_an_imitating_social_policy_learns_the_own_actions():
    """Beside the critic's error the loss is the cross-entropy of all own actions; other agents of the group are as ever."""
    joint = random_joint((6,), [3, 3], seed=5)
    networks = [lase_module((6,), (3, 3)).social.double() for _ in range(2)]
    plain = SocialOptions(perspective_taking=False, social_minibatches=1)
    imitating = plain.model_copy(update={"social_policy": "imitation"})
    losses = []
    for options in ([plain, plain], [plain, imitating]):
        ((loss, statistics),) = social_losses(
            networks, options, torch.tensor([[0], [1]]), joint, torch.Generator().manual_seed(0)
        )
        losses.append(loss)
    relationship = networks[1].relationship
    surprises = []
    for step, game in np.ndindex(*joint.shape[:2]):
        if joint.alive[step, game, 1]:
            features = joint.observations[step, game, 1].double()
            logits = relationship.policy_out(torch.relu(relationship.policy_hidden(features)))
            surprises.append(-torch.log_softmax(logits, -1)[joint.actions[step, game, 1]].item())
    expected = statistics["social_critic_error"][1].item() ** 2 + np.mean(surprises)
    assert losses[1][1].item() == pytest.approx(expected, rel=1e-6)
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


@pytest.mark.parametrize(("lower", "weight"), [(0.0, 1.0), (50.0, 1.0), (-np.log(4), 0.25)])
def test_importance_weights_are_cut_at_one(lower, weight):
    """Where the acting policy took all its actions with a probability 4 times as large, the policy's part is a quarter."""
    joint = random_joint((6,), [3, 3], seed=5)
    networks = lase_module((6,), (3, 3)).social.double()
    relationship = networks.relationship
    with torch.no_grad():
        logits = relationship.policy_out(torch.relu(relationship.policy_hidden(joint.observations.double())))
        log_probs = torch.log_softmax(logits, -1).gather(-1, joint.actions.unsqueeze(-1).long()).squeeze(-1)
    joint = replace(joint, log_probs=log_probs - lower)
    corrected = SocialOptions(perspective_taking=False, social_minibatches=1)
    plain = corrected.model_copy(update={"social_policy": "actor_critic"})

    def parts(options: SocialOptions) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(0)
        ((loss, statistics),) = social_losses([networks], [options], torch.tensor([[0]]), joint, generator)
        critic = statistics["social_critic_error"].item() ** 2
        return critic, loss.item() - critic

    (critic, policy), (same_critic, less) = parts(plain), parts(corrected)
    assert same_critic == critic
    assert abs(policy) > 1e-3
    assert less == pytest.approx(weight * policy, rel=1e-5)


def test_perspective_taking_teaches_the_conversion_network_only():
    shape, counts = SHAPES["grid"], (3, 3, 3)
    module = lase_module(shape, counts)
    batch = SocialBatch(
        observations=torch.randint(0, 2, (1, 4, 5, *shape), dtype=torch.uint8),
        actions=torch.randint(0, 3, (1, 4, 5, 3)),
        log_probs=torch.zeros(1, 4, 5),
        rewards=torch.zeros(1, 4, 5),
        alive=torch.ones(1, 4, 5, 3, dtype=torch.bool),
        goes_on=torch.ones(1, 4, 5, dtype=torch.bool),
        ends=torch.zeros(1, 4, 5, dtype=torch.bool),
    )
    kind = LASE("lase", LASEOptions(conversion_share=1.0), (0,))
    social = {name: parameter.detach() for name, parameter in stack_parameters([module.social.relationship]).items()}
    loss, parts = perspective_loss(
        module.social,
        [kind.options],
        social,
        stack_parameters([module.social.conversion]),
        batch,
        torch.Generator().manual_seed(0),
    )
    loss.sum().backward()
    assert all(parameter.grad is not None for parameter in module.social.conversion.parameters())
    assert all(parameter.grad is None for parameter in module.social.relationship.parameters())
    assert 0 <= parts["perspective_accuracy"].item() <= 1


def test_relationships_can_be_learned_beside_any_acting_network():
    """A co-player's action 0 earns agent 0 one point; with nothing but its social networks agent 0 learns to thank for it."""
    torch.manual_seed(0)
    joint = random_joint((6,), [2, 2, 2], seed=5, steps=8, games=32)
    helped = joint.actions[..., 1] == 0
    columns = {
        "rewards": torch.where(helped, 1.0, 0.1).unsqueeze(-1).expand(joint.shape),
        "alive": torch.ones_like(joint.alive),
        "terminated": torch.ones_like(joint.terminated),
    }
    joint = JointTrajectory(**{**vars(joint), **columns})
    networks = SocialNetworks(Architecture.of((6,), 1.0, 2, NetworkOptions()), (2, 2, 2), 16)
    options, generator = SocialOptions(perspective_taking=False), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(networks.parameters(), lr=2e-2)
    for _ in range(30):
        for loss, _ in social_losses([networks], [options], torch.tensor([[0]]), joint, generator):
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
    relationships, inferred = infer_relationships(networks, options, joint, agent=0)
    assert inferred.all()
    assert (relationships[helped][:, 1] > 0.4).all()
    assert (relationships[~helped][:, 1] < -0.4).all()
    assert not relationships[..., 0].any()


def test_runners_hold_acting_networks_only():
    config = EmpathyConfig().environment("coin_game").population("lase").debugging(seed=0)
    config.validate()
    runner = JointEnvRunner(config=config, worker_index=0)
    assert not any(name.startswith("social") for name in runner.module["lase_0"].state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 1.5}, "'delta' = 1.5"),
        ({"delta": -0.1}, "'delta' = -0.1"),
        ({"buffer_size": 0}, "'buffer_size' = 0"),
        ({"averaging": 1.0}, "'averaging' = 1.0"),
        ({"noise_guard": -1.0}, "'noise_guard' = -1.0"),
        ({"social_lr": -1.0}, "social_lr"),
        ({"social_policy": "copying"}, "'social_policy' = 'copying'"),
        ({"visible_only": True}, "visible_only needs grid observations"),
    ],
)
def test_wrong_options_are_named(options, message):
    config = EmpathyConfig().environment("iterated_prisoners_dilemma")
    with pytest.raises(ValueError, match=message):
        config.population([{"kind": "lase", "count": 2, **options}]).validate()


def test_one_agent_alone_cannot_be_lase():
    config = EmpathyConfig().environment("snowdrift", env_config={"num_agents": 1}).population("lase")
    with pytest.raises(ValueError, match="somebody to give to"):
        config.validate()


def test_continuous_actions_are_refused():
    observations, actions = Box(0, 1, (3,), np.float32), Box(-1, 1, (2,), np.float32)
    with pytest.raises(ValueError, match=r"'lase' need Discrete actions, the world has Box"):
        LASE.check_spaces(observations, actions, LASEOptions())


def test_networks_of_another_observation_are_refused():
    """What the conversion network makes must have the observation's shape: weights for another one do not fit."""
    module, other = lase_module((4, 5, 5), (3, 3)), lase_module((5, 5, 5), (3, 3))
    with pytest.raises(ValueError, match=r"do not fit this agent: '\S+' is of shape"):
        module.set_state(other.get_state())


def test_more_weights_than_seats_are_refused():
    config = EmpathyConfig().environment("iterated_prisoners_dilemma").population([{"kind": "lase", "count": 3}])
    with pytest.raises(ValueError, match="fills 3 seats, the world has 2"):
        config.validate()


@torch.no_grad()
def test_renaming_agents_renames_relationships():
    """Seats turn in a circle and each agent takes its networks along: who thanks whom stays the same."""
    counts, shape = [3] * 4, SHAPES["grid"]
    joint = random_joint(shape, counts, seed=6)
    networks = [lase_module(shape, tuple(counts)).social for _ in counts]
    order = [2, 3, 0, 1]  # the agent that now sits in each seat
    names = ("observations", "actions", "log_probs", "rewards", "alive", "survives")
    turned = JointTrajectory(**{**vars(joint), **{name: getattr(joint, name)[:, :, order] for name in names}})
    for seat, agent in enumerate(order):
        before, _ = infer_relationships(networks[agent], SocialOptions(), joint, agent)
        after, _ = infer_relationships(networks[agent], SocialOptions(), turned, seat)
        torch.testing.assert_close(after, before[..., order])


def test_only_agents_with_like_updates_learn_together():
    kinds = [LASE("lase", LASEOptions(**options), (0,)) for options in ({}, {"delta": 0.5}, {"update_frequency": 5})]
    assert kinds[0].together == kinds[1].together != kinds[2].together


@pytest.mark.parametrize("buffer_size", [1, 3])
def test_the_buffer_is_bounded_and_its_bytes_are_known(buffer_size):
    joint = random_joint((4, 5, 5), [3, 3], seed=7)
    module, kind = lase_module((4, 5, 5), (3, 3)), LASE("lase", LASEOptions(buffer_size=buffer_size), (0,))
    for _ in range(5):
        kind.observe(joint, {"lase": module}, {})
    assert kind.statistics()["replay_bytes"] == buffer_size * joint.nbytes()
    assert kind.recent[0].observations.dtype == torch.uint8
    again = LASE("lase", LASEOptions(buffer_size=buffer_size), (0,))
    again.set_state(kind.get_state())
    assert len(again.recent) == (buffer_size if buffer_size > 1 else 0)
    assert all(torch.equal(each.observations, joint.observations) for each in again.recent)


def test_waiting_between_steps_changes_nothing_that_is_learned():
    """With a row in which nobody acts after every row, the critic meets the same steps one after another."""
    joint = random_joint((6,), [3, 3], seed=8)
    ended = joint.terminated.clone()
    ended[-1] = True
    joint = JointTrajectory(**{**vars(joint), "alive": torch.ones_like(joint.alive), "terminated": ended})

    def stretched(column: torch.Tensor) -> torch.Tensor:
        return torch.stack([column, torch.zeros_like(column)], 1).flatten(0, 1) if len(column) == 6 else column

    networks = SocialNetworks(Architecture.of((6,), 1.0, 3, NetworkOptions()), (3, 3), 16)
    losses = [
        [
            loss.item()
            for loss, _ in social_losses(
                [networks],
                [SocialOptions(perspective_taking=False, social_minibatches=1)],
                torch.tensor([[1]]),
                each,
                torch.Generator().manual_seed(0),
            )
        ]
        for each in (joint, joint.map(stretched))
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
