"""The report: what is read from runs, what is drawn, and the page in a real browser."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from env_registry.parameters import SettingError
from rllib_empathy.cli import app
from rllib_empathy.experiments.experiment import load_experiment
from rllib_empathy.experiments.metrics_table import MetricsTable, between_agents, read_metrics
from rllib_empathy.experiments.statistics import interquartile_mean
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.report.page import write_report
from rllib_empathy.report.replay import Episode, animation, play_episode
from rllib_empathy.report.runs import Group, Run, differences, group_runs, read_run, read_runs
from rllib_empathy.report.svg import circle, gift_graph, line_chart, matrix, number, ticks
from rllib_empathy.schelling.playing import play_mixtures
from rllib_empathy.studies.study_folder import Outcome, StudyFolder
from rllib_empathy.studies.trials import trials_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

STEPS, GAMES, ITERATIONS = 20, 16, 6
"""Of a run: in each iteration, every game plays one episode."""

APPLES_EVERYWHERE = (
    "env_config={river_rows: 1, orchard_rows: 6, initial_waste: 0, waste_probability: 0, spawns_per_step: 16}"
)
"""So that even agents that act at random earn something, and have something to give."""

LESS = (
    APPLES_EVERYWHERE,
    f"env_config.episode_length={STEPS}",
    f"env_runners.num_envs_per_env_runner={GAMES}",
    f"env_runners.rollout_fragment_length={STEPS}",
    f"stop={{iterations: {ITERATIONS}}}",
    "training.network={hidden: [8], conv_filters: [2], memory: none}",
)


@pytest.fixture(scope="module")
def runs(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of givers, two of which hand over a half of what they earn, and one of agents that keep everything."""
    out = tmp_path_factory.mktemp("runs")
    givers = "population=[{kind: blind_gift, count: 2, share: 0.5}, {kind: lase, social_hidden: 8}, random]"
    for settings in ([givers, "name=givers"], [givers, "name=givers", "seed=1"], ["population=a2c", "name=keepers"]):
        arguments = [part for setting in (*settings, *LESS) for part in ("--set", setting)]
        result = CliRunner().invoke(app, ["train", "cleanup", "--out", str(out), *arguments])
        assert result.exit_code == 0, result.output
    return sorted(out.glob("*/*"))


class Page(HTMLParser):
    """Tags that were opened and are not closed, and all references."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "link", "input", "br"):
            self.open.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_startendtag(self, tag, attrs):
        return

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_seeds_are_put_together_and_experiments_told_apart(runs):
    givers, keepers = group_runs([read_run(path) for path in runs])
    assert [(givers.name, len(givers.runs)), (keepers.name, len(keepers.runs))] == [("givers", 2), ("keepers", 1)]
    assert givers.agents == ["blind_gift 0", "blind_gift 1", "lase 2", "random 3"]
    curve = givers.curve("group_return")
    assert curve is not None
    steps, middle, low, high = curve
    assert steps[-1] == ITERATIONS * GAMES * STEPS
    last = [np.asarray(run.metrics["group_return"])[-1] for run in givers.runs]
    assert middle[-1] == pytest.approx(interquartile_mean(np.array(last)))
    assert ((low <= middle) & (middle <= high)).all()
    assert keepers.curve("equality_after_gifts") is None


def made_up_study(out: Path, returns: dict[str, float], *overrides: str) -> Path:
    """A study of `quickstart` with the metrics of those trials whose group return is given."""
    experiment = load_experiment("quickstart", overrides)
    folder = StudyFolder.create(out, experiment, trials_of(experiment))
    for trial, group_return in returns.items():
        table = MetricsTable(folder.trial(trial).metrics)
        for iteration in (1, 2, 3):
            row = {"env_steps": 100 * iteration, "episodes": 4, "episode_length": 100, "group_return": group_return}
            table.append(row | {f"agent_return/{agent}": group_return / 4 for agent in range(4)})
    return folder.path


def names_and_seeds(paths: list[Path]) -> list[tuple[str, list[int | None]]]:
    return [(group.name, [run.experiment.seed for run in group.runs]) for group in group_runs(read_runs(paths))]


def test_trials_of_a_study_are_called_by_their_variants(tmp_path):
    trials = ["lase/seed_0", "lase/seed_1", "a2c/seed_0", "a2c/seed_1"]
    study = made_up_study(tmp_path, dict.fromkeys(trials, 1.0), "study.seeds=[0, 1]")
    together = [study / trial for trial in trials]
    assert names_and_seeds(together) == [("quickstart (lase)", [0, 1]), ("quickstart (a2c)", [0, 1])]
    # Also where seeds differ, and where a folder is given twice.
    others = [together[1], together[1], together[2]]
    assert names_and_seeds(others) == [("quickstart (lase)", [1]), ("quickstart (a2c)", [0])]
    assert names_and_seeds(together[:2]) == [("quickstart", [0, 1])]
    result = CliRunner().invoke(
        app, ["report", *map(str, together), "--no-replay", "--out", str(tmp_path / "page.html")]
    )
    assert result.exit_code == 0, result.output
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>quickstart (lase) and quickstart (a2c)</h1>" in text
    assert "seed_0)" not in text


@pytest.mark.parametrize(
    ("paths", "told_apart"),
    [
        (["/runs/cleanup/monday", "/runs/cleanup/tuesday"], ["monday", "tuesday"]),
        (["/a/study/lase/seed_0", "/b/study/lase/seed_0"], ["a/study/lase", "b/study/lase"]),
        (["/study/lase/sample_000/seed_0", "/study/a2c/sample_003/seed_1"], ["lase/sample_000", "a2c/sample_003"]),
        (["/runs/cleanup/monday", "/runs/cleanup/monday_2/lase/seed_0"], ["monday", "monday_2/lase"]),
        (["/cleanup/seed_0", "/cleanup/seed_1"], ["seed_0", "seed_1"]),  # by `train --run`, with other settings
    ],
)
def test_runs_of_the_same_name_are_told_apart_by_their_folders(paths, told_apart):
    assert differences([Path(path) for path in paths]) == told_apart


def test_a_study_stands_for_its_trials(tmp_path):
    trials = {"lase/seed_0": 2.0, "lase/seed_1": 3.0, "a2c/seed_0": 4.0, "a2c/seed_2": 5.0}
    study = made_up_study(tmp_path, trials, "study.seeds=[0, 1, 2]")
    StudyFolder(study).add_outcome(Outcome("a2c/seed_2", "failed", {}, "a reason"))
    assert names_and_seeds([study]) == [("quickstart (lase)", [0, 1]), ("quickstart (a2c)", [0])]
    assert names_and_seeds([study, study / "a2c" / "seed_2"])[1] == ("quickstart (a2c)", [0, 2])
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(study), "--no-replay", "--out", str(page)])
    assert result.exit_code == 0, result.output
    assert "3 runs" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("mode", "best"), [("max", {"lase": 1, "a2c": 0}), ("min", {"lase": 2, "a2c": 1})])
def test_a_search_stands_for_the_best_settings_of_each_variant(tmp_path, mode, best):
    returns = {
        "lase/sample_000/seed_0": 5.0,
        "lase/sample_000/seed_1": 1.0,
        "lase/sample_001/seed_0": 4.0,
        "lase/sample_001/seed_1": 4.0,
        "lase/sample_002/seed_0": 2.0,
        "a2c/sample_000/seed_0": 8.0,
        "a2c/sample_001/seed_1": 7.0,
        "a2c/sample_002/seed_0": np.nan,  # no episode has ended
    }
    search = ("study.search={training.lr: {grid: [0.1, 0.01, 0.001]}}", "study.seeds=[0, 1]", f"study.mode={mode}")
    study = made_up_study(tmp_path, returns, *search)
    runs = read_runs([study])
    expected = [
        study / trial
        for trial in returns
        if trial.startswith(tuple(f"{variant}/sample_{sample:03d}/" for variant, sample in best.items()))
    ]
    assert [run.path for run in runs] == expected
    page = tmp_path / "page.html"
    write_report([study], page, replay=False)
    text = page.read_text(encoding="utf-8")
    assert text.count("(the best of 3 settings)") == len(expected)
    assert f"quickstart (lase/sample_{best['lase']:03d})" in text


def test_a_run_of_an_experiment_that_asks_for_a_study_is_a_run(tmp_path):
    study = made_up_study(tmp_path, {"lase/seed_0": 1.0})
    run = study / "lase" / "seed_0"
    shutil.copy(study / "experiment.yaml", run)  # as `train quickstart` leaves it
    assert [found.path for found in read_runs([run])] == [run]


def test_the_report_is_one_sound_file_that_says_who_gave_what(runs, tmp_path):
    page = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", *map(str, runs), "--out", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.open == []
    assert all(reference.startswith("data:") for reference in parsed.references)
    assert "http" not in re.sub(r"data:image/gif;base64,[^\"]*", "", text)
    for part in ("Who gives what to whom", "One episode", "Learning curves", "Division of labour", "givers", "keepers"):
        assert part in text
    assert text.count("data:image/gif") == 2
    assert "blind_gift 0 gives" in text
    assert "Nobody gave" not in text


def test_the_table_of_gifts_says_what_the_run_logged(runs, tmp_path):
    page = tmp_path / "report.html"
    write_report(runs[:1], page, replay=False)
    rows = re.findall(r"<tr><th><i [^>]*></i>([^<]*)</th>(.*?)</tr>", page.read_text(encoding="utf-8"))
    assert [name for name, _ in rows] == ["blind_gift 0", "blind_gift 1", "lase 2", "random 3"]
    cells = [re.sub(r"<[^>]*>", " ", cells).replace("\N{MINUS SIGN}", "-").split() for _, cells in rows]
    earned, gave, received, net, has = np.array(cells, float).T
    last = {name: values[-1:] for name, values in read_metrics(runs[0] / "metrics.csv").items()}  # a tenth of six
    for shown, logged in ((earned, "agent_return"), (has, "agent_return_after_gifts")):
        _assert_shown(shown, [last[f"{logged}/{agent}"][0] for agent in range(4)])
    gifts = np.zeros((4, 4))
    for pair, per_step in between_agents(last)["gift_amount"].items():
        gifts[pair] = STEPS * per_step[0]
    for shown, known in ((gave, gifts.sum(1)), (received, gifts.sum(0)), (net, gifts.sum(0) - gifts.sum(1))):
        _assert_shown(shown, known)
    assert (earned[:2] > 0).all()
    _assert_shown(gave[:2], earned[:2] / 2)
    assert gave[3] == 0


def _assert_shown(shown, known):
    """As exactly as three digits can say it."""
    np.testing.assert_allclose(shown, known, rtol=0.01, atol=0.01)


def test_gifts_are_those_of_the_episodes_at_the_end_of_training():
    episodes = np.array([0, 4, 0, 4, 0.0])  # each lasts for two iterations, and the last one has not ended
    metrics = {
        "episodes": episodes,
        "episode_length": np.array([np.nan, 10, np.nan, 10, np.nan]),
        "agent_return/0": np.zeros(5),
        "agent_return/1": np.zeros(5),
        "learner/lase_0/gift_amount/agent_0_to_1": np.array([50, 60, 1, 3, 70.0]),
    }
    group = Group("made up", [Run(Path("run"), load_experiment("matrix_game"), metrics)])
    np.testing.assert_array_equal(group.gifts, [[0, 20], [0, 0]])


def test_influences_are_shown_as_matrices_over_the_run(ray_local, tmp_path):
    arguments = ["--out", str(tmp_path), "--set", "stop={iterations: 6}", "--set", "name=pair"]
    games = ["env_config.episode_length=4", "env_runners.num_envs_per_env_runner=4"]
    arguments += [part for setting in games for part in ("--set", setting)]
    result = CliRunner().invoke(app, ["train", "reciprocator_ipd", *arguments])
    assert result.exit_code == 0, result.output
    (run,) = tmp_path.glob("pair/*")
    (group,) = group_runs([read_run(run)])
    found = group.matrices(2)
    for name in ("influence", "influence_std", "balance"):
        assert np.isfinite(found[name][:, [0, 1], [1, 0]]).all(), name
        assert np.isnan(found[name][:, [0, 1], [0, 1]]).all()
    columns = [run_metrics for run_metrics in group.runs[0].metrics if "influence_std/agent_0_to_1" in run_metrics]
    assert found["influence_std"][1, 0, 1] == pytest.approx(group.runs[0].metrics[columns[-1]][3:].mean())
    write_report([run], tmp_path / "report.html", replay=False)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in ("influence", "influence std", "balance"):
        assert f"<h3>{name}</h3>" in text


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (on Debian: apt install chromium)")
def test_a_browser_shows_the_page_without_a_complaint(runs, tmp_path):
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    write_report(runs, page)
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,2400"]
    command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"]
    shown = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr, shown.stderr
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape == (2400, 1200, 3)
    colours = np.unique(pixels.reshape(-1, 3), axis=0)
    assert len(colours) > 100, "a page with text and pictures, not an empty one"


def test_a_replay_is_the_episode_that_was_played(runs):
    episode = play_episode(runs[0], seed=3)
    assert episode.frames is not None
    assert episode.frames.shape[0] == len(episode.rewards) == STEPS
    assert (np.diff(episode.frames.astype(int), axis=0) != 0).any(), "the world moves"
    given = episode.gifts[:, :2].sum(2)
    assert given.any()
    np.testing.assert_allclose(given, 0.5 * episode.rewards[:, :2], atol=1e-6)  # blind givers hand over a half
    assert not episode.gifts[:, 3].any()
    again = play_episode(runs[0], seed=3)
    np.testing.assert_array_equal(again.frames, episode.frames)


def _from_another_seed(world):
    reset = world.reset
    world.reset = lambda seed, first_game: reset(seed + 1, first_game)


def _from_another_game(world):
    reset = world.reset
    world.reset = lambda seed, first_game: reset(seed, first_game + 1)


def _with_other_rewards(world):
    step = world.step
    world.step = lambda actions: (taken := step(actions))._replace(rewards=taken.rewards + 1)


@pytest.mark.parametrize("changed", [_from_another_seed, _from_another_game, _with_other_rewards])
def test_a_replay_of_another_episode_is_refused(runs, monkeypatch, changed):
    make_world = EmpathyConfig.make_world

    def make_another_to_draw(config, num_games):
        world = make_world(config, num_games)
        if num_games == 1:
            changed(world)
        return world

    monkeypatch.setattr(EmpathyConfig, "make_world", make_another_to_draw)
    with pytest.raises(SettingError, match=r"does not play the same again .* --no-replay"):
        play_episode(runs[0], seed=3)


@pytest.mark.parametrize("frames", [True, False])
def test_an_animation_has_a_frame_for_every_step_and_one_for_the_end(frames):
    rng = np.random.default_rng(0)
    gifts = rng.random((5, 3, 3)) * ~np.eye(3, dtype=bool)
    shown = rng.integers(0, 255, (5, 8, 10, 3), dtype=np.uint8) if frames else None
    episode = Episode(shown, rng.random((5, 3)), gifts)
    picture = Image.open(io.BytesIO(animation(episode, ["a 0", "b 1", "c 2"], ["#aa0000", "#00aa00", "#0000aa"])))
    assert getattr(picture, "n_frames", 1) == 6
    assert picture.size == (760 if frames else 380, 380)


def test_runs_that_cannot_be_read_are_explained(runs, tmp_path):
    empty, begun = tmp_path / "empty", tmp_path / "begun"
    empty.mkdir()
    begun.mkdir()
    shutil.copy(runs[0] / "resolved.yaml", begun)
    study = made_up_study(tmp_path / "studies", {})
    messages = {
        empty: "is no run folder: it holds no resolved.yaml. Give runs/NAME/TIMESTAMP, of a run or of a study.",
        begun: "has no metrics yet",
        study: "has no trial yet that has metrics",
    }
    for path, message in messages.items():
        result = CliRunner().invoke(app, ["report", str(path), "--out", str(tmp_path / "page.html")])
        assert result.exit_code == 2
        assert message in result.output


def test_a_page_that_cannot_be_written_is_explained(runs, tmp_path):
    arguments = ["report", str(runs[0]), "--no-replay", "--out", str(tmp_path / "nowhere" / "page.html")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "--out" in result.output


def test_trained_agents_can_play_in_a_schelling_diagram(runs):
    diagram = play_mixtures(
        "cleanup", {"episode_length": 12}, cooperator=str(runs[0]), defector=str(runs[2]), episodes=3
    )
    assert diagram.cooperators.shape == (4, 3)
    assert np.isfinite(diagram.group).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.5, "1,234"),
        (12.345, "12.3"),
        (-0.5, "\N{MINUS SIGN}0.5"),
        (1e-4, "0.0001"),
        (np.nan, "\N{EN DASH}"),
    ],
)
def test_numbers_for_people(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 12), (0.001, 0.0042), (0, 3e6), (2, 2)])
def test_ticks_are_round_and_within(low, high):
    found = ticks(low, high)
    assert all(low <= tick <= high for tick in found)
    assert 1 <= len(found) <= 7


def test_pictures_hold_what_they_show():
    amounts = np.array([[0, 2.0, 0], [0, 0, 0], [0, 0.5, 0]])
    graph = gift_graph(amounts, ["lase 0", "a2c 1", "lase 2"], ["", "", ""], ["#111111", "#222222", "#333333"])
    assert re.findall(r"<title>(.*?)</title>", graph) == [
        "lase 0 gives a2c 1 2 per episode",
        "lase 2 gives a2c 1 0.5 per episode",
    ]
    assert "<path" not in gift_graph(np.zeros((2, 2)), ["a 0", "b 1"], ["", ""], ["#111111", "#222222"])
    values = np.array([[np.nan, 0.25], [-1.0, np.nan]])
    assert re.findall(r"class=\"cell\"[^>]*>([^<]*)<", matrix(values, ["a 0", "b 1"], 1.0, "all")) == [
        "0.25",
        "\N{MINUS SIGN}1",
    ]
    flat = np.zeros(3)
    assert "nan" not in line_chart("flat", [_curve(flat)])


def _curve(values: np.ndarray):
    from rllib_empathy.report.svg import Curve

    return Curve("name", "#000000", np.arange(1.0, 1 + len(values)), values, values, values)


def test_agents_stand_apart_on_their_circle():
    for count in range(2, 9):
        places = np.array(circle(count, 0, 0, 1))
        assert len({tuple(place) for place in places.round(6)}) == count
        np.testing.assert_allclose((places**2).sum(1), 1)
