"""Masks of actions in a user's own PPO: RLlib's masking module acts, and gifts count allowed alternatives only."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.tune.registry import register_env

from env_registry.rllib_env import rllib_env
from rllib_empathy import with_gifting
from rllib_empathy.policies.social_inference import infer_relationships
from rllib_empathy.policies.social_options import SocialOptions
from rllib_empathy.stock.episodes import EpisodeAdapter
from rllib_empathy.stock.gifting import Gifting
from rllib_empathy.stock.seats import Seat
from tests.core.test_lase import lase_module, plain_weight
from tests.worlds.masked_games import MaskedGame

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # RLlib's own
SEEN = Box(-1, 1, (2,), np.float32)


def episode_of(seed: int, where: str, length: int = 7) -> tuple[MultiAgentEpisode, Any, np.ndarray]:
    """Two agents in every step; the masks [length, 2, 3] and actions that they allow are returned as well."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(3, size=(length, 2))
    masks = (rng.random((length + 1, 2, 3)) < 0.4).astype(np.int8)
    masks[np.arange(length)[:, None], [0, 1], actions] = 1
    masks[-1] = 0  # where the game is over nothing is allowed, and nobody asks
    seen = rng.uniform(-1, 1, (length + 1, 2, 2)).astype(np.float32)
    episode = MultiAgentEpisode(
        agent_to_module_mapping_fn=lambda agent, episode: f"policy_{agent}", observation_space=None, action_space=None
    )

    def shown(step: int) -> dict[Any, Any]:
        if where == "infos":
            return {agent: seen[step, agent] for agent in range(2)}
        return {agent: {"observations": seen[step, agent], "action_mask": masks[step, agent]} for agent in range(2)}

    def infos(step: int) -> dict[Any, Any]:
        return {agent: {"action_mask": masks[step, agent]} if where == "infos" else {} for agent in range(2)}

    episode.add_env_reset(observations=shown(0), infos=infos(0))
    for step in range(length):
        episode.add_env_step(
            observations=shown(step + 1),
            actions=dict(enumerate(actions[step].tolist())),
            rewards={0: 1.0, 1: 0.5},
            infos=infos(step + 1),
            terminateds={"__all__": step + 1 == length},
            truncateds={},
        )
    return episode, actions, masks[:-1] != 0


def seats_for(where: str) -> list[Seat]:
    space = SEEN if where == "infos" else Dict({"observations": SEEN, "action_mask": MultiBinary(3)})
    return [Seat(agent, f"policy_{agent}", space, Discrete(3)) for agent in range(2)]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["observations", "infos"]), st.booleans())
def test_the_trajectory_has_the_masks_and_what_is_seen_has_not(seed, where, as_arrays):
    (long, actions, masks), (short, _, more) = episode_of(seed, where), episode_of(seed + 1, where, length=4)
    if as_arrays:
        long.to_numpy()
        short.to_numpy()
    adapter = EpisodeAdapter(seats_for(where))
    joint: Any = adapter.joint([long, short])[0]
    assert joint.observations.shape == (7, 2, 2, 2)
    np.testing.assert_array_equal(joint.actions[:, 0], actions)
    np.testing.assert_array_equal(joint.action_masks[:, 0], masks)
    np.testing.assert_array_equal(joint.action_masks[:4, 1], more)
    assert joint.action_masks[4:, 1].all()  # nobody is there
    own = long.agent_episodes[0].get_observations()
    seen = [step["observations"] for step in own] if isinstance(own, list) and where != "infos" else own
    seen = seen["observations"] if isinstance(seen, dict) else np.stack(list(seen))
    np.testing.assert_array_equal(joint.observations[:, 0, 0], seen[:-1])
    np.testing.assert_array_equal(joint.tail_observations[0, 0], seen[-1])


def test_forbidden_actions_are_told_of_once_and_count_as_allowed(caplog):
    episode, actions, masks = episode_of(1, "infos")
    for own in episode.agent_episodes.values():
        for info in own.infos.data:
            info["action_mask"] = np.array([0, 0, 1])
    adapter = EpisodeAdapter(seats_for("infos"))
    with caplog.at_level(logging.WARNING):
        joint: Any = adapter.joint([episode])[0]
        adapter.joint([episode])
    assert len(caplog.records) == 1
    assert "Agent 0 did what its action_mask forbids" in caplog.text
    assert np.take_along_axis(joint.action_masks, joint.actions[..., None], -1).all()
    assert joint.action_masks[..., 2].all()
    assert not joint.action_masks[joint.actions == 2][:, :2].any()
    assert masks.shape == (7, 2, 3)
    assert (actions == 2).any()


def test_gifts_are_those_of_whole_forward_passes_over_what_was_allowed():
    episode, _, _ = episode_of(3, "observations")
    joint = EpisodeAdapter(seats_for("observations")).joint([episode])[0].to_tensors()
    torch.manual_seed(0)
    module = lase_module((2,), (3, 3))
    relationships = infer_relationships(module.social, SocialOptions(), joint, 0)[0]
    with torch.no_grad():
        expected = [plain_weight(module, joint, 0, 1, step, 0) for step in range(7)]
    np.testing.assert_allclose(relationships[:, 0, 1].clamp(min=0), expected, atol=1e-6)
    assert max(expected) > 0


def test_auxiliary_networks_do_not_see_masks():
    gifting = Gifting({"policy_0": "lase"}, seats_for("observations"), {}, seed=0)
    social: Any = gifting.networks["policy_0"]["social"]
    assert social.relationship_architecture.observation_shape == (2,)


@pytest.mark.parametrize("kind", ["lase", "reciprocator"])
def test_rllibs_masking_module_acts_and_learns_with_gifts(ray_local, kind, caplog):
    """MaskedGame stops with an error where something forbidden is done."""
    from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule

    register_env("masked", lambda env_config: rllib_env(MaskedGame, **env_config))
    agents = ["player_0", "player_1"]
    spec = RLModuleSpec(module_class=ActionMaskingTorchRLModule, model_config=DefaultModelConfig(fcnet_hiddens=[16]))
    config = (
        PPOConfig()
        # RLlib's check of environments would do something forbidden at once.
        .environment("masked", env_config={"choices": (4, 4)}, disable_env_checking=True)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2, batch_mode="complete_episodes")
        .multi_agent(policies=set(agents), policy_mapping_fn=lambda agent, *args, **kwargs: agent)
        .rl_module(rl_module_spec=spec)
        .training(train_batch_size_per_learner=36, minibatch_size=36, num_epochs=1)
        .debugging(seed=3, log_level="ERROR")
    )
    algorithm = with_gifting(config, dict.fromkeys(agents, kind)).build_algo()
    for _ in range(2):
        result = algorithm.train()
    learned = result["learners"]["player_0"]
    assert np.isfinite(learned["total_loss"])
    assert np.isfinite(learned["reshaped_reward_mean"])
    assert "forbids" not in caplog.text
    algorithm.stop()
