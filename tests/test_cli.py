"""The command line, used as a person would."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPO
from typer.testing import CliRunner, Result

from env_registry import WORLDS
from rllib_empathy import cli as commands
from rllib_empathy.cli import app
from rllib_empathy.experiments import training
from rllib_empathy.experiments.metrics_table import flat_metrics, read_metrics
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.policies import KINDS
from rllib_empathy.shipped import shipped

EXPERIMENT = """
name: small
environment: snowdrift
env_config: {episode_length: 12}
population: [{kind: ppo, count: 2}, {kind: a2c, count: 1}, random]
training: {reward_scale: 0.1, network: {hidden: [8], conv_filters: [2]}}
env_runners: {num_envs_per_env_runner: 4, rollout_fragment_length: 10}
stop: {iterations: 4}
checkpoint: {every_iterations: 2}
"""

TINY = (
    "env_runners.num_envs_per_env_runner=4",
    "env_runners.rollout_fragment_length=10",
    "env_config.episode_length=12",
    "evaluation={interval: 2, episodes: 4}",
    "stop={iterations: 2}",
)
"""Overrides that make any experiment small."""


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_folder(result: Result) -> RunFolder:
    """The run folder that a command has printed."""
    found = re.search(r"Run folder: (.*)", result.stdout)
    assert found, result.output
    return RunFolder(Path(found[1]))


def last(folder: RunFolder) -> Path:
    """Its last checkpoint."""
    found = folder.last_checkpoint()
    assert found is not None
    return found


def overrides(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "small.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(ray_local: None, experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, RunFolder]:
    """A finished run of four iterations."""
    result = call("train", experiment, "--out", tmp_path_factory.mktemp("runs"))
    assert result.exit_code == 0, result.output
    return result, run_folder(result)


# -- train


def test_training_leaves_everything_in_the_run_folder_and_says_where(trained):
    result, folder = trained
    assert {path.name for path in folder.path.iterdir()} == {
        "experiment.yaml",
        "resolved.yaml",
        "versions.json",
        "metrics.csv",
        "curves.png",
        "checkpoints",
    }
    assert [path.name for path in sorted(folder.checkpoints.iterdir())] == ["iteration_000002", "iteration_000004"]
    for path in (folder.path, folder.curves, folder.last_checkpoint()):
        assert str(path) in result.stdout
    for words in ("group return", "return of ppo, per agent", "drifts removed", "160 env steps", "steps/s"):
        assert words in result.stdout
    metrics = read_metrics(folder.metrics)
    np.testing.assert_array_equal(metrics["iteration"], [1, 2, 3, 4])
    np.testing.assert_array_equal(metrics["env_steps"], [40, 80, 120, 160])
    assert np.isfinite(metrics["group_return"][1:]).all()
    returns = [metrics[f"agent_return/{agent}"] for agent in range(4)]
    np.testing.assert_allclose(np.sum(returns, 0)[1:], metrics["group_return"][1:], rtol=1e-4)
    assert np.isfinite(metrics["learner/ppo_0/policy_loss"]).all()


def test_a_resumed_run_continues_as_if_it_had_not_been_interrupted(trained, experiment, tmp_path):
    whole = read_metrics(trained[1].metrics)
    half = run_folder(call("train", experiment, "--out", tmp_path, "--set", "stop.iterations=2"))
    rest = call("train", "--resume", half.path, "--set", "stop.iterations=4")
    assert rest.exit_code == 0, rest.output
    resumed = read_metrics(half.metrics)
    assert list(resumed) == list(whole)
    for name in whole:
        if "seconds" not in name and name not in ("steps_per_second", "resumes"):
            np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)
    np.testing.assert_array_equal(resumed["resumes"], [0, 0, 1, 1])
    assert (np.diff(resumed["seconds"]) > 0).all()
    starts = json.loads(half.versions.read_text())
    assert [start["from_checkpoint"] for start in starts] == [None, "iteration_000002"]


def test_a_resolved_experiment_gives_the_same_run(trained, tmp_path):
    again = run_folder(call("train", trained[1].resolved, "--out", tmp_path))
    columns, expected = read_metrics(again.metrics), read_metrics(trained[1].metrics)
    np.testing.assert_array_equal(columns["group_return"], expected["group_return"])
    np.testing.assert_array_equal(columns["learner/a2c_2/policy_loss"], expected["learner/a2c_2/policy_loss"])


def test_a_finished_run_says_how_to_train_on(trained):
    result = call("train", "--resume", trained[1].path)
    assert result.exit_code == 2
    assert "has reached its end" in result.stderr
    assert "--set stop.env_steps" in result.stderr


@pytest.mark.parametrize("path", sorted(shipped("tune_configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_trains_and_is_evaluated(ray_local, tmp_path, path):
    result = call("train", path.stem, "--out", tmp_path, *overrides(*TINY))
    assert result.exit_code == 0, result.output
    folder = run_folder(result)
    metrics = read_metrics(folder.metrics)
    np.testing.assert_array_equal(metrics["iteration"], [1, 2])
    assert np.isfinite(metrics["evaluation/group_return"][1])
    played = json.loads(call("evaluate", folder.path, "--episodes", 3, "--json").stdout)
    assert played["episodes"] == 3


def test_ctrl_c_ends_after_the_iteration_with_a_checkpoint(ray_local, experiment, tmp_path, monkeypatch):
    result = interrupted_training(experiment, tmp_path, monkeypatch, at_iterations=[3])
    folder = run_folder(result)
    assert result.exit_code == 130
    assert last(folder).name == "iteration_000003"
    assert folder.curves.exists()
    assert f"rllib-empathy train --resume {folder.path}" in result.stderr
    on = call("train", "--resume", folder.path)
    assert on.exit_code == 0, on.output
    np.testing.assert_array_equal(read_metrics(folder.metrics)["iteration"], [1, 2, 3, 4])


def test_a_second_ctrl_c_ends_at_once_and_leaves_the_last_checkpoint(ray_local, experiment, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    result = interrupted_training(experiment, tmp_path, monkeypatch, at_iterations=[3, 3])
    folder = run_folder(result)
    assert result.exit_code == 130
    assert last(folder).name == "iteration_000002"
    assert f"Last good checkpoint: {folder.last_checkpoint()}" in result.stderr
    assert call("train", "--resume", folder.path).exit_code == 0
    np.testing.assert_array_equal(read_metrics(folder.metrics)["iteration"], [1, 2, 3, 4])
    assert signal.getsignal(signal.SIGINT) is before, "the signal's handler is back"


def interrupted_training(
    experiment: Path, out: Path, monkeypatch: pytest.MonkeyPatch, at_iterations: list[int]
) -> Result:
    def flat_metrics_and_signals(result, *arguments):
        for _ in range(at_iterations.count(result["training_iteration"])):
            signal.raise_signal(signal.SIGINT)
        return flat_metrics(result, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "flat_metrics", flat_metrics_and_signals)
        return call("train", experiment, "--out", out)


def test_non_finite_rewards_stop_the_run_and_leave_a_good_checkpoint(ray_local, experiment, tmp_path):
    world = [
        "environment=tests.algorithm.worlds:BadReward",
        "env_config={bad_value: nan, bad_step: 30}",
        "population=ppo",
    ]
    result = call("train", experiment, "--out", tmp_path, *overrides(*world, "checkpoint.every_iterations=1"))
    folder = run_folder(result)
    assert result.exit_code == 1
    assert "gave agent 1 a reward of nan" in result.stderr
    assert f"Last good checkpoint: {folder.last_checkpoint()}" in result.stderr
    iteration = int(last(folder).name[-6:])
    assert iteration == len(read_metrics(folder.metrics)["iteration"]) >= 1
    assert call("evaluate", folder.last_checkpoint(), "--episodes", 2).exit_code == 0


def test_a_disk_that_runs_full_stops_the_run_and_leaves_a_good_checkpoint(ray_local, experiment, tmp_path, monkeypatch):
    save = RunFolder.save_checkpoint

    def save_once(folder, algorithm, iteration, keep):
        if iteration > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(folder, algorithm, iteration, keep)

    monkeypatch.setattr(RunFolder, "save_checkpoint", save_once)
    result = call("train", experiment, "--out", tmp_path)
    folder = run_folder(result)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert f"Last good checkpoint: {folder.checkpoints / 'iteration_000002'}" in result.stderr


def test_a_killed_run_resumes_from_its_last_checkpoint(ray_local, experiment, tmp_path):
    arguments = ["train", str(experiment), "--out", str(tmp_path), *overrides("stop.iterations=100000")]
    command = [sys.executable, "-c", "from rllib_empathy.cli import app; app()", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=shipped("tune_configs").parent)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("small/*/checkpoints/iteration_*")):
            assert process.poll() is None, "training ended by itself"
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    (folder,) = map(RunFolder, tmp_path.glob("small/*"))
    iteration = int(last(folder).name.removeprefix("iteration_"))
    result = call("train", "--resume", folder.path, "--set", f"stop.iterations={iteration + 2}")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_metrics(folder.metrics)["iteration"], np.arange(1, iteration + 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give an experiment"),
        (["cleanup", "--resume", "runs"], "Give an experiment"),
        (["nothing"], "Unknown experiment 'nothing'"),
        (["missing.yaml"], "'missing.yaml' does not exist"),
        (["cleanup", "--set", "environment=clean_up"], "Unknown world 'clean_up'. Did you mean 'cleanup'"),
        (["cleanup", "--set", "population=poo"], "Unknown kind of agent 'poo'. Did you mean 'ppo'"),
        (["cleanup", "--set", "population=[ppo, a2c]"], "fills 2 seats, the world has 4"),
        (["cleanup", "--set", "training.lr=-1"], "'lr"),
        (["--resume", "elsewhere"], "elsewhere is no run folder: it is no folder"),
    ],
)
def test_wrong_input_is_explained_before_ray_starts_or_a_folder_is_made(monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands.training, "ray_running", None)
    result = call("train", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_cannot_be_made_is_refused_before_ray_starts(monkeypatch, tmp_path):
    (tmp_path / "runs").write_text("a file in the way")
    monkeypatch.setattr(commands.training, "ray_running", None)
    result = call("train", "quickstart", "--out", tmp_path / "runs")
    assert result.exit_code == 2
    assert "cannot be made" in result.stderr
    assert "--out" in result.stderr


@pytest.mark.parametrize("learners", [0, 1])
def test_a_run_that_finds_no_place_is_refused_instead_of_waited_for(ray_local, experiment, tmp_path, learners):
    wanted = overrides(f"learners={{num_learners: {learners}, num_gpus_per_learner: 99}}")
    result = call("train", experiment, "--out", tmp_path, *wanted)
    assert result.exit_code == 2
    assert "1 processes of 99 GPU each, of which 0 find a place" in result.stderr
    assert "learners.num_gpus_per_learner" in result.stderr


OWN_MODULE = """
from mpe2 import simple_spread_v3

def make(level):
    open(level).close()
    return simple_spread_v3.parallel_env(max_cycles=5)
"""

OWN_STUDY = """
name: mine
environment: module_of_a_user:make
env_config: {level: level.txt}
population: ppo
env_runners: {num_env_runners: 1, num_envs_per_env_runner: 2, rollout_fragment_length: 10}
stop: {iterations: 1}
study: {seeds: [0]}
"""


def test_modules_and_files_of_the_working_directory_are_found_in_all_processes(tmp_path):
    """By the console script, the trials of a study, and the runners of a trial, none of which is told where they are."""
    (tmp_path / "module_of_a_user.py").write_text(OWN_MODULE)
    (tmp_path / "mine.yaml").write_text(OWN_STUDY)
    (tmp_path / "level.txt").touch()
    script = str(Path(sys.executable).with_name("rllib-empathy"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for words in (["submit", "mine.yaml", "--dry-run"], ["tune", "mine.yaml"]):
        done = subprocess.run(
            [script, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_end_and_checkpoints_of_a_run_can_be_set_anew(trained):
    result = call("train", "--resume", trained[1].path, "--set", "training.lr=0.1")
    assert result.exit_code == 2
    assert "only stop and checkpoint can be set anew" in result.stderr


def test_a_run_without_a_checkpoint_cannot_be_resumed(trained, tmp_path):
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    result = call("train", "--resume", tmp_path)
    assert result.exit_code == 2
    assert "holds no checkpoint" in result.stderr


# -- evaluate


def test_evaluation_prints_returns_per_agent_with_intervals(trained):
    _, folder = trained
    result = call("evaluate", folder.path, "--episodes", 5)
    assert result.exit_code == 0
    for words in ("5 episodes", "0 ppo", "2 a2c", "3 random", "group", "drifts removed", "±"):
        assert words in result.stdout
    same = call("evaluate", folder.last_checkpoint(), "--episodes", 5)
    assert same.stdout == result.stdout, "a run folder stands for its last checkpoint, and the seed decides"
    assert call("evaluate", folder.path, "--episodes", 5, "--seed", 1).stdout != result.stdout


def test_evaluation_as_json_adds_up(trained):
    answer = json.loads(call("evaluate", trained[1].path, "--episodes", 70, "--json").stdout)
    assert answer["episodes"] == 70
    assert [agent["kind"] for agent in answer["agents"]] == ["ppo", "ppo", "a2c", "random"]
    total = sum(agent["return"]["mean"] for agent in answer["agents"])
    assert total == pytest.approx(answer["group_return"]["mean"])
    drifts = answer["events"]["drifts_removed"]["mean"]
    assert drifts == pytest.approx(sum(agent["events"]["drifts_removed"]["mean"] for agent in answer["agents"]))
    assert answer["group_return"]["mean"] == pytest.approx(drifts * (4 * 6 - 4))
    assert answer["episode_length"]["mean"] <= 12


def test_greedy_policies_are_the_same_whatever_the_seed_of_their_actions(ray_local, tmp_path, experiment):
    world = overrides("environment=iterated_prisoners_dilemma", "env_config={episode_length: 12}", "population=ppo")
    folder = run_folder(call("train", experiment, "--out", tmp_path, *world))

    def returns(*options: object) -> dict:
        return json.loads(call("evaluate", folder.path, "--episodes", 4, "--json", *options).stdout)["group_return"]

    assert returns("--greedy", "--seed", 1) == returns("--greedy", "--seed", 2)
    assert returns("--greedy")["half_width"] == 0
    assert returns("--seed", 1) != returns("--seed", 2)


def test_checkpoints_that_cannot_be_used_are_explained(trained, tmp_path):
    good = last(trained[1])

    def refused(path: Path) -> str:
        result = call("evaluate", path)
        assert result.exit_code == 2
        assert str(path) in result.stderr
        return result.stderr

    def copy(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    assert "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    assert "is no RLlib checkpoint" in refused(tmp_path / "folder")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.yaml").write_text(EXPERIMENT)
    assert "has no checkpoint yet" in refused(tmp_path / "run")
    for damage in ("class_and_ctor_args.pkl", "learner_group/learner/rl_module/ppo_0/module_state.pkl"):
        damaged = copy(damage.replace("/", "_"))
        (damaged / damage).write_bytes((good / damage).read_bytes()[:20])
        assert "cannot be read: it is damaged" in refused(damaged)
    incomplete = copy("incomplete")
    shutil.rmtree(incomplete / "learner_group")
    assert "cannot be read: it is damaged, incomplete" in refused(incomplete)
    foreign = copy("foreign")
    (foreign / "class_and_ctor_args.pkl").write_bytes(pickle.dumps({"class": PPO, "ctor_args_and_kwargs": (({},), {})}))
    assert "is a checkpoint of PPO" in refused(foreign)


# -- envs, agents, bench


@pytest.mark.parametrize("name", WORLDS)
def test_worlds_are_listed_and_described(name):
    assert name in call("envs").stdout
    described = call("envs", name)
    assert described.exit_code == 0
    for words in ("episode_length", "actions: 0 ", "events: ", "observation of an agent"):
        assert words in described.stdout


@pytest.mark.parametrize("name", KINDS)
def test_kinds_are_listed_and_described(name):
    assert name in call("agents").stdout
    described = call("agents", name)
    assert described.exit_code == 0
    for option in KINDS[name].Options.model_fields:
        assert option in described.stdout


def test_unknown_names_are_explained():
    assert "Did you mean 'cleanup'" in call("envs", "clean_up").stderr
    assert "Did you mean 'ppo'" in call("agents", "poo").stderr


def test_listing_worlds_does_not_load_ray():
    code = "import sys\nfrom rllib_empathy.cli import app\napp(['envs', 'cleanup'], standalone_mode=False)\n"
    code += "print('loaded:', sorted({'ray', 'torch', 'matplotlib'} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=shipped("tune_configs").parent
    )
    assert "loaded: []" in answer.stdout


def test_an_unknown_benchmark_is_named():
    result = call("bench", "--only", "world")
    assert result.exit_code == 2
    assert "Unknown benchmark 'world'. Did you mean 'worlds'?" in result.stderr


def test_benchmarks_need_a_checkout(monkeypatch):
    def nothing(folder: str) -> Path:
        raise FileNotFoundError(folder)

    monkeypatch.setattr(commands.benchmarking, "shipped", nothing)
    result = call("bench")
    assert result.exit_code == 2
    assert "come with a checkout" in result.stderr
