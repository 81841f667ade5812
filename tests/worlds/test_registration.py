"""Names of worlds, worlds of one's own, and RLlib's stock runners on all of them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from gymnasium.spaces import Discrete, Sequence

import env_registry
from env_registry import WORLDS, SettingError, World, make, parallel_env, register
from env_registry.pettingzoo_world import PettingZooWorld
from tests.worlds.small_games import FadingWorld, ScriptedGame, UnlikeGame, unlike_game

FADING = "tests.worlds.small_games:FadingWorld"


@pytest.fixture
def own_names():
    """Forgets what a test registers."""
    before = dict(WORLDS)
    yield
    WORLDS.clear()
    WORLDS.update(before)


def test_importing_the_worlds_is_light():
    heavy = {"ray", "torch", "supersuit", "matplotlib", "pygame", "mlflow"}
    program = f"import sys, env_registry; print({heavy} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


@pytest.mark.parametrize("name", WORLDS)
def test_every_name_makes_a_world(name):
    world = make(name, num_games=3)
    assert isinstance(world, World)
    assert world.num_games == 3
    assert world.reset(seed=0).shape == (3, world.num_agents, *world.observation_space.shape)


@pytest.mark.parametrize("own", [FadingWorld, lambda num_games, **config: FadingWorld(num_games, **config)])
def test_a_world_of_ones_own_is_made_by_its_name(own, own_names):
    register("fading", own)
    assert isinstance(make("fading", num_games=2, num_agents=4), FadingWorld)
    assert parallel_env("fading", num_agents=4).possible_agents == [f"agent_{number}" for number in range(4)]
    assert isinstance(make("fading", num_games=2, wrappers=["agent_indicator_v0"]), PettingZooWorld)
    register("fading", FadingWorld)


@pytest.mark.parametrize("env", [FADING, FadingWorld])
def test_a_batched_world_is_found_without_a_name(env):
    assert isinstance(make(env, num_games=2), FadingWorld)
    assert parallel_env(env, num_agents=2).possible_agents == ["agent_0", "agent_1"]


@pytest.mark.parametrize(
    "env",
    [
        "mpe2.simple_spread_v3",
        "classic/rps-v2",
        "tests.worlds.small_games:ScriptedGame",
        ScriptedGame,
        lambda: ScriptedGame(),
    ],
)
def test_a_pettingzoo_environment_is_found_by_every_kind_of_name(env):
    world = make(env, num_games=2)
    assert isinstance(world, PettingZooWorld)
    assert isinstance(world, World)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("clean_up", "Unknown world 'clean_up'. Did you mean 'cleanup'"),
        ("classic/rsp-v2", "Unknown PettingZoo environment 'classic/rsp-v2'. Did you mean 'classic/rps-v2'"),
        ("mpe3.simple_spread_v3", "module 'mpe3.simple_spread_v3' cannot be imported (No module named 'mpe3')"),
        ("env_registry.grid", "has no callable 'parallel_env'; name one as 'package.module:callable'"),
        ("tests.worlds.small_games:Scripted", "has no callable 'Scripted'"),
        (ScriptedGame(), "a name or a callable is needed"),
        (None, "a name or a callable is needed"),
    ],
)
def test_unknown_environments_name_themselves(env, message):
    for find in (make, parallel_env):
        with pytest.raises(SettingError) as error:
            find(env)
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "world", "message"),
    [
        ("cleanup", FadingWorld, "belongs to a built-in world"),
        ("my.world", FadingWorld, "without '.', ':' and '/'"),
        ("", FadingWorld, "without '.', ':' and '/'"),
        ("fading", FadingWorld(), "a class or function"),
    ],
)
def test_wrong_registrations_are_refused(name, world, message, own_names):
    with pytest.raises(SettingError, match=message):
        register(name, world)
    assert "fading" not in WORLDS


# -- RLlib


def test_worker_processes_learn_a_world_that_they_have_not_registered(own_names):
    from ray import cloudpickle
    from ray.tune.registry import ENV_CREATOR, _global_registry

    register("fading", lambda num_games, **config: FadingWorld(num_games, **config))
    env_registry.register_all()
    sent = cloudpickle.dumps(_global_registry.get(ENV_CREATOR, "fading"))
    del WORLDS["fading"]
    assert cloudpickle.loads(sent)({"num_agents": 2}).possible_agents == ["agent_0", "agent_1"]


def rllib(env, **env_config):
    from env_registry.rllib_env import rllib_env

    return rllib_env(env, **env_config)


def test_rllib_sees_agents_in_order_and_float_vectors():
    env = rllib("cleanup", num_agents=3)
    assert (
        env.possible_agents
        == list(env.observation_spaces)
        == list(env.action_spaces)
        == ["agent_0", "agent_1", "agent_2"]
    )
    shown, _ = env.reset(seed=1)
    plain, _ = parallel_env("cleanup", num_agents=3).reset(seed=1)
    for agent, seen in shown.items():
        assert env.observation_spaces[agent].contains(seen)
        assert seen.dtype == np.float32
        np.testing.assert_array_equal(seen, plain[agent].ravel())
    _, rewards, *_ = env.step(dict.fromkeys(shown, 0))
    assert {type(reward) for reward in rewards.values()} == {float}


def test_rllib_may_see_pictures():
    env = rllib("cleanup", flatten_observations=False)
    shown, _ = env.reset(seed=1)
    assert all(env.observation_spaces[agent].contains(seen) and seen.ndim == 3 for agent, seen in shown.items())


def test_rllib_hears_who_dies_and_how_a_game_ends():
    env = rllib(ScriptedGame, deaths={"bob": 2}, length=3)
    env.reset(seed=0)
    flags = []
    for _ in range(3):
        shown, _, terminations, truncations, _ = env.step(dict.fromkeys(env.env.agents, 0))
        assert env.agents == list(shown)
        flags.append((terminations, truncations))
    playing, nobody = dict.fromkeys(("ann", "bob", "cid"), False), {"ann": False, "cid": False, "__all__": False}
    assert flags == [
        (playing | {"__all__": False}, playing | {"__all__": False}),
        (playing | {"bob": True, "__all__": False}, playing | {"__all__": False}),
        (
            nobody,
            {"ann": False, "cid": False, "__all__": True},
        ),  # flags of their own would make RLlib call it terminated
    ]
    env = rllib(ScriptedGame, deaths={"ann": 1, "bob": 1, "cid": 1})
    env.reset(seed=0)
    *_, terminations, truncations, _ = env.step(dict.fromkeys(env.agents, 0))
    assert terminations["__all__"]
    assert not any(truncations.values())


def test_rllib_refuses_observations_without_a_shape():
    with pytest.raises(SettingError, match=r"'mapping' observes Dict.*leave flatten_observations on"):
        rllib(unlike_game, flatten_observations=False)
    with pytest.raises(SettingError, match=r"'one' observes Sequence.*no fixed size"):
        rllib(lambda: UnlikeGame({"one": Sequence(Discrete(2))}, {"one": Discrete(2)}))


def trained(name, model=None, **env_config):
    """The result of one small iteration of RLlib's PPO, with a policy for each of the first two agents' names."""
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    config = (
        PPOConfig()
        .environment(name, env_config=env_config)
        .env_runners(num_env_runners=0, rollout_fragment_length=8)
        .multi_agent(
            policies={"first", "others"},
            policy_mapping_fn=lambda agent, episode, **_: "first" if agent in ("agent_0", "ann") else "others",
        )
        .training(train_batch_size_per_learner=32, minibatch_size=16, num_epochs=1)
        .rl_module(model_config=DefaultModelConfig(**{"fcnet_hiddens": [8]} | (model or {})))
    )
    algorithm = config.build_algo()
    try:
        return algorithm.train()
    finally:
        algorithm.stop()


def check(result):
    assert result["env_runners"]["num_env_steps_sampled"] >= 32
    for policy in ("first", "others"):
        assert np.isfinite(result["learners"][policy]["total_loss"])


STOCK = pytest.mark.filterwarnings("ignore")  # RLlib's own


@STOCK
@pytest.mark.parametrize("name", WORLDS)
def test_stock_ppo_trains(name, ray_local):
    env_registry.register_all()
    check(trained(name, episode_length=10))


@STOCK
def test_stock_ppo_trains_with_wrappers_and_pictures(ray_local):
    env_registry.register_all()
    check(trained("matrix_game", wrappers=["frame_stack_v1", "agent_indicator_v0"]))
    check(trained("cleanup", model={"conv_filters": [[4, 3, 1]]}, flatten_observations=False))


@STOCK
def test_stock_ppo_trains_where_agents_die(own_names, ray_local):
    register("fading", FadingWorld)
    env_registry.register_all()
    result = trained("fading")
    check(result)
    assert result["env_runners"]["episode_len_mean"] == 3
    steps = result["env_runners"]["num_agent_steps_sampled"]
    assert steps["agent_2"] > steps["agent_1"] > steps["agent_0"] > 0
