"""Who is cut off is bootstrapped and who dies is not, on both paths, however environments say it and wherever data are cut."""

from __future__ import annotations

import copy
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_learner import AddOneTsToEpisodesAndTruncate, GeneralAdvantageEstimation
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.tune.registry import register_env

from env_registry.ends import Ends, keep_ends
from env_registry.parameters import SettingError
from env_registry.rllib_env import rllib_env
from rllib_empathy import EmpathyConfig
from rllib_empathy.joint import JointTrajectory
from rllib_empathy.learning.advantages import generalized_advantages
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
from rllib_empathy.stock import episodes as stock_episodes
from rllib_empathy.stock.episodes import EpisodeAdapter
from rllib_empathy.stock.runner import GiftingEnvRunner
from rllib_empathy.stock.seats import Seat
from tests.stock.scripted import AGENTS, ENDS, LONE_LIMITS, ParallelScript, Script, UsersScript

pytestmark = pytest.mark.filterwarnings("ignore")  # RLlib's own

GAMMA, LAMBDA = 0.9, 0.8
SCRIPTS = {**ENDS, **LONE_LIMITS}


class FirstNumber(TorchRLModule, ValueFunctionAPI):
    """The value of a state is the first number observed."""

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        return batch["obs"][..., 0]


def stock_config(env: Any, **env_config: Any) -> PPOConfig:
    return (
        PPOConfig()
        .environment(env, env_config=env_config)
        .env_runners(num_env_runners=0)
        .multi_agent(policies=set(AGENTS), policy_mapping_fn=lambda agent, *_, **__: agent)
        .debugging(log_level="ERROR")
    )


def stock_episodes_of(config: PPOConfig, steps: int, fragments: int, runner: type = MultiAgentEnvRunner) -> list[Any]:
    """Fragments as RLlib's runner samples them, each a list of (chunks of) episodes."""
    config.validate()
    sampling = runner(config=config, worker_index=0)
    found = [sampling.sample(num_timesteps=steps, random_actions=True) for _ in range(fragments)]
    sampling.stop()
    return found


def stock_targets(episodes: list[MultiAgentEpisode], lambda_: float = LAMBDA) -> dict[str, np.ndarray]:
    """Each agent's value targets, as RLlib's PPO Learner makes them: its own pipeline with its own pieces at both ends."""
    pipeline = stock_config(UsersScript).build_learner_connector(None, None)
    pipeline.prepend(AddOneTsToEpisodesAndTruncate())
    pipeline.append(GeneralAdvantageEstimation(gamma=GAMMA, lambda_=lambda_))
    players = {str(agent) for one in episodes for agent, own in one.agent_episodes.items() if len(own)}
    spec = RLModuleSpec(FirstNumber, observation_space=env_space(), action_space=Discrete(2), model_config={})
    modules = MultiRLModuleSpec(rl_module_specs={agent: copy.copy(spec) for agent in sorted(players)}).build()
    batch = pipeline(rl_module=modules, batch={}, episodes=episodes, shared_data={})
    return {
        agent: columns["value_targets"].numpy()[columns["loss_mask"].numpy().astype(bool)]
        for agent, columns in batch.items()
    }


def own_targets(joint: JointTrajectory, lambda_: float = LAMBDA) -> torch.Tensor:
    """Value targets `[T, B, N]` of this project's Learner."""
    agents = joint.shape[2]
    values, tails = joint.observations[..., 0].float(), joint.tail_observations[..., 0].float()
    discounts = torch.full((agents,), GAMMA), torch.full((agents,), lambda_)
    return generalized_advantages(joint, joint.rewards, values, tails, *discounts) + values


def own_fragments(script: Script, steps: int, fragments: int, constant: float | None = None) -> list[JointTrajectory]:
    """Fragments of the same game as this project's runner samples them."""
    config = (
        EmpathyConfig()
        .environment(partial_script(script, constant))
        .population("random")
        .env_runners(num_envs_per_env_runner=1, rollout_fragment_length=steps)
    )
    config.validate()
    runner = JointEnvRunner(config=config, worker_index=0)
    return [runner.sample()[0].to_tensors() for _ in range(fragments)]


@cache
def fast_path_targets(end: str) -> dict[str, np.ndarray]:
    """Of three episodes in one fragment."""
    [joint] = own_fragments(SCRIPTS[end], 15, 1)
    return of_agents(own_targets(joint), joint)


def partial_script(script: Script, constant: float | None) -> Any:
    """A class, which is what RLlib's configurations take."""
    return type("Script", (ParallelScript,), {"__init__": partial_init(script, constant)})


def partial_init(script: Script, constant: float | None) -> Any:
    return lambda self, **_: ParallelScript.__init__(self, script=script, constant=constant)


def of_agents(targets: torch.Tensor, joint: JointTrajectory) -> dict[str, np.ndarray]:
    """Of the rows in which they act, agent by agent."""
    by_agent = {agent: targets[:, 0, i][joint.alive[:, 0, i]].numpy() for i, agent in enumerate(AGENTS)}
    return {agent: rows for agent, rows in by_agent.items() if len(rows)}


def assert_alike(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for agent in left:
        np.testing.assert_allclose(left[agent], right[agent], atol=1e-6, err_msg=agent)


@pytest.mark.parametrize("steps", [15, 3])
@pytest.mark.parametrize("end", SCRIPTS)
def test_value_targets_of_both_paths_are_equal(end, steps):
    register_env("script", lambda env_config: rllib_env(partial(ParallelScript, script=SCRIPTS[end])))
    on_rllib = stock_episodes_of(stock_config("script"), steps, fragments=3)
    for episodes, joint in zip(on_rllib, own_fragments(SCRIPTS[end], steps, fragments=3), strict=True):
        assert_alike(stock_targets(episodes), of_agents(own_targets(joint), joint))


@pytest.mark.parametrize("flags", ["own", "both", "all"])
@pytest.mark.parametrize("end", SCRIPTS)
def test_value_targets_of_a_users_environment_are_those_of_the_fast_path(end, flags):
    config = stock_config(UsersScript, script=SCRIPTS[end], flags=flags)
    episodes = stock_episodes_of(config, 15, 1, GiftingEnvRunner)[0]
    adapter = EpisodeAdapter([Seat(agent, agent, env_space(), None) for agent in AGENTS])
    laid_out, steps = adapter.joint(episodes)
    copies = adapter.with_rewards(episodes, steps, laid_out.rewards)
    from_episodes = own_targets(laid_out.to_tensors())
    rows: dict[str, list[np.ndarray]] = {agent: [] for agent in AGENTS}
    for at in steps:
        rows[AGENTS[at.agent]].append(from_episodes[at.rows, at.game, at.agent].numpy())
    expected = fast_path_targets(end)
    assert_alike({agent: np.concatenate(parts) for agent, parts in rows.items()}, expected)
    assert_alike(stock_targets(copies), expected)


def env_space() -> Any:
    return UsersScript({"script": ENDS["all die"]}).observation_spaces["a"]


@pytest.mark.parametrize("lambda_", [0.0, 0.95, 1.0])
def test_targets_stay_where_they_are_at_a_limit_and_fall_to_the_last_reward_at_a_death(lambda_):
    # Reward 1 for ever at a discount of .9 is worth 10; LENGTH steps are worth (1 - .9^k) / .1 with k steps to go (lambda 1).
    for end, how in [("all cut off", "limit"), ("one dies as the others are cut off", "mixed"), ("all die", "death")]:
        register_env("script", lambda _, end=end: rllib_env(partial(ParallelScript, script=ENDS[end], constant=10.0)))
        targets = stock_targets(stock_episodes_of(stock_config("script"), 5, 1)[0], lambda_)
        [joint] = own_fragments(ENDS[end], 5, 1, constant=10.0)
        assert_alike(of_agents(own_targets(joint, lambda_), joint), targets)
        cut_off = {"limit": "abc", "mixed": "bc", "death": ""}[how]
        for agent, own in targets.items():
            if agent in cut_off:
                np.testing.assert_allclose(own, 10, atol=1e-5)
            elif lambda_ == 1:
                np.testing.assert_allclose(own, [(1 - 0.9**k) / 0.1 for k in (5, 4, 3, 2, 1)], atol=1e-5)
            else:
                assert own[-1] == pytest.approx(1)


@pytest.mark.parametrize("flags", ["own", "both", "all"])
@pytest.mark.parametrize("end", [*ENDS, *LONE_LIMITS])
def test_every_agent_ends_as_the_environment_means_it(end, flags):
    script = {**ENDS, **LONE_LIMITS}[end]
    env = keep_ends(UsersScript({"script": script, "flags": flags}))
    assert isinstance(env, UsersScript)
    episode = MultiAgentEpisode(agent_to_module_mapping_fn=lambda agent, _: agent)
    episode.add_env_reset(observations=env.reset()[0])
    over = False
    while not over:
        there = env.game.playing()
        observations, rewards, terminateds, truncateds, infos = env.step(dict.fromkeys(there, 0))
        episode.add_env_step(
            observations,
            dict.fromkeys(there, 0),
            rewards,
            infos,
            terminateds=terminateds,
            truncateds=truncateds,
        )
        over = terminateds["__all__"] or truncateds["__all__"]
        assert over == episode.is_done  # else RLlib goes on with a game that is over
    assert env.game.time == 5
    for agent, (step, how) in script.items():
        own = episode.agent_episodes[agent]
        assert (len(own), own.is_done, own.is_terminated) == (step, True, how == "dies")


def recorded(terminateds: dict[str, bool], truncateds: dict[str, bool]) -> MultiAgentEpisode:
    """A step that everybody plays, as an environment without kept ends says it."""
    episode = MultiAgentEpisode(agent_to_module_mapping_fn=lambda agent, _: agent)
    seen = {agent: np.ones(2, np.float32) for agent in AGENTS}
    episode.add_env_reset(observations=seen)
    actions, paid = dict.fromkeys(AGENTS, 0), dict.fromkeys(AGENTS, 1.0)
    episode.add_env_step(seen, actions, paid, terminateds=terminateds, truncateds=truncateds)
    return episode.to_numpy()


EVERYBODY = dict.fromkeys(AGENTS, True)
RECORDED: dict[str, tuple[dict[str, bool], dict[str, bool], str, bool]] = {
    "own flags": ({}, EVERYBODY, "abc", False),
    "mixed by own flags": ({"a": True}, {"b": True, "c": True}, "bc", False),
    "own flags and all": ({}, {**EVERYBODY, "__all__": True}, "abc", True),
    "all alone": ({}, {"__all__": True}, "abc", False),
    "one dead, all cut off": ({"a": True}, {"__all__": True}, "bc", False),
    "dead": (EVERYBODY, {}, "", False),
}


@pytest.mark.parametrize(("terminateds", "truncateds", "cut", "warns"), RECORDED.values(), ids=RECORDED)
def test_episodes_of_other_runners_are_mended_as_far_as_they_tell(terminateds, truncateds, cut, warns, caplog):
    stock_episodes._warn_of_lost_ends.cache_clear()
    episode = recorded(terminateds, truncateds)
    adapter = EpisodeAdapter([Seat(agent, agent, env_space(), None) for agent in AGENTS])
    joint, steps = adapter.joint([episode])
    [copy] = adapter.with_rewards([episode], steps, joint.rewards)
    assert {agent for agent, own in copy.agent_episodes.items() if not own.is_terminated} == set(cut)
    bootstrapped = joint.survives[0, 0] & ~joint.terminated[0]
    assert {agent for agent, goes_on in zip(AGENTS, bootstrapped, strict=True) if goes_on} == set(cut)
    assert ("both terminated and truncated" in caplog.text) == warns


def test_who_waits_is_not_gone_and_who_is_reported_dead_again_is_left_out():
    ends = Ends("world")
    ends.begin({"a": 0, "b": 0, "c": 0})
    ends.kept(({"a": 1, "c": 1}, {"a": 1.0, "c": 1.0}, {"c": True, "__all__": False}, {"__all__": False}, {}))
    again: Any = (
        {"a": 2, "b": 2, "c": 2},
        {"a": 1.0, "c": 0.0},
        {"c": True, "__all__": False},
        {"__all__": False},
        {"c": {}},
    )
    observations, rewards, terminateds, _, infos = ends.kept(again)
    assert (observations, rewards, infos) == ({"a": 2, "b": 2}, {"a": 1.0}, {})
    assert terminateds == {"__all__": False}


def test_a_newcomer_in_the_step_in_which_all_others_leave_is_refused():
    ends = Ends("world")
    ends.begin({"a": 0})
    with pytest.raises(SettingError, match=r"world: 'b' arrives in step 1, .* Show newcomers a step earlier"):
        ends.kept(({"a": 1, "b": 1}, {"a": 1.0}, {"a": True, "__all__": False}, {"__all__": False}, {}))
