"""Agents outside of RLlib act as they do inside of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import env_registry
from env_registry.parameters import SettingError
from rllib_empathy.experiments.checkpoints import read_agent
from rllib_empathy.experiments.errors import CheckpointError
from rllib_empathy.inference import Agent, load_agent
from rllib_empathy.policies.frozen import TrainedAgent
from rllib_empathy.policies.kind import CONTEXT
from rllib_empathy.policies.networks import evaluate, stack_parameters
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
from tests.algorithm.common import small_config
from tests.core.agents import module_of


def test_they_choose_what_a_runner_chooses(earlier):
    """Without memory and with; what they remember is forgotten where an episode begins, and nowhere else."""
    population = [{"kind": "frozen", "checkpoint": str(earlier), "agent": agent} for agent in range(3)]
    config = small_config(population=[*population, "random"], games=1, steps=130)
    config.validate()
    runner = JointEnvRunner(config=config, worker_index=0)
    for module_id, kind in runner.population.kinds().items():
        kind.initialise(runner.module[module_id])
    joint = runner.sample(explore=False)[0]
    assert joint.starts[1:].any()
    for number in range(3):
        agent = load_agent(earlier, number, greedy=True)
        chosen = []
        for begins, observation in zip(joint.starts[:, 0], joint.observations[:, 0, number], strict=True):
            if begins:
                agent.reset()
            chosen.append(agent.act(observation))
        np.testing.assert_array_equal(chosen, joint.actions[:, 0, number])
    assert len(np.unique(joint.actions[..., :3])) > 1


def test_chance_has_a_seed_and_follows_the_policy(earlier):
    seen = env_registry.make("stag_hunt").reset(0)[0, 2]
    choices: list[list[int]] = []
    for seed in (1, 1, 2):
        agent = load_agent(earlier, 2, seed=seed)
        choices.append([])
        for _ in range(400):
            agent.reset()
            choices[-1].append(agent.act(seen))
    assert choices[0] == choices[1] != choices[2]
    module = agent._module
    first = {name: value.unsqueeze(0) for name, value in module.initial_state(1).items()}
    parameters = stack_parameters([module.actor_critic])
    policy = evaluate(module.architecture, parameters, torch.from_numpy(seen)[None, None, None], first).logits.softmax(
        -1
    )
    counts = np.bincount(choices[2], minlength=policy.shape[-1])
    expected = policy.detach().flatten().numpy() * 400
    assert ((counts - expected) ** 2 / expected).sum() < 30  # at most 6 degrees of freedom: once in 25,000 seeds


def test_agents_that_keep_account_of_others_are_told_what_all_did(ray_local, tmp_path):
    """Balances and memory."""
    config = small_config("iterated_prisoners_dilemma", "reciprocator", games=4, steps=100)
    algorithm = config.training(lr=0.01, network={"hidden": (16,), "memory": "gru", "memory_size": 8}).build_algo()
    for _ in range(2):
        algorithm.train()
    algorithm.save_to_path(tmp_path)
    algorithm.stop()
    config = small_config("iterated_prisoners_dilemma", games=1, steps=12)
    config.population([{"kind": "frozen", "checkpoint": str(tmp_path)}, "random"]).validate()
    runner = JointEnvRunner(config=config, worker_index=0)
    runner.population.kinds()["frozen_0"].initialise(runner.module["frozen_0"])
    joint = runner.sample(explore=False)[0]
    agent = load_agent(tmp_path, greedy=True)
    assert agent.keeps_account
    for observations, actions in zip(joint.observations[:, 0], joint.actions[:, 0], strict=True):
        assert agent.act(observations[0]) == actions[0]
        with pytest.raises(ValueError, match=r"call notice\(...\) after each step"):
            agent.act(observations[0])
        agent.notice(observations, actions)
    agent.reset()
    agent.act(joint.observations[0, 0, 0])
    agent.notice(joint.observations[0, 0], joint.actions[0, 0], alive=[True, False])
    assert agent._state[CONTEXT][0, 0].tolist() == [0, 1, 0, 0]  # the absent owe nothing and are owed nothing
    with pytest.raises(SettingError, match="account of what all did"):
        agent.to_onnx(tmp_path / "agent.onnx")


def test_scripts_play_too(earlier):
    agent = load_agent(earlier, 3)
    assert agent.kind == "cooperator"
    assert agent.action_space.contains(agent.act(env_registry.make("stag_hunt").reset(0)[0, 3]))


def test_no_ray_is_started(earlier):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import ray
from rllib_empathy import load_agent
agent = load_agent({str(earlier)!r}, 1)
print(agent.act(agent.observation_space.low), ray.is_initialized())
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    action, initialized = answer.stdout.split()
    assert action.isdigit()
    assert initialized == "False"


def test_wrong_input_is_explained(earlier, tmp_path):
    agent = load_agent(earlier, 0)
    with pytest.raises(ValueError, match=r"has shape \(3,\), this agent knows \("):
        agent.act(np.zeros(3))
    with pytest.raises(CheckpointError, match=r"has no agent 9; its agents are 0 to 3"):
        load_agent(earlier, 9)
    with pytest.raises(SettingError, match=r"kind 'cooperator' have no network"):
        load_agent(earlier, 3).to_onnx(tmp_path / "cooperator.onnx")


@pytest.mark.parametrize(("kind", "shape", "memory"), [("ppo", (3, 6, 6), "lstm"), ("reciprocator", (5,), "none")])
def test_an_onnx_file_computes_what_the_network_does(tmp_path, kind, shape, memory):
    """Also where the value sees the time, which acting does not need."""
    options = {"balance_input": False} if kind == "reciprocator" else {}
    module = module_of(kind, shape, options=options, memory=memory)
    spaces = {"observation_space": module.observation_space, "action_space": module.action_space}
    trained = TrainedAgent(
        "made up", 0, kind, "world", type(module), module.model_config, weights=module.get_state(), **spaces
    )
    Agent(trained).to_onnx(tmp_path / "agent.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "agent.onnx")
    parameters, random = stack_parameters([module.actor_critic]), np.random.default_rng(0)
    for rows in (1, 4):
        seen = random.random((rows, *shape), np.float32) * 255
        state = {
            name: random.normal(size=value.shape).astype(np.float32)
            for name, value in module.initial_state(rows).items()
            if name != CONTEXT
        }
        found = session.run(None, {"observations": seen, **state})
        before = {name: torch.from_numpy(value)[None] for name, value in state.items()}
        with torch.no_grad():
            expected = evaluate(module.architecture, parameters, torch.from_numpy(seen)[None, None], before)
        np.testing.assert_allclose(found[0], expected.logits[0, 0].numpy(), atol=1e-5)
        for name, after in zip(state, found[1:], strict=True):
            np.testing.assert_allclose(after, expected.state[name][0].numpy(), atol=1e-5)
    assert [output.name for output in session.get_outputs()] == ["logits", *(f"next_{name}" for name in state)]


def test_a_trained_agent_says_who_it_is(earlier):
    assert "lase" in repr(read_agent(earlier, 0))
    assert "array" not in repr(read_agent(earlier, 0))
