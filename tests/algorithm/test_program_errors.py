"""An exception of a user's own code ends a run with its text at once, wherever it runs; only lost processes are waited for."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import ray

from env_registry.failures import ProgramError, told
from env_registry.parameters import SettingError
from rllib_empathy import evaluate
from rllib_empathy.experiments.building import build_config
from rllib_empathy.experiments.experiment import load_experiment
from rllib_empathy.experiments.metrics_table import read_metrics
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.experiments.training import train
from rllib_empathy.learning import algorithm as learning_algorithm
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.learning.faults import ClusterFault
from rllib_empathy.policies import KINDS
from tests.algorithm.broken_worlds import Broken
from tests.algorithm.common import small_config

BROKEN = f"{Broken.__module__}:{Broken.__qualname__}"


@pytest.fixture(autouse=True)
def _waits_are_errors(monkeypatch):
    """Whoever waits for a runner to come back has taken an error of a program for one of a machine."""
    monkeypatch.setattr(learning_algorithm, "LONGEST_WITHOUT_RUNNERS_S", 0.5)


def broken(**env_config: Any) -> EmpathyConfig:
    return small_config(Broken, games=2, steps=6).environment(env_config=env_config)


PLACES: dict[str, dict[str, Any]] = {
    "here": {},
    "on a runner that plays ahead": {"num_env_runners": 1, "sample_ahead": True},
    "on one of two runners": {"num_env_runners": 2},
}


@pytest.mark.parametrize(
    ("where", "when"),
    [
        ("here", "reset"),
        ("here", "step"),
        ("on a runner that plays ahead", "step"),
        ("on one of two runners", "reset"),
        ("on one of two runners", "step"),
    ],
)
def test_an_exception_of_a_world_ends_training_with_its_text(ray_local, where, when):
    algorithm = broken(when=when).env_runners(**PLACES[where]).build_algo()
    with pytest.raises(ProgramError, match=r"KeyError: 'agent_7'") as caught:
        algorithm.train()
    algorithm.stop()
    text = str(caught.value)
    assert f"World {Broken.__name__!r} failed" in text or f"World {BROKEN!r} failed" in text
    assert ("game 0 began" if when == "reset" else "game 0, step 4 of its episode") in text
    assert "broken_worlds.py, line" in text
    assert 'raise KeyError("agent_7")' in text
    assert len(text.splitlines()) <= 4, "no wall of other people's code"


def test_a_world_that_cannot_be_made_on_a_runner_says_why(ray_local):
    with pytest.raises((ProgramError, SettingError), match="agent_7"):
        broken(when="made").env_runners(num_env_runners=1).build_algo().train()


def test_an_exception_on_an_evaluation_runner_is_told(ray_local):
    config = broken(when="never", length=5).evaluation(
        evaluation_interval=1,
        evaluation_duration=2,
        evaluation_num_env_runners=1,
        evaluation_config=EmpathyConfig.overrides(env_config={"when": "step", "length": 5}),
    )
    algorithm = config.build_algo()
    with pytest.raises(ProgramError, match=r"step 4 of its episode.*KeyError: 'agent_7'"):
        algorithm.train()
    algorithm.stop()


def test_an_exception_of_an_agent_is_told(ray_local, monkeypatch):
    def losses(*args: Any) -> Any:
        raise KeyError("agent_7")

    monkeypatch.setattr(KINDS["ppo"], "losses", losses)
    algorithm = broken(when="never", length=5).build_algo()
    with pytest.raises(ProgramError, match="Learning failed: KeyError: 'agent_7'"):
        algorithm.train()
    algorithm.stop()


@pytest.mark.parametrize("runners", [0, 1])
def test_what_was_learned_before_is_saved_and_goes_on_once_the_world_is_mended(ray_local, tmp_path, runners):
    breaks = tmp_path / "breaks"
    overrides = [
        f"environment={BROKEN}",
        f"env_config={{when: step, once: {breaks}, length: 5}}",
        "population=ppo",
        f"env_runners={{num_env_runners: {runners}, num_envs_per_env_runner: 2, rollout_fragment_length: 5}}",
        "stop={iterations: 5}",
    ]
    experiment = load_experiment("quickstart", overrides)
    folder = RunFolder.create(tmp_path, "broken")

    def break_after_two_iterations() -> bool:
        """In the place of what asks, before each iteration, whether to stop."""
        if folder.metrics.exists() and read_metrics(folder.metrics)["iteration"][-1] == 2:
            breaks.touch()
        return False

    with pytest.raises(ProgramError, match="agent_7"):
        list(train(experiment, build_config(experiment), folder, break_after_two_iterations))
    assert folder.last_checkpoint() == folder.checkpoints / "iteration_000002"
    breaks.unlink()
    assert [row["iteration"] for row in train(experiment, build_config(experiment), folder)] == [3, 4, 5]


def test_a_lost_runner_is_still_waited_for(ray_local, caplog):
    algorithm = broken(when="never", length=5).env_runners(num_env_runners=1).build_algo()
    algorithm.train()
    ray.kill(algorithm.env_runner_group._worker_manager.actors()[1])
    with pytest.raises(ClusterFault, match="No runner has answered"):
        algorithm.train()
    algorithm.stop()
    assert "Runner 1 is gone" in caplog.text
    assert "of 1, the processes or machines of 1 are known to be gone" in caplog.text


def test_errors_whose_messages_are_made_for_users_stay_as_they_are():
    for mine in (SettingError("lr = -1"), ProgramError("told already")):
        assert told(mine, "somewhere") is mine
    with pytest.raises(SettingError) as by_us:
        EmpathyConfig().env_runners(max_episode_steps=0)
    assert told(by_us.value, "somewhere") is by_us.value


def test_an_error_of_a_users_code_is_told_with_its_innermost_lines():
    def deep(levels: int) -> None:
        if levels == 0:
            raise ZeroDivisionError
        deep(levels - 1)

    with pytest.raises(ZeroDivisionError) as caught:
        deep(5)
    shown = told(caught.value, "World 'mine'")
    first, *lines = str(shown).splitlines()
    assert first == "World 'mine': ZeroDivisionError: no message"
    assert len(lines) == 3
    assert all("test_program_errors.py" in line for line in lines)
    assert lines[-1].endswith("raise ZeroDivisionError")
    assert str(pickle.loads(pickle.dumps(shown))) == str(shown)


ENDLESS = "have not ended after 50 steps.*max_episode_steps"


def endless() -> EmpathyConfig:
    return broken(when="never").env_runners(max_episode_steps=50)


def test_episodes_that_never_end_are_an_error_where_whole_ones_are_needed(ray_local):
    algorithm = endless().env_runners(batch_mode="complete_episodes").build_algo()
    with pytest.raises(SettingError, match=ENDLESS):
        algorithm.train()
    algorithm.stop()


@pytest.mark.parametrize("runners", [0, 1])
def test_so_they_are_in_evaluation_beside_training(ray_local, runners):
    config = endless().evaluation(evaluation_interval=1, evaluation_num_env_runners=runners, evaluation_duration=2)
    algorithm = config.build_algo()
    with pytest.raises(SettingError, match=ENDLESS):
        algorithm.train()
    algorithm.stop()


def test_and_in_evaluation_after_it(ray_local, tmp_path):
    algorithm = endless().build_algo()
    algorithm.train()
    folder = algorithm.save_to_path(tmp_path)
    algorithm.stop()
    with pytest.raises(SettingError, match=ENDLESS):
        evaluate(folder, episodes=2)


def test_training_on_fragments_of_endless_episodes_warns_once(ray_local, caplog):
    algorithm = endless().build_algo()
    for _ in range(20):
        algorithm.train()
    algorithm.stop()
    assert caplog.text.count("No episode of") == 1


@pytest.mark.parametrize("steps", [0, -1, 2.5, "many"])
def test_the_limit_of_steps_is_checked(steps):
    with pytest.raises(SettingError, match=f"max_episode_steps = {steps!r}"):
        EmpathyConfig().env_runners(max_episode_steps=steps)
