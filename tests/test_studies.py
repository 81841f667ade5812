"""Studies: many trials of one experiment."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import rllib_empathy.cli.tuning
from env_registry import SettingError
from rllib_empathy.cli import app
from rllib_empathy.experiments.experiment import Experiment, load_experiment, merged
from rllib_empathy.experiments.metrics_table import read_metrics
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.experiments.study import Sampler
from rllib_empathy.shipped import shipped
from rllib_empathy.studies.results import study_results
from rllib_empathy.studies.search import extremes, samples, within
from rllib_empathy.studies.study_folder import Outcome, StudyFolder
from rllib_empathy.studies.trainable import StudyTrial
from rllib_empathy.studies.trials import trials_of

BASE: dict[str, Any] = {
    "name": "small",
    "environment": "iterated_prisoners_dilemma",
    "env_config": {"episode_length": 5},
    "population": "a2c",
    "training": {"network": {"hidden": [4]}},
    "env_runners": {"num_envs_per_env_runner": 2, "rollout_fragment_length": 5},
    "stop": {"iterations": 3},
    "checkpoint": {"every_iterations": 1},
}


def with_study(study: dict[str, Any], **changes: Any) -> Experiment:
    return Experiment.model_validate({**BASE, **changes, "study": study})


def written(path: Path, study: dict[str, Any], **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**BASE, **changes, "study": study}, sort_keys=False), encoding="utf-8")
    return path


def tune(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["tune", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def study_folder(out: Path) -> StudyFolder:
    (path,) = (out / "small").iterdir()
    return StudyFolder(path)


# -- what a study consists of


def test_trials_are_every_variant_with_every_sample_and_seed():
    study = {
        "seeds": [3, 4],
        "variants": {"plain": {}, "lase": {"population": "lase", "training": {"gamma": 0.5}}},
        "search": {"training.lr": {"loguniform": [1e-4, 1e-2]}, "training.entropy_coeff": {"grid": [0.0, 0.1, 0.2]}},
        "num_samples": 2,
    }
    trials = trials_of(with_study(study))
    assert len(trials) == 2 * 3 * 2 * 2
    assert len({trial.name for trial in trials}) == len(trials)
    assert trials[0].name == "plain/sample_000/seed_3"
    for trial in trials:
        asked = trial.experiment
        assert asked.study is None
        assert f"seed_{asked.seed}" in trial.name
        assert asked.population == ("lase" if trial.variant == "lase" else "a2c")
        assert asked.training["network"] == {"hidden": [4]}, "mappings are merged"
        assert ("gamma" in asked.training) == (trial.variant == "lase")
        assert {key: asked.training[key.partition(".")[2]] for key in trial.values} == trial.values
    by_sample = {(t.sample, t.variant, t.experiment.seed): t.values for t in trials}
    for (sample, _, _), values in by_sample.items():
        assert values == by_sample[sample, "plain", 3], "all variants and seeds get the same samples"
    assert [trial.values for trial in trials_of(with_study(study))] == [trial.values for trial in trials]


def test_without_variants_and_search_there_is_a_trial_for_each_seed():
    assert [trial.name for trial in trials_of(with_study({"seeds": [0, 5]}))] == ["small/seed_0", "small/seed_5"]


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_samples_lie_within_their_ranges_and_depend_on_the_seed_only(seed):
    search = {
        "a": Sampler(uniform=(-1.0, 1.0)),
        "b": Sampler(loguniform=(1e-5, 1e-1)),
        "c": Sampler(randint=(2, 5)),
        "d": Sampler(choice=["x", [1]]),
        "e": Sampler(grid=[1, 2]),
        "f": Sampler(lograndint=(1, 100)),
    }
    found = samples(search, 3, seed)
    assert found == samples(search, 3, seed)
    assert [values["e"] for values in found] == [1, 1, 1, 2, 2, 2]
    for values in found:
        assert list(values) == list(search)
        assert -1 <= values["a"] <= 1
        assert 1e-5 <= values["b"] <= 1e-1
        assert values["c"] in (2, 3, 4)
        assert values["d"] in ("x", [1])
        assert type(values["c"]) is type(values["f"]) is int
        assert within(search, values) == values


def test_values_beyond_their_range_are_moved_to_its_end():
    search = {"a": Sampler(uniform=(0.0, 1.0)), "b": Sampler(randint=(2, 5)), "c": Sampler(choice=[7])}
    assert within(search, {"a": 1.2, "b": 9, "c": 7}) == {"a": 1.0, "b": 4, "c": 7}


def test_extremes_show_every_end_and_every_listed_value():
    search = {"a": Sampler(loguniform=(0.1, 10.0)), "b": Sampler(randint=(1, 4)), "c": Sampler(grid=["x", "y"])}
    found = list(extremes(search))
    for key, values in {"a": {0.1, 10.0}, "b": {1, 3}, "c": {"x", "y"}}.items():
        assert {point[key] for point in found} == values
    assert list(extremes({})) == []


def test_overrides_reach_into_lists_merge_mappings_and_leave_the_original():
    values = {"population": [{"kind": "ppo"}], "training": {"lr": 1, "network": {"hidden": [3], "memory": "none"}}}
    before = json.dumps(values)
    result = merged(values, {"population.0.gamma": 0.5, "training": {"network": {"hidden": [4]}}, "seed": 3}, "here")
    assert result == {
        "population": [{"kind": "ppo", "gamma": 0.5}],
        "training": {"lr": 1, "network": {"hidden": [4], "memory": "none"}},
        "seed": 3,
    }
    assert json.dumps(values) == before
    with pytest.raises(SettingError, match="here: 'population' is a list; its entries are 0 to 0"):
        merged(values, {"population.1.gamma": 1}, "here")


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"sceds": [0]}, "Unknown key in study 'sceds'. Did you mean 'seeds'"),
        ({"seeds": [0, 0]}, "distinct"),
        ({"seeds": []}, "'study.seeds' = []"),
        ({"variants": {"a/b": {}}}, "'a/b' cannot name a folder"),
        ({"search": {"training.lr": {"loguniformm": [1, 2]}}}, "Did you mean 'loguniform'"),
        ({"search": {"training.lr": {"loguniform": [0.1, 0.01]}}}, "low < high"),
        ({"search": {"training.lr": {"loguniform": [0, 0.01]}}}, "low > 0"),
        ({"search": {"training.lr": {"uniform": [0, 1], "choice": [1]}}}, "exactly one of"),
        ({"search": {"training.lr": {}}}, "exactly one of"),
        ({"search": {"training.lr": {"choice": []}}}, "'study.search.training.lr.choice' = []"),
        ({"num_samples": 3}, "num_samples = 3 needs a sampler"),
        ({"num_samples": 3, "search": {"training.lr": {"grid": [1]}}}, "num_samples = 3 needs a sampler"),
        ({"mode": "most"}, "'max' or 'min'"),
        ({"scheduler": {}}, "either asha or pbt"),
        ({"scheduler": {"asha": {}, "pbt": {}}}, "either asha or pbt"),
        ({"scheduler": {"asha": {"grace": 3}}}, "Unknown key in study.scheduler.asha 'grace'"),
        ({"scheduler": {"pbt": {}}}, "there is none"),
        (
            {"scheduler": {"pbt": {}}, "search": {"training.lr": {"uniform": [0, 1]}}, "max_concurrent_trials": 1},
            "leave max_concurrent_trials out",
        ),
        ({"scheduler": {"asha": {}}, "variants": {"a": {}, "b": {}}}, "either scheduler or variants"),
        ({"resources": {"cpus": 0}}, "'study.resources.cpus' = 0"),
    ],
)
def test_an_impossible_study_is_refused_when_it_is_read(tmp_path, study, message):
    with pytest.raises(SettingError) as caught:
        load_experiment(written(tmp_path / "small.yaml", study))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (None, "asks for one run only"),
        ({"metric": "group_retrun"}, "Unknown metric in study.metric 'group_retrun'. Did you mean 'group_return'"),
        ({"metric": "evaluation/group_return"}, "Unknown metric in study.metric"),
        ({"variants": {"x": {"population": "laes"}}}, "In variant 'x': Unknown kind of agent 'laes'"),
        ({"variants": {"x": {"trainig": {"lr": 1}}}}, "Unknown key 'trainig'. Did you mean 'training'"),
        ({"variants": {"x": {"population.0.lr": 1}}}, "'population' is 'a2c', which has no key '0'"),
        ({"search": {"training.gamma": {"uniform": [0.9, 1.1]}}}, "training.gamma = 1.1: "),
        ({"search": {"training.gama": {"uniform": [0.9, 1.0]}}}, "Unknown training option 'gama'"),
        ({"search": {"training.lr": {"grid": [0.1, -1]}}}, "training.lr = -1"),
        ({"scheduler": {"asha": {"grace_iterations": 3}}}, "grace_iterations = 3 is not below the 3 iterations"),
        (
            {"scheduler": {"pbt": {}}, "search": {"training.network.hidden": {"choice": [[4], [8]]}}},
            "pbt copies networks between trials, so it cannot search over 'training.network.hidden'",
        ),
    ],
)
def test_an_impossible_trial_is_refused_before_ray_starts_or_a_folder_is_made(tmp_path, monkeypatch, study, message):
    monkeypatch.setattr(rllib_empathy.cli.tuning, "ray_running", None)
    monkeypatch.chdir(tmp_path)
    result = tune(written(tmp_path / "small.yaml", study))
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_wrong_calls_are_explained(tmp_path):
    assert "Give an experiment" in tune().stderr
    assert "goes on as it was" in tune("--resume", tmp_path, "--set", "seed=3").stderr
    assert "is no study: it holds no experiment.yaml" in tune("--resume", tmp_path).stderr
    (tmp_path / "runs").write_text("in the way")
    result = tune(written(tmp_path / "small.yaml", {"seeds": [0]}), "--out", tmp_path / "runs")
    assert result.exit_code == 2
    assert "cannot be made" in result.stderr


def test_an_outcome_that_was_cut_short_spoils_no_other(tmp_path):
    folder = StudyFolder(tmp_path)
    assert folder.outcomes() == {}
    first, second = Outcome("a", "finished", {}), Outcome("b", "failed", {"lr": 0.1}, "why")
    folder.add_outcome(first)
    with (tmp_path / "outcomes.jsonl").open("a") as file:
        file.write('\n{"trial": "c", "en')
    folder.add_outcome(second)
    assert folder.outcomes() == {"a": first, "b": second}
    folder.add_outcome(Outcome("b", "finished", {}))
    assert folder.outcomes()["b"].ended == "finished"


def test_trials_are_compared_by_any_column_that_is_logged(tmp_path):
    experiment = with_study({"seeds": [0, 1], "metric": "agent_return/0"})
    trials = trials_of(experiment)
    folder = StudyFolder.create(tmp_path, experiment, trials)
    for trial, number in zip(trials, (3, 5), strict=True):
        text = f"episodes,env_steps,seconds,agent_return/0\n2,10,1.0,{number}\n"
        folder.trial(trial.name).metrics.write_text(text)
        folder.add_outcome(Outcome(trial.name, "finished", {}))
    assert experiment.study is not None
    results = study_results(experiment.study, trials, folder)
    assert [trial.score for trial in results.arms[0].trials] == [3, 5]
    assert results.best is not None
    assert results.best.name == "small/seed_1"


@pytest.mark.parametrize("cut_off_after", ["nothing", "a part of a copy", "one trial"])
def test_trials_are_taken_over_whole_whenever_that_was_cut_off(tmp_path, cut_off_after):
    experiment = with_study({"seeds": [0, 1]})
    trials = trials_of(experiment)
    earlier, now = (StudyFolder.create(tmp_path / name, experiment, trials) for name in ("earlier", "now"))
    for trial in trials:
        (earlier.trial(trial.name).checkpoints / "iteration_000003").mkdir()
        earlier.trial(trial.name).metrics.write_text("iteration\n3\n")
        earlier.add_outcome(Outcome(trial.name, "finished", {}))
    if cut_off_after == "a part of a copy":
        (now.path / "small" / ".seed_0" / "checkpoints" / "iteration_000001").mkdir(parents=True)
    if cut_off_after == "one trial":
        now.take_over(trials[:1], earlier)
    now.take_over(trials, earlier)
    assert now.outcomes() == earlier.outcomes()
    for trial in trials:
        assert [path.name for path in now.trial(trial.name).checkpoints.iterdir()] == ["iteration_000003"]
        assert now.trial(trial.name).metrics.read_text() == "iteration\n3\n"
    assert not list(now.path.glob("*/.*"))


# -- studies that run


@pytest.mark.parametrize("resources", [{"gpus": 1}, {"cpus": 99}])
def test_trials_that_find_no_place_are_refused_instead_of_waited_for(ray_local, tmp_path, resources):
    result = tune(written(tmp_path / "small.yaml", {"resources": resources}), "--out", tmp_path)
    assert result.exit_code == 2
    assert "of which 0 find a place" in result.stderr
    assert "study.resources" in result.stderr


def test_a_disk_that_runs_full_ends_a_study_with_how_to_go_on(ray_local, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        full = OSError(errno.ENOSPC, "No space left on device")
        patched.setattr(StudyFolder, "add_outcome", MagicMock(side_effect=full))
        result = tune(written(tmp_path / "small.yaml", {"seeds": [0, 1]}), "--out", tmp_path)
    folder = study_folder(tmp_path)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert f"Go on with: rllib-empathy tune --resume {folder.path}" in result.stderr
    result = tune("--resume", folder.path)
    assert result.exit_code == 0, result.output
    assert {outcome.ended for outcome in folder.outcomes().values()} == {"finished"}
    for seed in (0, 1):
        metrics = read_metrics(folder.trial(f"small/seed_{seed}").metrics)
        np.testing.assert_array_equal(metrics["iteration"], [1, 2, 3])


@pytest.fixture(scope="module")
def finished(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, StudyFolder]:
    """Two variants of two seeds each; one trial fails."""
    tmp_path = tmp_path_factory.mktemp("study")
    world = {"environment": "tests.algorithm.worlds:BadReward", "env_config": {"bad_value": "nan", "bad_step": 8}}
    study = {
        "seeds": [0, 1],
        "variants": {"good": {}, "bad": {**world, "population": "a2c"}},
        "max_concurrent_trials": 1,
    }
    result = tune(written(tmp_path / "small.yaml", study), "--out", tmp_path)
    return result, study_folder(tmp_path)


def test_every_trial_has_its_run_folder_and_a_failing_one_takes_no_other_along(finished):
    result, folder = finished
    assert result.exit_code == 1, result.output
    outcomes = folder.outcomes()
    assert {name: outcome.ended for name, outcome in outcomes.items()} == {
        "good/seed_0": "finished",
        "good/seed_1": "finished",
        "bad/seed_0": "failed",
        "bad/seed_1": "failed",
    }
    assert "2 trials failed" in result.stderr
    assert "bad/seed_1: NonFiniteError" in result.stderr
    for seed in (0, 1):
        run = folder.trial(f"good/seed_{seed}")
        assert {path.name for path in run.path.iterdir()} == {
            "experiment.yaml",
            "resolved.yaml",
            "versions.json",
            "metrics.csv",
            "checkpoints",
        }
        np.testing.assert_array_equal(read_metrics(run.metrics)["iteration"], [1, 2, 3])
        last = run.last_checkpoint()
        assert last is not None
        assert last.name == "iteration_000003"
        assert load_experiment(run.experiment).seed == seed


def test_results_are_those_of_the_run_folders(finished):
    result, folder = finished
    results = json.loads(folder.results.read_text())
    good, bad = results["arms"]
    scores = [read_metrics(folder.trial(f"good/seed_{seed}").metrics)["group_return"][-1] for seed in (0, 1)]
    assert [trial["score"] for trial in good["trials"]] == pytest.approx(scores)
    assert good["score"]["value"] == pytest.approx(np.mean(scores))
    assert good["trials"][0]["env_steps"] == 30
    assert bad["score"]["value"] is None
    assert results["best"].startswith("good/seed_")
    assert folder.curves.stat().st_size > 1000
    for words in ("good", "2 failed", "95 % interval", str(folder.results), str(folder.curves)):
        assert words in result.stdout


def test_a_trial_can_be_trained_alone_and_gives_the_same(finished, tmp_path):
    _, folder = finished
    run = folder.trial("good/seed_1")
    result = CliRunner().invoke(app, ["train", str(run.experiment), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (again,) = map(RunFolder, (tmp_path / "small").iterdir())
    np.testing.assert_array_equal(
        read_metrics(again.metrics)["group_return"], read_metrics(run.metrics)["group_return"]
    )


@pytest.mark.parametrize(("name", "ended"), [("good/seed_0", True), ("bad/seed_0", False)])
def test_a_trial_that_has_ended_is_not_trained_again_where_tune_begins_it_anew(finished, name, ended):
    _, folder = finished
    before = folder.trial(name).metrics.read_bytes()
    trial = StudyTrial.__new__(StudyTrial)
    trial.setup({"trial": {"name": name, "values": {}}}, str(folder.path))
    assert trial.ended == ended
    if ended:
        row = trial.step()
        assert row["done"]
        assert row["training_iteration"] == 3
        assert trial.save_checkpoint("") == {"trial": name, "iteration": 3}
        assert folder.trial(name).metrics.read_bytes() == before
    trial.cleanup()


def test_asha_stops_the_trials_that_are_behind(ray_local, tmp_path):
    study = {
        # The group earns 90, 0, 80, 10, whatever agents do.
        "search": {"env_config.payoffs": {"grid": [[9, 9, 9, 9], [0, 0, 0, 0], [8, 8, 8, 8], [1, 1, 1, 1]]}},
        "scheduler": {"asha": {"grace_iterations": 2, "reduction_factor": 2}},
        "max_concurrent_trials": 1,
    }
    world = {"environment": "matrix_game", "env_config": {"episode_length": 5, "payoffs": [4, 0, 3, 1]}}
    result = tune(
        written(tmp_path / "small.yaml", study, **world, stop={"iterations": 6}, population="random"), "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    folder = study_folder(tmp_path)
    ended = {outcome.values["env_config.payoffs"][0]: outcome.ended for outcome in folder.outcomes().values()}
    assert ended == {9: "finished", 0: "stopped early", 8: "stopped early", 1: "stopped early"}
    iterations = {
        arm["trials"][0]["values"]["env_config.payoffs"][0]: arm["trials"][0]["env_steps"] // 10
        for arm in json.loads(folder.results.read_text())["arms"]
    }
    assert iterations[9] == 6
    assert iterations[0] == iterations[1] == 2
    assert "stopped early, 0.00 after 20 env steps" in result.stdout
    assert json.loads(folder.results.read_text())["best"] == "small/sample_000/seed_0"


def test_pbt_gives_a_bad_trial_the_weights_of_a_good_one_and_other_values(ray_local, tmp_path):
    study = {
        "seeds": [0, 1],
        "search": {"training.lr": {"loguniform": [0.001, 0.1]}},
        "scheduler": {"pbt": {"interval_iterations": 2, "quantile_fraction": 0.5, "resample_probability": 0}},
    }
    result = tune(written(tmp_path / "small.yaml", study, stop={"iterations": 4}), "--out", tmp_path)
    assert result.exit_code == 0, result.output
    folder = study_folder(tmp_path)
    runs = [folder.trial(f"small/sample_000/seed_{seed}") for seed in (0, 1)]
    exploited = [run for run in runs if (run.path / "exploits.json").exists()]
    assert exploited
    for run in exploited:
        (*_, exploit) = json.loads((run.path / "exploits.json").read_text())
        assert exploit["trial"] in ("small/sample_000/seed_0", "small/sample_000/seed_1")
        assert folder.trial(exploit["trial"]).path != run.path
        rate = exploit["values"]["training.lr"]
        assert 0.001 <= rate <= 0.1
        assert load_experiment(run.experiment).training["lr"] == pytest.approx(rate)
        metrics = read_metrics(run.metrics)
        after = metrics["iteration"] > exploit["iteration"]
        np.testing.assert_allclose(metrics["learner/a2c_0/default_optimizer_learning_rate"][after][-1], rate, rtol=1e-4)
        assert metrics["iteration"][-1] == 4


def test_a_killed_study_resumes_without_losing_or_repeating_a_trial(ray_local, tmp_path):
    study = {"seeds": [0, 1, 2], "max_concurrent_trials": 1}
    path = written(tmp_path / "small.yaml", study, stop={"iterations": 40}, checkpoint={"every_iterations": 5})
    command = [sys.executable, "-m", "rllib_empathy.cli", "tune", str(path), "--out", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, cwd=shipped("tune_configs").parent, start_new_session=True
    )
    second = "small/*/small/seed_1/checkpoints/iteration_*"
    try:
        deadline = time.monotonic() + 200
        while not (list(tmp_path.glob("small/*/outcomes.jsonl")) and list(tmp_path.glob(second))):
            assert process.poll() is None, "the study ended by itself"
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    folder = study_folder(tmp_path)
    done = folder.trial("small/seed_0").metrics
    before = done.read_bytes()
    result = tune("--resume", folder.path)
    assert result.exit_code == 0, result.output
    assert {name: o.ended for name, o in folder.outcomes().items()} == {f"small/seed_{n}": "finished" for n in range(3)}
    assert done.read_bytes() == before, "a finished trial is left alone"
    assert "[1/3] small/seed_0" not in result.stdout
    assert "[3/3] small/seed_" in result.stdout
    for seed in range(3):
        metrics = read_metrics(folder.trial(f"small/seed_{seed}").metrics)
        np.testing.assert_array_equal(metrics["iteration"], np.arange(1, 41))
    starts = json.loads(folder.versions.read_text())
    assert len(starts) == 2
