"""Rewards of stock episodes are those of the fast path, and what LASE infers there is learned, saved and restored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from env_registry.parameters import SettingError
from rllib_empathy.learning.finite import NonFiniteError
from rllib_empathy.learning.rewards import reshape
from rllib_empathy.policies import KINDS
from rllib_empathy.policies.kind import AgentKind
from rllib_empathy.stock.gifting import Gifting
from rllib_empathy.stock.kinds import kinds_that_reshape
from rllib_empathy.stock.seats import Seat
from tests.stock.episodes import ACTIONS, OBSERVATION, as_trajectory, made_up_game, record, seats

GAMES = [made_up_game(seed) for seed in range(30, 42)]


def gifting(kinds: dict[str, Any], who: list[Seat] | None = None) -> Gifting:
    made = Gifting(kinds, who or seats(), {}, seed=3)
    torch.manual_seed(0)
    with torch.no_grad():
        for networks in made.networks.values():
            for parameter in networks.parameters():
                parameter.copy_(0.5 * torch.randn_like(parameter))
    return made


def whole_episodes() -> list:
    return [record(game)[0] for game in GAMES]


def fast_rewards(stock: Gifting) -> torch.Tensor:
    """What the fast path's kinds make of the same games, with modules that hold the same networks."""
    joint = as_trajectory(GAMES)
    kinds: dict[str, AgentKind] = {}
    modules: dict[str, Any] = {}
    for mid, ours in stock.kinds.items():
        kinds[mid] = type(ours)(mid, ours.options, ours.agents)
        if mid in stock.networks:
            modules[mid] = type(ours).Module(
                observation_space=OBSERVATION,
                action_space=ACTIONS,
                model_config=ours.model_config(ours.options, stock.world, ours.agents),
                inference_only=False,
            )
            for name, network in stock.networks[mid].items():
                getattr(modules[mid], name).load_state_dict(network.state_dict())
    return reshape(joint, kinds, modules).rewards


def mixtures() -> dict[str, dict[str, str]]:
    """Each kind alone, each kind for everybody, and all kinds together."""
    kinds = kinds_that_reshape()
    alone = {kind: {"policy_0": kind} for kind in kinds}
    everybody = {f"all {kind}": {f"policy_{agent}": kind for agent in range(4)} for kind in kinds}
    return {**alone, **everybody, "mixed": {f"policy_{agent}": kinds[agent % len(kinds)] for agent in range(4)}}


@pytest.mark.parametrize("kinds", mixtures().values(), ids=mixtures())
def test_rewards_are_those_of_the_fast_path(kinds):
    stock = gifting(kinds)
    episodes = whole_episodes()
    reshaped, metrics = stock.reshape(episodes)
    expected = fast_rewards(stock)
    compared, changed = 0, 0
    for number, (game, before, after) in enumerate(zip(GAMES, episodes, reshaped, strict=True)):
        for name, steps in game.steps.items():
            found = after.agent_episodes[name].get_rewards()
            rows = [step.begin for step in steps]
            np.testing.assert_allclose(found, expected[rows, number, int(name[-1])], atol=1e-6)
            compared += len(rows)
            changed += int((np.abs(found - before.agent_episodes[name].get_rewards()) > 1e-3).sum())
    assert compared > 50
    assert changed > 5
    alive = as_trajectory(GAMES).alive
    mean = (expected * alive)[..., 0].sum() / alive[..., 0].sum()
    assert metrics["policy_0", "reshaped_reward_mean"] == pytest.approx(mean.item(), abs=1e-5)


def test_reciprocal_rewards_are_scaled_by_the_steps_in_which_an_agent_acts():
    stock = gifting({f"policy_{agent}": {"kind": "reciprocator", "normalize_reciprocal": True} for agent in range(4)})
    episodes = whole_episodes()
    reshaped, metrics = stock.reshape(episodes)
    for agent in range(4):
        name = f"agent_{agent}"
        before, after = (
            np.concatenate([one.agent_episodes[name].get_rewards() for one in many if name in one.agent_episodes])
            for many in (episodes, reshaped)
        )
        added = after - before
        assert (added**2).mean() == pytest.approx(1, abs=1e-3)
        logged = [metrics[f"policy_{agent}", f"reciprocal_reward{measure}/{name}"] for measure in ("", "_std")]
        assert logged == pytest.approx([added.mean(), added.std()], abs=1e-4)


@pytest.mark.parametrize("kind", ["lase", "blind_gift"])
def test_gifts_conserve_what_is_paid(kind):
    reshaped, _ = gifting({f"policy_{agent}": kind for agent in range(4)}).reshape(whole_episodes())
    for before, after in zip(whole_episodes(), reshaped, strict=True):
        assert after.get_return() == pytest.approx(before.get_return(), abs=1e-5)


def test_an_agent_gives_nothing_to_those_who_are_not_there():
    reshaped, _ = gifting({"policy_0": {"kind": "blind_gift", "share": 1.0}}).reshape(whole_episodes())
    for game, after in zip(GAMES, reshaped, strict=True):
        for step, kept in zip(game.steps["agent_0"], after.agent_episodes["agent_0"].get_rewards(), strict=True):
            present = sum(step.begin in [one.begin for one in game.steps.get(f"agent_{i}", [])] for i in (1, 2, 3))
            assert kept == pytest.approx(step.reward * (1 - present / 3), abs=1e-6)


def test_networks_learn_and_go_on_from_a_saved_state():
    kinds = {
        "policy_0": {"kind": "lase", "buffer_size": 2, "update_frequency": 1},
        "policy_2": "lase",
        "policy_3": "go",
    }
    first, second = gifting(kinds), gifting(kinds)
    for one in (first, second):
        one.reshape(whole_episodes())
    social = first.networks["policy_0"]["social"]
    before = {name: value.clone() for name, value in social.named_parameters()}
    metrics = first.learn(0, lambda _: True)
    assert {"social_critic_error", "perspective_accuracy"} <= {name for _, name in metrics}
    learned = {name.split(".")[0] for name, value in social.named_parameters() if not torch.equal(value, before[name])}
    assert learned == {"relationship", "conversion"}
    second.set_state(first.get_state())
    for one in (first, second):
        one.reshape(whole_episodes())
        one.learn(0, lambda _: True)
    for mid, networks in first.networks.items():
        for name, tensor in networks.state_dict().items():
            torch.testing.assert_close(second.networks[mid].state_dict()[name], tensor, rtol=0, atol=0)


def test_policies_that_are_not_trained_keep_their_networks():
    lase = {"kind": "lase", "update_frequency": 1}
    made = gifting({"policy_0": lase, "policy_1": lase})
    made.reshape(whole_episodes())
    before = {mid: networks["social"].state_dict() for mid, networks in made.networks.items()}
    before = {mid: {name: value.clone() for name, value in state.items()} for mid, state in before.items()}
    made.learn(0, lambda module_id: module_id == "policy_1")
    same = {
        mid: all(torch.equal(v, before[mid][n]) for n, v in net["social"].state_dict().items())
        for mid, net in made.networks.items()
    }
    assert same == {"policy_0": True, "policy_1": False}


def test_a_state_of_other_policies_is_refused():
    who = [Seat("agent_0", "policy_9", OBSERVATION, ACTIONS), *seats()[1:]]
    state = gifting({"policy_9": "go"}, who).get_state()
    with pytest.raises(SettingError, match="policy_9"):
        gifting({"policy_1": "go"}).set_state(state)


def test_rewards_that_are_no_numbers_stop_the_run():
    episodes = whole_episodes()
    episodes[2].agent_episodes["agent_0"].rewards.data[0] = np.nan
    with pytest.raises(NonFiniteError, match="agent 0 a reward of nan"):
        gifting({"policy_1": "go"}).reshape(episodes)


def test_kinds_without_networks_do_not_mind_continuous_actions():
    who = [seat._replace(action_space=Box(-1, 1, (2,))) for seat in seats()]
    gifting({"policy_0": "go", "policy_1": "blind_gift"}, who).reshape(whole_episodes())
    with pytest.raises(SettingError, match="need Discrete actions"):
        gifting({"policy_0": "lase"}, who)


BAD = {
    "policy": ({"policy_7": "lase"}, "'policy_7' plays nobody"),
    "kind": ({"policy_0": "las"}, "Did you mean 'lase'"),
    "kind that leaves rewards": ({"policy_0": "ppo"}, "reshapes rewards"),
    "spec": ({"policy_0": 3}, "neither a kind"),
    "option": ({"policy_0": {"kind": "lase", "social_rate": 1}}, "social_rate"),
    "value": ({"policy_0": {"kind": "blind_gift", "share": 2}}, "'share' = 2"),
    "option of PPO": ({"policy_0": {"kind": "lase", "lr": 0.1}}, r"lr is a setting of .*config.training"),
}


@pytest.mark.parametrize(("kinds", "message"), BAD.values(), ids=BAD)
def test_bad_kinds_are_named(kinds, message):
    with pytest.raises(SettingError, match=message):
        gifting(kinds)


def test_every_kind_that_gives_or_reshapes_can_be_used():
    assert {"lase", "go", "blind_gift"} <= set(kinds_that_reshape())
    assert not {"ppo", "a2c", "random"} & set(kinds_that_reshape()) & set(KINDS)
