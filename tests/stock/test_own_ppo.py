"""Three lines added to a user's own PPO: it samples, learns, reports, saves, and runs in Tune and on several learners."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Sequence
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.connector_v2 import ConnectorV2

from env_registry.parameters import SettingError
from rllib_empathy import with_gifting
from rllib_empathy.stock.learner import gifting_of
from rllib_empathy.stock.seats import seats_of
from rllib_empathy.stock.whole_episodes import WholeEpisodes, keep_episodes_whole
from tests.stock.episodes import made_up_game, record
from tests.stock.ferry import RETURNS, Ferry

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # RLlib's own

KINDS: dict[str, Any] = {
    "captain": {"kind": "lase", "update_frequency": 1},
    "deckhand": {"kind": "lase", "social_hidden": 16},
    "passengers": {"kind": "blind_gift", "share": 1.0},
}


def own_config(env: Any = Ferry, **env_config: Any) -> PPOConfig:
    """What a user has: two passengers share a policy."""
    return (
        PPOConfig()
        .environment(env, env_config=env_config)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2, rollout_fragment_length=10)
        .multi_agent(
            policies={"captain", "deckhand", "passengers"},
            policy_mapping_fn=lambda agent, episode, **kwargs: agent if "_" not in agent else "passengers",
        )
        .training(train_batch_size_per_learner=40, minibatch_size=20, num_epochs=1)
        .debugging(seed=5, log_level="ERROR")
    )


def whole_episodes() -> PPOConfig:
    return own_config().env_runners(batch_mode="complete_episodes")


def social_weights(learner: Any) -> np.ndarray:
    gifting = learner._gifting
    return np.concatenate(
        [p.numpy().ravel() for mid in sorted(gifting.networks) for p in gifting.networks[mid].state_dict().values()]
    )


def all_weights(learner: Any) -> np.ndarray:
    acting = [
        p.detach().numpy().ravel() for mid in sorted(learner.module.keys()) for p in learner.module[mid].parameters()
    ]
    return np.concatenate([social_weights(learner), *acting])


def flattened() -> Any:
    from ray.rllib.connectors.env_to_module import FlattenObservations

    return lambda env=None, spaces=None, device=None: FlattenObservations(multi_agent=True)


class Doubled(ConnectorV2):
    """A user's own piece of the Learner's pipeline: remembers rewards that come in."""

    rewards: ClassVar[list[np.ndarray]] = []

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Any, **kwargs: Any) -> Any:
        Doubled.rewards = [
            own.get_rewards() for own in self.single_agent_episode_iterator(episodes) if own.agent_id == "passenger_10"
        ]
        return batch


class OwnLearner(PPOTorchLearner):
    """A user's own Learner."""

    updates = 0

    def after_gradient_based_update(self, *, timesteps: Any) -> None:
        super().after_gradient_based_update(timesteps=timesteps)
        OwnLearner.updates += 1


def test_returns_stay_extrinsic_and_learners_see_reshaped_rewards(ray_local):
    config = own_config().learners(learner_class=OwnLearner).training(learner_connector=lambda *args: Doubled())
    before = config.to_dict()
    algorithm = with_gifting(config, KINDS).build_algo()
    assert config.to_dict() == before
    OwnLearner.updates = 0
    for _ in range(3):
        result = algorithm.train()
        assert result["env_runners"]["agent_episode_returns_mean"] == pytest.approx(RETURNS)
    assert OwnLearner.updates == 3
    learned = result["learners"]
    assert learned["passengers"]["reshaped_reward_mean"] != pytest.approx(
        learned["passengers"]["extrinsic_reward_mean"]
    )
    assert {"gift_share/agent_0_to_1", "social_critic_error"} <= set(learned["captain"])
    # Passenger 10 gives all away in thirds to those aboard; what it has been given came on top.
    assert max(rewards.max() for rewards in Doubled.rewards) > -2 / 6 + 1e-3
    algorithm.stop()


def test_connectors_that_change_observations_are_welcome(ray_local):
    config = own_config(rich=True).env_runners(env_to_module_connector=flattened())
    algorithm = with_gifting(config, KINDS).build_algo()
    assert np.isfinite(algorithm.train()["learners"]["captain"]["social_critic_error"])
    algorithm.stop()


def test_reciprocal_rewards_need_whole_episodes_and_get_them(ray_local):
    kinds = {"captain": "reciprocator", "deckhand": "lase"}
    algorithm = with_gifting(whole_episodes(), kinds).build_algo()
    before = social_weights(algorithm.learner_group._learner)
    for _ in range(2):
        learned = algorithm.train()["learners"]["captain"]
    assert learned["reshaped_reward_mean"] != pytest.approx(learned["extrinsic_reward_mean"], abs=1e-9)
    assert (social_weights(algorithm.learner_group._learner) != before).any()
    algorithm.stop()


def test_save_restore_continue(ray_local, tmp_path):
    original = with_gifting(own_config(), KINDS).build_algo()
    original.train()
    original.save_to_path(tmp_path)
    restored = Algorithm.from_checkpoint(str(tmp_path))
    episodes = original.env_runner.sample()
    learners = [algorithm.learner_group._learner for algorithm in (original, restored)]
    np.testing.assert_array_equal(social_weights(learners[1]), social_weights(learners[0]))
    before = social_weights(learners[0])
    for learner in learners:
        learner.update(episodes=copy.deepcopy(episodes), num_epochs=1, minibatch_size=20)
    np.testing.assert_array_equal(social_weights(learners[1]), social_weights(learners[0]))
    assert (social_weights(learners[0]) != before).any()
    assert restored.train()["training_iteration"] == 2
    original.stop()
    restored.stop()


def test_two_runners_and_two_learners_stay_replicas(ray_local):
    kinds = {**KINDS, "deckhand": {"kind": "reciprocator", "gamma": 0.5, "estimator": {"refit_every": 1}}}
    config = whole_episodes().env_runners(num_env_runners=2).learners(num_learners=2, num_cpus_per_learner=1)
    algorithm = with_gifting(config, kinds).build_algo()
    first = [answer.get() for answer in algorithm.learner_group.foreach_learner(all_weights)]
    for _ in range(2):
        result = algorithm.train()
    second = [answer.get() for answer in algorithm.learner_group.foreach_learner(all_weights)]
    for replicas in (first, second):
        np.testing.assert_array_equal(replicas[0], replicas[1])
    assert (first[0] != second[0]).mean() > 0.5
    assert result["env_runners"]["agent_episode_returns_mean"] == pytest.approx(RETURNS)
    learned = result["learners"]["deckhand"]
    assert learned["balance_std/agent_1_to_0"] > 0
    assert np.isfinite(learned["estimator/policy_cross_entropy"])
    algorithm.stop()


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 9), learners=st.integers(1, 4))
def test_learners_share_whole_episodes(seed, count, learners):
    episodes = [record(made_up_game(seed + number))[0] for number in range(count)]
    data = WholeEpisodes(episodes=episodes)
    if count < learners:
        with pytest.raises(SettingError, match=f"num_learners = {learners}, .*{count} episodes.*train_batch_size"):
            data.shard(learners)
        return
    shares = data.shard(learners, 1, num_epochs=2, minibatch_size=3)
    assert sorted(id(one) for share, _ in shares for one in share.episodes) == sorted(map(id, episodes))
    lengths = [sum(map(len, share.episodes)) for share, _ in shares]
    assert min(lengths) > 0
    assert max(lengths) - min(lengths) <= max(map(len, episodes))
    most = max(
        sum(len(one.agent_episodes[f"agent_{i}"]) for one in episodes if f"agent_{i}" in one.agent_episodes)
        for i in range(4)
    )
    assert [told for _, told in shares] == [{"num_total_minibatches": int(2 * most / (learners * 3))}] * learners
    assert [told for _, told in data.shard(learners, minibatch_size=None)] == [{"num_total_minibatches": 0}] * learners


def test_a_users_own_callbacks_stay():
    config = own_config().callbacks(on_algorithm_init=lambda **kwargs: None)
    gifted = with_gifting(with_gifting(config, KINDS), KINDS)
    assert gifted.callbacks_on_algorithm_init == [config.callbacks_on_algorithm_init, keep_episodes_whole]


def test_estimators_discount_as_their_policies_do():
    own = {"captain": PPOConfig.overrides(gamma=0.6)}
    config = whole_episodes().training(gamma=0.7).multi_agent(algorithm_config_overrides_per_module=own)
    kinds: dict[str, Any] = {
        "captain": "reciprocator",
        "deckhand": "reciprocator",
        "passengers": {"kind": "reciprocator", "gamma": 0.8},
    }
    made = gifting_of(config, kinds, seats_of(config))
    discounts = {mid: networks["estimator"].gamma for mid, networks in made.networks.items()}
    assert discounts == {"captain": 0.6, "deckhand": 0.7, "passengers": 0.8}


def test_tune_searches_over_gifts(ray_local, tmp_path):
    kinds = {"passengers": {"kind": "blind_gift", "share": tune.grid_search([0.0, 1.0])}}
    results = tune.Tuner(
        "PPO",
        param_space=with_gifting(own_config(), kinds),
        run_config=tune.RunConfig(stop={"training_iteration": 1}, storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert not results.errors
    learned = [result.metrics["learners"]["passengers"] for result in results]
    gaps = sorted(abs(one["reshaped_reward_mean"] - one["extrinsic_reward_mean"]) for one in learned)
    assert gaps[0] == pytest.approx(0, abs=1e-6)
    assert gaps[1] > 0.01


class Nobody(Ferry):
    """Does not say who plays."""

    def __init__(self, env_config: Any = None) -> None:
        super().__init__(env_config)
        self.possible_agents = []


class Paid(Ferry):
    """Pays whole numbers."""

    def step(self, action_dict: dict[str, Any]) -> Any:
        seen, rewards, *rest = super().step(action_dict)
        return seen, {agent: round(reward) for agent, reward in rewards.items()}, *rest


class Spoken(Ferry):
    """The captain hears any number of words."""

    def __init__(self, env_config: Any = None) -> None:
        super().__init__(env_config)
        self.observation_spaces["captain"] = Sequence(Discrete(5))


class Steered(Ferry):
    """The captain turns a wheel."""

    def __init__(self, env_config: Any = None) -> None:
        super().__init__(env_config)
        self.action_spaces["captain"] = Box(-1, 1, (1,), np.float32)


def test_integer_rewards_stop_the_run(ray_local):
    algorithm = with_gifting(own_config(Paid), KINDS).build_algo()
    with pytest.raises(SettingError, match=r"was paid .*int.*float\(reward\)"):
        algorithm.train()
    algorithm.stop()


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "DQN": (lambda: DQNConfig().environment(Ferry), KINDS, "DQNConfig cannot be given gifts"),
    "APPO": (lambda: APPOConfig().environment(Ferry), KINDS, "APPOConfig cannot be given gifts"),
    "IMPALA": (lambda: IMPALAConfig().environment(Ferry), KINDS, "IMPALAConfig cannot be given gifts"),
    "old stack": (
        lambda: own_config().api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False),
        KINDS,
        "old API stack",
    ),
    "one policy": (lambda: PPOConfig().environment(Ferry), KINDS, "one policy for one agent"),
    "no environment": (lambda: own_config(None), KINDS, r"Call .environment"),
    "nobody": (own_config, {}, "No policy is named"),
    "no agents": (lambda: own_config(Nobody), KINDS, "possible_agents"),
    "unknown policy": (own_config, {"cook": "lase"}, "'cook' plays nobody.*captain, deckhand, passengers"),
    "cut episodes": (
        own_config,
        {"captain": "inequity_averse"},
        "'inequity_averse' .* whole episodes.*'complete_episodes'",
    ),
    "observations without a size": (lambda: own_config(Spoken), KINDS, "'captain' observes Sequence.*no fixed size"),
    "continuous actions, LASE": (lambda: own_config(Steered), KINDS, "'lase' need Discrete actions"),
    "continuous actions, Reciprocators": (
        lambda: whole_episodes().environment(Steered),
        {"deckhand": "reciprocator"},
        "'reciprocator' need Discrete actions",
    ),
    "shared among unlike co-players": (own_config, {"passengers": "lase"}, "need co-players with like actions"),
}


@pytest.mark.parametrize(("config", "kinds", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_supported_is_said_before_anything_starts(config, kinds, message):
    with pytest.raises(SettingError, match=message):
        with_gifting(config(), kinds)
