"""Experiment files, metrics tables, run folders, curves: everything about a run but the run itself."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import env_registry
from env_registry import Game, SettingError
from rllib_empathy.experiments.building import build_config, resolved
from rllib_empathy.experiments.curves import draw_curves, smoothed
from rllib_empathy.experiments.describe import settings
from rllib_empathy.experiments.errors import RunFolderError
from rllib_empathy.experiments.evaluation import mean_and_interval
from rllib_empathy.experiments.experiment import Experiment, Stop, load_experiment, overridden
from rllib_empathy.experiments.metrics_table import MetricsTable, episode_columns, flat_metrics, read_metrics
from rllib_empathy.experiments.run_folder import RunFolder, git_commit, iteration_of
from rllib_empathy.experiments.statistics import first_and_last
from rllib_empathy.policies import KINDS
from rllib_empathy.population import Population
from rllib_empathy.shipped import shipped
from rllib_empathy.studies.trials import trials_of

FILES = sorted(shipped("tune_configs").glob("*.yaml"))
MINIMAL = {"name": "small", "environment": "snowdrift", "stop": {"iterations": 2}}


def written(folder: Path, values: object) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return path


# -- the files that come with the package


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_experiment_is_sound_and_commented(path):
    experiment = load_experiment(path)
    build_config(experiment)
    assert experiment.study is None or trials_of(experiment)
    assert experiment.name == path.stem
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert load_experiment(path.stem) == experiment


def test_every_world_and_preset_has_an_experiment():
    played = {(e.environment, e.env_config.get("preset")) for e in map(load_experiment, FILES)}
    worlds: dict[str, Any] = dict(env_registry.WORLDS)
    ours = {name: world for name, world in worlds.items() if world.__module__.startswith("env_registry.")}
    assert {(name, preset) for name, world in ours.items() for preset in world.Parameters.presets or [None]} <= played


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_resolved_experiment_leaves_nothing_to_defaults_and_means_the_same(tmp_path, path):
    experiment = load_experiment(path)
    config = build_config(experiment)
    full = resolved(experiment, config)
    again = load_experiment(written(tmp_path, full.to_yaml()))
    assert again == Experiment.model_validate(full.model_dump(mode="json"))
    config_again = build_config(again)
    assert config_again.resolved_population() == config.resolved_population()
    world, world_again = (cast("Game", c.make_world(1)) for c in (config, config_again))
    assert world_again.parameters == world.parameters
    assert set(again.env_config) == set(world.parameters.model_dump())
    for entry in again.population:
        assert isinstance(entry, dict)
        assert set(KINDS[entry["kind"]].Options.model_fields) <= set(entry)


def test_experiment_survives_being_written(tmp_path):
    experiment = load_experiment("cleanup", ["population=[{kind: a2c, count: 4, network: {memory: gru}}]", "seed=null"])
    assert load_experiment(written(tmp_path, experiment.to_yaml())) == experiment


# -- reading and overriding


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.lr=0.01", ("training", "lr"), 0.01),
        ("training.lr=1e-3", ("training", "lr"), 0.001),
        ("training.network.hidden=[8, 4]", ("training", "network", "hidden"), [8, 4]),
        ("population.1.lr=2E-2", ("population", 1, "lr"), 0.02),
        ("population.0=random", ("population", 0), "random"),
        ("stop={seconds: 3}", ("stop",), {"seconds": 3}),
        ("environment=a=b", ("environment",), "a=b"),
        ("seed=", ("seed",), None),
        ("stop.env_steps=10_000", ("stop", "env_steps"), 10_000),
    ],
)
def test_overrides_are_yaml_and_reach_into_lists(override, key, value):
    before = {**MINIMAL, "population": [{"kind": "ppo", "count": 2}, {"kind": "a2c", "count": 2}], "training": None}
    copy = json.dumps(before)
    place = overridden(before, override)
    for part in key:
        place = place[part]
    assert place == value
    assert type(place) is type(value)
    assert json.dumps(before) == copy, "the original is left as it was"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lr", "write key=value"),
        ("=3", "write key=value"),
        ("training..lr=3", "write key=value"),
        ("population.2.lr=3", "'population' is a list; its entries are 0 to 1"),
        ("population.first.lr=3", "'population' is a list"),
        ("population.1.lr=3", "'population.1' is 'random', which has no key 'lr'"),
        ("name.first=3", "'name' is 'small', which has no key 'first'"),
        ("training.lr=[1", "the value is no YAML"),
    ],
)
def test_wrong_overrides_are_explained(override, message):
    with pytest.raises(SettingError, match=message):
        overridden({**MINIMAL, "population": [{"kind": "ppo"}, "random"]}, override)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"enviroment": "cleanup"}, "Unknown key 'enviroment'. Did you mean 'environment'"),
        ({"stop": {"env_stps": 3}}, "Unknown key in stop 'env_stps'. Did you mean 'env_steps'"),
        ({"stop": {}}, "'stop' = {}: training would never end"),
        ({"stop": {"env_steps": 0}}, "'stop.env_steps' = 0"),
        ({"name": "a/b"}, "'name' = 'a/b'"),
        ({"seed": -1}, "'seed' = -1"),
        ({"population": 3}, "'population' = 3: needs a kind of agent for all seats, or a list"),
        ({"population": ["ppo", 3]}, "needs a kind of agent for all seats, or a list"),
        ({"env_runners": {"batch_mode": "episodes"}}, "'truncate_episodes' or 'complete_episodes'"),
        ({"env_runners": {"num_envs_per_env_runner": "many"}}, "'env_runners.num_envs_per_env_runner' = 'many'"),
        ({"checkpoint": {"keep": 0}}, "'checkpoint.keep' = 0"),
    ],
)
def test_wrong_values_name_key_value_and_what_is_allowed(tmp_path, change, message):
    with pytest.raises(SettingError) as caught:
        load_experiment(written(tmp_path, {**MINIMAL, **change}))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nstop: {iterations: 1\n", "line 3"),
        ("name: a\n\tstop: 3\n", "line 2, column 1"),
        ("name: a\nname: b\n", "line 2, column 1: key 'name' appears twice"),
        ("- name\n", "has to consist of keys and values"),
        ("", "has to consist of keys and values"),
        ("name: small\nstop: {iterations: 1}\n", "'environment' is missing"),
    ],
)
def test_unreadable_files_are_explained(tmp_path, text, message):
    with pytest.raises(SettingError, match=message):
        load_experiment(written(tmp_path, text))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(SettingError, match=r"other\.yaml' does not exist"):
        load_experiment(tmp_path / "other.yaml")
    with pytest.raises(SettingError, match="is a folder"):
        load_experiment(tmp_path)
    with pytest.raises(SettingError, match=r"Unknown experiment 'cleanupp'\. Did you mean 'cleanup'"):
        load_experiment("cleanupp")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match="cannot be read"):
        load_experiment(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": "clean_up"}, "Unknown world 'clean_up'. Did you mean 'cleanup'"),
        ({"env_config": {"drift": 3}}, "Unknown key 'drift'. Did you mean 'drifts'"),
        ({"env_config": {"drifts": 65}}, "drifts = 65 is more than the map's 64 cells"),
        ({"population": "poo"}, "Unknown kind of agent 'poo'. Did you mean 'ppo'"),
        ({"population": ["ppo", "ppo"]}, "fills 2 seats, the world has 4"),
        ({"training": {"network": {"hiden": [3]}}}, "Unknown key in network 'hiden'. Did you mean 'hidden'"),
        ({"training": {"clip": 3}}, "Unknown training option 'clip'"),
        ({"training": {"network": {"padding": "none", "conv_filters": [4, 4, 4]}}}, "larger than 6 cells"),
        ({"learners": {"num_learners": 3}}, "not a multiple of num_learners = 3"),
        ({"stop": {"metrics": {"group_retrun": 3}}}, "Did you mean 'group_return'"),
        ({"stop": {"metrics": {"evaluation/group_return": 3}}}, "Unknown metric in stop.metrics"),
    ],
)
def test_impossible_experiments_are_refused_before_anything_starts(change, message):
    experiment = Experiment.model_validate({**MINIMAL, **change})
    with pytest.raises(SettingError) as caught:
        build_config(experiment)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("stop", "row", "share"),
    [
        ({"env_steps": 100}, {"env_steps": 25}, 0.25),
        ({"env_steps": 100}, {"env_steps": 125}, 1.0),
        ({"env_steps": 100, "iterations": 10, "seconds": 8}, {"env_steps": 25, "iteration": 1, "seconds": 6}, 0.75),
        ({"metrics": {"group_return": 5}}, {"group_return": 4.9}, 0.0),
        ({"metrics": {"group_return": 5}}, {"group_return": 5.0}, 1.0),
        ({"metrics": {"group_return": 5}, "iterations": 4}, {"group_return": float("nan"), "iteration": 1}, 0.25),
        ({"iterations": 4}, {}, 0.0),
    ],
)
def test_training_ends_with_the_first_criterion_that_is_reached(stop, row, share):
    assert Stop.model_validate(stop).progress(row) == share


# -- metrics


def test_metrics_table_grows_keeps_what_is_there_and_can_be_cut(tmp_path):
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    table.append({"iteration": 1, "loss": float("nan")})
    table.append({"iteration": 2, "loss": 0.125, "later": 7.5})
    MetricsTable(path).append({"iteration": 3, "later": 1e-9})
    columns = read_metrics(path)
    assert list(columns) == ["iteration", "loss", "later"]
    np.testing.assert_array_equal(columns["iteration"], [1, 2, 3])
    np.testing.assert_array_equal(columns["loss"], [np.nan, 0.125, np.nan])
    np.testing.assert_array_equal(columns["later"], [np.nan, 7.5, 1e-9])
    with path.open("a", encoding="utf-8") as file:
        file.write("4,0.")  # the machine failed here
    assert len(read_metrics(path)["iteration"]) == 3
    table = MetricsTable(path)
    assert table.cut(last_iteration=2) == {"iteration": 2, "loss": 0.125, "later": 7.5}
    table.append({"iteration": 3, "loss": 1.0})
    np.testing.assert_array_equal(read_metrics(path)["loss"], [np.nan, 0.125, 1.0])


NUMBERS = st.one_of(
    st.integers(-(10**18), 10**18),
    st.floats(width=64),
    st.floats(width=32).map(np.float32),
    st.floats(width=64).map(np.float64),
    st.integers(-(2**31), 2**31 - 1).map(np.int64),
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), NUMBERS), min_size=1, max_size=4))
def test_what_a_metrics_table_holds_is_read_and_written_again_without_any_change(rows):
    """Counts of any size and floats of any size, over resumes and new columns: all are just the numbers that were logged."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.csv"
        for number, row in enumerate(rows):
            MetricsTable(path).append({"iteration": number, **row})
        table = MetricsTable(path)
        table.append({"iteration": len(rows), "late": 0.1})  # which writes all rows anew
        text = path.read_text(encoding="utf-8")
        last = table.cut(len(rows))
        assert path.read_text(encoding="utf-8") == text
        assert type(last["iteration"]) is int
        columns = read_metrics(path)
        for name in set().union(*rows):
            np.testing.assert_array_equal(columns[name][:-1], [float(row.get(name, np.nan)) for row in rows])
        kept = table.cut(0)
        for name, value in rows[0].items():
            assert kept[name] == value or (np.isnan(kept[name]) and np.isnan(value)), name


def test_counts_above_a_million_are_still_counts_after_a_resume(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")
    table.append({"iteration": 1_234_567, "env_steps": 1_000_944, "seconds": 1_234_567.125})
    assert table.path.read_text().splitlines()[1] == "1234567,1000944,1234567.125"
    assert MetricsTable(table.path).cut(2_000_000) == {
        "iteration": 1_234_567,
        "env_steps": 1_000_944,
        "seconds": 1_234_567.125,
    }
    assert table.path.read_text().splitlines()[1] == "1234567,1000944,1234567.125"


def test_a_row_that_a_crash_cut_within_its_last_number_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    for iteration, env_steps in ((1, 40), (2, 1000944)):
        MetricsTable(path).append({"iteration": iteration, "env_steps": env_steps})
    path.write_bytes(path.read_bytes().removesuffix(b"944\r\n"))
    np.testing.assert_array_equal(read_metrics(path)["env_steps"], [40])
    assert MetricsTable(path).cut(2) == {"iteration": 1, "env_steps": 40}


def test_every_row_is_on_disk_at_once(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")
    for iteration in range(3):
        table.append({"iteration": iteration})
        assert len(read_metrics(table.path)["iteration"]) == iteration + 1


def test_rows_are_flat_and_tell_who_earned_what():
    population = Population.of([{"kind": "ppo", "count": 2}, {"kind": "a2c", "name": "slow"}, "random"], 4)
    sampled = {
        "num_env_steps_sampled_lifetime": 200.0,
        "num_env_steps_sampled": 100,
        "num_episodes": 3,
        "episode_len_mean": 10.0,
        "episode_return_mean": 10.0,
        "agent_episode_returns_mean": {"agent_0": 1.0, "agent_1": 2.0, "agent_2": 3.0, "agent_3": 4.0},
        "events_mean": {"apples": 6.0},
        "agent_events_mean": {"apples": {f"agent_{agent}": float(agent) for agent in range(4)}},
        "outcomes_mean": {"equality": 0.75, "cooperation/sharing": 0.5},
    }
    gifts = {"agent_returns_after_gifts_mean": {"agent_0": 1.5, "agent_3": 3.5}, "equality_after_gifts_mean": 0.9}
    result = {
        "training_iteration": 2,
        "time_this_iter_s": 0.5,
        "timers": {"env_runner_sampling_timer": 0.1, "learner_update_timer": 0.2},
        "fault_tolerance": {"num_healthy_workers": 2, "num_remote_worker_restarts": 1},
        "env_runners": sampled,
        "learners": {"ppo_0": {"entropy": 1.5, "num_module_steps_trained": 9}, "__all_modules__": {"num": 3, **gifts}},
        "evaluation": {"env_runners": {**sampled, "episode_return_mean": 12.0}},
    }
    row = flat_metrics(result, population, ["apples"], seconds=7.0)
    assert (row["iteration"], row["env_steps"], row["seconds"], row["steps_per_second"]) == (2, 200, 7.0, 200.0)
    assert (row["resumes"], row["remote_runners"], row["runner_restarts"]) == (0, 2, 1)
    assert (row["kind_return/ppo"], row["kind_return/slow"], row["kind_return/random"]) == (1.5, 3.0, 4.0)
    assert (row["group_return"], row["agent_return/3"], row["agent_events/apples/2"]) == (10.0, 4.0, 2.0)
    assert row["evaluation/group_return"] == 12.0
    assert (row["equality"], row["cooperation/sharing"], row["evaluation/equality"]) == (0.75, 0.5, 0.75)
    assert (row["agent_return_after_gifts/3"], row["equality_after_gifts"]) == (3.5, 0.9)
    assert {name for name in row if name.startswith("learner/")} == {"learner/ppo_0/entropy"}
    assert set(episode_columns(population, ["apples"])) <= set(row)
    nothing_ended = {key: sampled[key] for key in list(sampled)[:3]}
    early = flat_metrics({**result, "env_runners": nothing_ended, "evaluation": {}}, population, ["apples"], 1.0)
    assert all(np.isnan(early[name]) for name in episode_columns(population, ["apples"]))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(-100, 100)), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_smoothing_is_a_mean_over_the_episodes_of_a_window(rows, share):
    episodes = np.array([count for count, _ in rows], float)
    values = np.array([value if count else np.nan for count, value in rows])
    half = round(share * len(rows) / 2)
    for i, y in enumerate(smoothed(values, episodes, share)):
        window = [(episodes[j], values[j]) for j in range(len(rows)) if abs(i - j) <= half and episodes[j]]
        expected = sum(n * x for n, x in window) / sum(n for n, _ in window) if window else np.nan
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)


def test_first_and_last_tenth_weigh_episodes_alike():
    values = np.array([np.nan, 1.0, 3.0, *[9.0] * 16, 7.0, 5.0, 2.0])
    episodes = np.array([0.0, 1.0, 3.0, *[1.0] * 16, 0.0, 2.0, 1.0])
    assert first_and_last(values, episodes) == (2.5, 4.0)
    assert first_and_last(values[:3], episodes[:3]) == (1.0, 3.0)
    assert np.isnan(first_and_last(values[:1], episodes[:1])).all()


def test_intervals_are_those_of_a_mean():
    numbers = mean_and_interval(np.array([1.0, 2.0, 3.0, 6.0]))
    deviation = np.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + 0 + (6 - 3) ** 2) / 3)
    assert numbers["mean"] == 3.0
    assert numbers["half_width"] == pytest.approx(1.96 * deviation / 2)
    assert mean_and_interval(np.array([4.0])) == {"mean": 4.0, "half_width": None}


@pytest.mark.parametrize("events", [[], ["apples"], ["apples", "waste", "coins"]], ids=len)
@pytest.mark.parametrize("iterations", [1, 30])
def test_curves_are_drawn_for_any_number_of_events_and_rows(tmp_path, events, iterations):
    population = Population.of([{"kind": "ppo", "count": 2}, "a2c"], 3)
    names = ["env_steps", "episodes", *episode_columns(population, events)]
    metrics = {name: np.linspace(1, 5, iterations) for name in names}
    metrics["agent_return/0"][0] = np.nan
    draw_curves(metrics, population, "title", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_gifts_and_influences_are_drawn_where_there_are_any(tmp_path):
    population = Population.of(["lase", "a2c"], 2)
    metrics = {name: np.linspace(1, 5, 10) for name in ["env_steps", "episodes", *episode_columns(population, ())]}

    def size() -> tuple[int, int]:
        draw_curves(metrics, population, "title", tmp_path / "curves.png")
        header = (tmp_path / "curves.png").read_bytes()[16:24]
        return int.from_bytes(header[4:], "big"), int.from_bytes(header[:4], "big")

    panels = [size()]
    metrics["learner/a2c_1/gift_share/agent_1_to_0"] = np.zeros(10)
    panels.append(size())
    metrics["learner/lase_0/gift_share/agent_0_to_1"] = np.linspace(0, 0.4, 10)
    panels.append(size())
    metrics["learner/lase_0/influence_std/agent_0_to_1"] = np.linspace(0, 2, 10)
    panels.append(size())
    assert panels[0] == panels[1] < panels[2] < panels[3]


# -- run folders


class SavedAlgorithm:
    """Stands in for an algorithm: writes a checkpoint, or fails amid it."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def save_to_path(self, path: str) -> None:
        Path(path).mkdir()
        (Path(path) / "first").write_text("1")
        if self.fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        (Path(path) / "second").write_text("2")


def test_run_folders_never_share_a_place(tmp_path):
    folders = [RunFolder.create(tmp_path / "runs", "name").path for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.parent == tmp_path / "runs" / "name" for folder in folders)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(RunFolderError, match=r"cannot be made under .*runs/name.*--out"):
        RunFolder.create(tmp_path / "runs", "name")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(path: Path, data: bytes) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(RunFolderError, match=r"cannot be written: Read-only file system.*--out"):
        RunFolder.create(tmp_path, "name")


def test_a_nearly_full_disk_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10 * 2**20))
    with pytest.raises(RunFolderError, match="10 MiB left, a run needs 256 MiB"):
        RunFolder.create(tmp_path, "name")


def test_only_the_last_checkpoints_are_kept(tmp_path):
    folder = RunFolder.create(tmp_path, "name")
    assert folder.last_checkpoint() is None
    for iteration in (5, 10, 10, 999_999, 1_000_000):
        assert folder.save_checkpoint(SavedAlgorithm(), iteration, keep=2) == folder.last_checkpoint()
    assert {iteration_of(path) for path in folder.checkpoints.iterdir()} == {999_999, 1_000_000}


def test_what_others_leave_among_checkpoints_is_left_alone(tmp_path):
    folder = RunFolder.create(tmp_path, "name")
    (folder.checkpoints / ".DS_Store").write_text("of a file manager")
    (folder.checkpoints / ".iteration_000001").mkdir()  # cut off
    good = folder.save_checkpoint(SavedAlgorithm(), 2, keep=1)
    assert sorted(folder.checkpoints.iterdir()) == [folder.checkpoints / ".DS_Store", good]


def test_a_checkpoint_that_fails_leaves_the_earlier_ones_and_nothing_else(tmp_path):
    folder = RunFolder.create(tmp_path, "name")
    good = folder.save_checkpoint(SavedAlgorithm(), 1, keep=1)
    with pytest.raises(OSError, match="No space left"):
        folder.save_checkpoint(SavedAlgorithm(fails=True), 2, keep=1)
    assert list(folder.checkpoints.iterdir()) == [good]
    assert sorted(path.name for path in good.iterdir()) == ["first", "second"]


def test_a_checkpoint_that_was_cut_off_is_none(tmp_path):
    folder = RunFolder.create(tmp_path, "name")
    good = folder.save_checkpoint(SavedAlgorithm(), 1, keep=2)
    (folder.checkpoints / ".iteration_000002").mkdir()  # killed amid saving
    assert folder.last_checkpoint() == good
    folder.save_checkpoint(SavedAlgorithm(), 2, keep=2)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["iteration_000001", "iteration_000002"]


def test_versions_of_each_start_are_kept(tmp_path):
    experiment = load_experiment("quickstart")
    folder = RunFolder.create(tmp_path, "name")
    folder.describe(experiment, experiment)
    folder.save_checkpoint(SavedAlgorithm(), 7, keep=1)
    folder.describe(experiment, experiment)
    first, second = json.loads(folder.versions.read_text())
    assert (first["from_checkpoint"], second["from_checkpoint"]) == (None, "iteration_000007")
    for name in ("python", "ray", "torch", "numpy", "rllib-empathy", "command"):
        assert first[name]
    assert load_experiment(folder.experiment) == experiment


def test_only_a_checkout_has_a_commit(tmp_path):
    assert git_commit(tmp_path) is None
    inside = Path(__file__).parent
    assert git_commit(inside) is None, "a folder within a checkout may be of another project"


@pytest.mark.parametrize("name", [name for name, w in env_registry.WORLDS.items() if hasattr(w, "Parameters")])
def test_worlds_are_described_key_by_key(name):
    world: Any = env_registry.WORLDS[name]
    model = world.Parameters
    described = {setting.key: setting for setting in settings(model)}
    assert set(described) == set(model.model_fields)
    assert described["episode_length"].allowed == "integer >= 1"


@pytest.mark.parametrize("name", KINDS)
def test_options_of_agents_are_described_key_by_key(name):
    described = {setting.key.partition(".")[0] for setting in settings(KINDS[name].Options)}
    assert described == set(KINDS[name].Options.model_fields)


def test_descriptions_say_what_is_allowed():
    described = {setting.key: setting for setting in settings(KINDS["ppo"].Options)}
    assert described["gamma"].allowed == "number >= 0 and <= 1"
    assert described["grad_clip"].allowed == "number > 0 or null"
    assert described["network.memory"].allowed == "none or lstm or gru"
    assert described["network.hidden"].default == "[128]"
    assert described["normalize_advantages"].default == "true"
