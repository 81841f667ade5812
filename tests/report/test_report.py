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

from rllib_empathy.cli import app
from rllib_empathy.experiments.statistics import interquartile_mean
from rllib_empathy.report.page import write_report
from rllib_empathy.report.replay import Episode, animation, play_episode
from rllib_empathy.report.runs import group_runs, read_run
from rllib_empathy.report.svg import circle, gift_graph, line_chart, matrix, number, ticks
from rllib_empathy.schelling.playing import play_mixtures

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

LESS = (
    "env_config.episode_length=12",
    "env_runners.num_envs_per_env_runner=4",
    "env_runners.rollout_fragment_length=12",
    "stop={iterations: 6}",
    "training.network={hidden: [8], conv_filters: [2], memory: none}",
)


@pytest.fixture(scope="module")
def runs(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of givers, and one of agents that keep everything."""
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
    assert steps[-1] == 6 * 4 * 12
    last = [np.asarray(run.metrics["group_return"])[-1] for run in givers.runs]
    assert middle[-1] == pytest.approx(interquartile_mean(np.array(last)))
    assert ((low <= middle) & (middle <= high)).all()
    assert keepers.curve("equality_after_gifts") is None


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
    assert "lase 2 gives" in text or "blind_gift 0 gives" in text or "Nobody gave" in text


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
    assert episode.frames.shape[0] == len(episode.rewards) == 12
    assert (np.diff(episode.frames.astype(int), axis=0) != 0).any(), "the world moves"
    given = episode.gifts[:, :2].sum(2)
    np.testing.assert_allclose(given, 0.5 * episode.rewards[:, :2], atol=1e-6)  # blind givers hand over a half
    assert not episode.gifts[:, 3].any()
    again = play_episode(runs[0], seed=3)
    np.testing.assert_array_equal(again.frames, episode.frames)


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
    for path, message in ((empty, "is no run folder"), (begun, "has no metrics yet")):
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
