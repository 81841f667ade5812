"""The catalogue of published results: its files, its verdicts, its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from env_registry import SettingError
from rllib_empathy.cli import app
from rllib_empathy.experiments.metrics_table import flat_metrics
from rllib_empathy.studies.analyses import CoinsMeta, IpdTheory, LaseTheory, LolaTheory, SchellingDiagrams
from rllib_empathy.studies.catalogue import Expectation, catalogue, load_reproduction, trials_to_reproduce
from rllib_empathy.studies.finished import finished, is_done, last_study, run_analysis
from rllib_empathy.studies.measures import measure
from rllib_empathy.studies.results import study_results
from rllib_empathy.studies.study_folder import Outcome, StudyFolder

ENTRY: dict[str, Any] = {
    "title": "Payoffs decide",
    "paper": "nobody's",
    "figure": "Figure 1",
    "claim": "more is more",
    "expect": [{"variant": "rich", "above": "poor", "by": 50}, {"variant": "poor", "near": 0, "within": 1}],
    "controls": [{"variant": "poor", "above": "rich"}, {"variant": "poor", "below": 1}],
    "experiment": {
        "environment": "matrix_game",
        "env_config": {"episode_length": 5, "payoffs": [9, 9, 9, 9]},
        "population": "random",
        "env_runners": {"num_envs_per_env_runner": 2, "rollout_fragment_length": 5},
        "stop": {"iterations": 3},
        "study": {"seeds": [0, 1], "variants": {"rich": {}, "poor": {"env_config.payoffs": [0, 0, 0, 0]}}},
    },
    "scales": {"small": {}, "paper": {"stop.iterations": 30}},
}

ANALYSIS_MEASURES = {
    "lase_theory": LaseTheory.measures,
    "ipd_theory": IpdTheory.measures,
    "lola_theory": LolaTheory.measures,
    "coins_meta": CoinsMeta.measures,
    "schelling": SchellingDiagrams.measures,
}

SCORES = {"a": np.array([10.0, 11, 12]), "b": np.array([1.0, 2, 3])}


def written(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**ENTRY, **changes}, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("name", catalogue())
def test_every_entry_is_sound_at_both_scales(name, scale):
    reproduction = load_reproduction(name, scale)
    assert len(reproduction.variants) >= 2
    if reproduction.experiment is None:
        return
    trials = trials_to_reproduce(reproduction)
    assert len({trial.experiment.seed for trial in trials}) >= 3
    assert {trial.variant for trial in trials} == set(reproduction.variants)
    assert catalogue()[name].read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize(
    ("expectation", "verdict", "difference"),
    [
        ({"variant": "a", "above": "b"}, "holds", 9),
        ({"variant": "a", "above": "b", "by": 6}, "holds", 9),
        ({"variant": "a", "above": "b", "by": 9}, "undecided", 9),
        ({"variant": "a", "above": "b", "by": 12}, "does not hold", 9),
        ({"variant": "b", "above": "a"}, "does not hold", -9),
        ({"variant": "b", "below": "a", "by": 6}, "holds", -9),
        ({"variant": "b", "below": "a", "by": 12}, "does not hold", -9),
        ({"variant": "a", "below": "b"}, "does not hold", 9),
        ({"variant": "a", "above": 5}, "holds", 6),
        ({"variant": "a", "below": 11.5}, "undecided", -0.5),
        ({"variant": "a", "near": 10.5, "within": 2}, "holds", 0.5),
        ({"variant": "a", "near": 10.5, "within": 0.7}, "undecided", 0.5),
        ({"variant": "a", "near": "b", "within": 2}, "does not hold", 9),
    ],
)
def test_verdicts_follow_from_the_whole_interval(expectation, verdict, difference):
    found, estimate = Expectation.model_validate(expectation).judged(SCORES)
    assert found == verdict
    assert estimate.value == pytest.approx(difference)


@pytest.mark.parametrize(
    ("side", "verdict"), [("above", "does not hold"), ("below", "does not hold"), ("near", "holds")]
)
def test_what_is_alike_is_neither_above_nor_below(side, verdict):
    alike = {"a": np.full(3, 200.0), "b": np.full(2, 200.0)}
    more = {"within": 1} if side == "near" else {}
    assert Expectation.model_validate({"variant": "a", side: "b", **more}).judged(alike)[0] == verdict


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=6), st.floats(-9, 9))
def test_above_and_below_exclude_each_other(values, number):
    scores = {"a": np.array(values)}
    above, _ = Expectation(variant="a", above=number).judged(scores)
    below, _ = Expectation(variant="a", below=number).judged(scores)
    if len(set(values)) > 1 or values[0] != number:
        assert (above, below) in {
            ("holds", "does not hold"),
            ("does not hold", "holds"),
            ("undecided", "undecided"),
        } or (number in values)


def test_one_seed_decides_nothing():
    assert Expectation(variant="a", above=0).judged({"a": np.array([100.0])})[0] == "undecided"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expct": []}, "Unknown key 'expct'. Did you mean 'expect'"),
        ({"expect": [], "controls": []}, "something under expect or controls"),
        ({"controls": [{"variant": "rihc", "above": 3}]}, "Unknown variant in expect or controls"),
        ({"expect": [{"variant": "rich"}]}, "exactly one of above, below, near"),
        ({"expect": [{"variant": "rich", "near": "poor"}]}, "near and within go together"),
        ({"expect": [{"variant": "rihc", "above": 3}]}, "Unknown variant in expect"),
        ({"expect": [{"variant": "rich", "above": "por"}]}, "Did you mean 'poor'"),
        ({"expect": [{"variant": "rich", "above": "poor", "metric": "equaliti"}]}, "Unknown metric of variant 'rich'"),
        ({"expect": [{"variant": "rich", "above": 3, "other_metric": "equality"}]}, "other_metric goes with a variant"),
        ({"shows": ["equaliti"]}, "Unknown metric of variant 'rich' 'equaliti'"),
        ({"metric": "largest_share/cooperation"}, "Did you mean 'largest_share/cooperations'"),
        (
            {"study_of": "lase_cleanup"},
            "needs exactly one of experiment, study_of, analysis, has experiment and study_of",
        ),
        ({"experiment": None}, "needs exactly one of experiment, study_of, analysis, has none"),
        ({"scales": {"small": {}}}, "scales needs small and paper"),
        ({"scales": {"small": {"stop.iteratons": 3}, "paper": {}}}, "Unknown key in stop 'iteratons'"),
        ({"base": "cleanupp"}, "Unknown experiment 'cleanupp'"),
        ({"draws": ["equaliti"]}, "Unknown metric of variant 'rich' 'equaliti'"),
        ({"study_of": "lase_cleanup", "experiment": None}, "study_of goes without scales"),
        ({"analysis": {"lase_theory": {}}, "experiment": None, "base": "cleanup"}, "analysis goes without base"),
        (
            {"analysis": {"lase_theory": {}}, "experiment": None, "draws": ["cooperation"]},
            "analysis goes without draws",
        ),
        (
            {
                "analysis": {"lase_theory": {}},
                "experiment": None,
                "scales": {"small": {"lase_theory.strats": 3}, "paper": {}},
            },
            "Did you mean 'starts'",
        ),
        ({"experiment": {**ENTRY["experiment"], "study": None}}, "needs a part 'study'"),
    ],
)
def test_a_wrong_entry_is_explained(tmp_path, changes, message):
    path = written(tmp_path / "entry.yaml", **changes)
    with pytest.raises(SettingError) as caught:
        trials_to_reproduce(load_reproduction(str(path), "small"))
    assert message in str(caught.value)


def test_two_measures_of_a_variant_are_compared():
    expectation = Expectation(variant="a", metric="more", above="a", other_metric="less")
    assert expectation.judged(SCORES, {"a": np.array([1.0, 2, 3])})[0] == "holds"
    assert str(expectation) == "more of a above less of a"


def test_two_measures_of_the_same_trials_are_compared_trial_by_trial():
    less = np.array([0.1, 0.5, 0.9, 0.3])
    expectation = Expectation(variant="a", metric="more", above="a", other_metric="less")
    assert expectation.judged({"a": less + 0.05}, {"a": less})[0] == "holds"
    assert expectation.judged({"a": less}, {"a": less + 0.05})[0] == "does not hold"
    of_others = Expectation(variant="a", metric="more", above="b", other_metric="less")
    assert of_others.judged({"a": less + 0.05}, {"b": less})[0] == "undecided"


def entries_with_a_study_of_their_own() -> list[str]:
    entries = {name: load_reproduction(name, "small") for name in catalogue()}
    return [name for name, found in entries.items() if found.experiment and not found.entry.study_of]


@pytest.mark.parametrize("name", entries_with_a_study_of_their_own())
def test_every_variant_of_an_entry_trains(ray_local, name):
    trials = {trial.variant: trial for trial in trials_to_reproduce(load_reproduction(name, "small"))}
    for variant, trial in trials.items():
        algorithm = trial.config.copy(copy_frozen=False).env_runners(num_envs_per_env_runner=2).build_algo()
        try:
            steps = [algorithm.train()["env_runners"]["num_env_steps_sampled"] for _ in range(2)]
        finally:
            algorithm.stop()
        assert min(steps) > 0, variant


@pytest.mark.parametrize("name", ["lase_weights", "lase_among_scripted", "lase_division_of_labour"])
def test_what_an_entry_shows_of_learning_is_logged(ray_local, name):
    reproduction = load_reproduction(name, "small")
    trial = next(trial for trial in trials_to_reproduce(reproduction) if trial.variant == "lase")
    algorithm = trial.config.copy(copy_frozen=False).env_runners(num_envs_per_env_runner=16).build_algo()
    try:
        for _ in range(4):
            result = algorithm.train()
    finally:
        algorithm.stop()
    row = flat_metrics(result, trial.config.resolved_population(), ["waste_cleaned", "apples_eaten"], seconds=0)
    assert {shown for shown in reproduction.entry.shows if np.isnan(measure(row, shown))} == set()


ANALYSES: dict[str, dict[str, Any]] = {
    "lase_theory": {"starts": 3, "resolution": 6},
    "ipd_theory": {"starts": 3, "updates": 2, "meta_episodes": 1, "meta_pairs": 8, "meta_steps": 2},
    "lola_theory": {"starts": 3, "updates": 2},
    "coins_meta": {"seeds": 2, "meta_episodes": 1, "meta_games": 2, "games": 2, "inner_episodes": 1},
    "schelling": {
        "episodes": 4,
        "seeds": 3,
        "games": {
            "dilemma": {"world": "matrix_game", "env_config": {"payoffs": [3, 0, 5, 1]}},
            "harmony": {"world": "matrix_game", "env_config": {"payoffs": [4, 3, 2, 1]}},
        },
    },
}


def analysis_entry(path: Path, name: str, variant: str, **options: Any) -> Path:
    head = {key: ENTRY[key] for key in ("title", "paper", "figure", "claim")}
    entry = {**head, "expect": [{"variant": variant, "above": -99}], "analysis": {name: {**ANALYSES[name], **options}}}
    path.write_text(yaml.safe_dump(entry), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "variant", "number"),
    [
        ("lase_theory", "IPD", 3),
        ("ipd_theory", "naive / naive", 3),
        ("lola_theory", "naive / naive", 3),
        ("coins_meta", "naive / naive", 2),
        ("schelling", "dilemma", 3),
    ],
)
def test_an_analysis_ends_on_the_page_and_is_kept(name, variant, number, tmp_path, monkeypatch):
    path = analysis_entry(tmp_path / "entry.yaml", name, variant)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        result = CliRunner().invoke(app, ["reproduce", str(path), "--out", "runs"])
        assert result.exit_code == 0, result.output
        monkeypatch.setattr("rllib_empathy.studies.finished.run_analysis", None)  # the second time nothing is computed
    page = (tmp_path / "docs" / "results.md").read_text()
    assert f"| {variant} above -99.0 |" in page
    assert (tmp_path / "docs" / "results" / "entry_small.png").stat().st_size > 1000
    found = finished(tmp_path / "runs", load_reproduction(str(path), "small"))
    assert found is not None
    for shown in ANALYSIS_MEASURES[name]:
        scores = found.scores(shown)
        assert set(scores) == set(found.reproduction.variants)
        assert all(len(values) == number for values in scores.values())
    if name == "schelling":
        assert found.scores("is_dilemma")["dilemma"].all()
        assert not found.scores("is_dilemma")["harmony"].any()


def test_an_analysis_that_is_asked_otherwise_is_run_anew(tmp_path):
    path = analysis_entry(tmp_path / "entry.yaml", "lase_theory", "IPD")
    run_analysis(tmp_path, load_reproduction(str(path), "small"))
    assert finished(tmp_path, load_reproduction(str(path), "small"))
    analysis_entry(path, "lase_theory", "IPD", starts=4)
    assert finished(tmp_path, load_reproduction(str(path), "small")) is None


def test_a_scale_changes_an_analysis(tmp_path):
    path = analysis_entry(tmp_path / "entry.yaml", "lase_theory", "IPD")
    entry = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**entry, "scales": {"small": {}, "paper": {"lase_theory.starts": 9}}}))
    starts = {}
    for scale in ("small", "paper"):
        analysis = load_reproduction(str(path), scale).entry.analysis
        assert analysis is not None
        assert analysis.lase_theory is not None
        starts[scale] = analysis.lase_theory.starts
    assert starts == {"small": 3, "paper": 9}


@pytest.mark.parametrize(("change", "counts"), [("an option less", True), ("an unknown option", False)])
def test_an_analysis_of_another_version_counts_if_its_options_were_the_same(change, counts, tmp_path):
    reproduction = load_reproduction(str(analysis_entry(tmp_path / "entry.yaml", "lase_theory", "IPD")), "small")
    run_analysis(tmp_path, reproduction)
    (numbers,) = tmp_path.glob("*/numbers.json")
    found = json.loads(numbers.read_text())
    if change == "an option less":
        del found["analysis"]["schelling"]
    else:
        found["analysis"]["lase_theory"]["temperature"] = 1
    numbers.write_text(json.dumps(found))
    assert bool(finished(tmp_path, reproduction)) == counts


def test_players_that_are_not_trained_are_asked_for(tmp_path):
    games = {"cleanup": {"world": "cleanup", "cooperator": "lase_cleanup/go"}}
    path = analysis_entry(tmp_path / "entry.yaml", "schelling", "cleanup", games=games)
    with pytest.raises(SettingError, match="First: rllib-empathy reproduce lase_cleanup --scale small"):
        run_analysis(tmp_path, load_reproduction(str(path), "small"))


def test_a_diagram_of_players_that_were_trained_anew_is_drawn_anew(tmp_path, monkeypatch):
    games = {"trained": {"world": "matrix_game", "cooperator": "entry/go", "defector": "defector"}}
    reproduction = load_reproduction(
        str(analysis_entry(tmp_path / "entry.yaml", "schelling", "trained", games=games)), "small"
    )
    monkeypatch.setattr("rllib_empathy.studies.finished._players", lambda out, reproduction, player: ["first"])
    monkeypatch.setattr(
        SchellingDiagrams,
        "run",
        lambda self, picture, players: {"fear": {"trained": np.zeros(len(players("entry/go")))}},
    )
    run_analysis(tmp_path, reproduction)
    assert finished(tmp_path, reproduction)
    monkeypatch.setattr("rllib_empathy.studies.finished._players", lambda out, reproduction, player: ["second"])
    assert finished(tmp_path, reproduction) is None


def test_unknown_entries_are_named():
    with pytest.raises(SettingError, match=r"Did you mean 'lase_cleanup'"):
        load_reproduction("lase_claenup", "small")


def test_a_study_counts_only_while_defaults_are_what_they_were(tmp_path):
    path = written(tmp_path / "payoffs.yaml")
    reproduction = load_reproduction(str(path), "small")
    assert reproduction.experiment is not None
    trials = trials_to_reproduce(reproduction)
    folder = StudyFolder.create(tmp_path / "runs", reproduction.experiment, trials)
    assert last_study(tmp_path / "runs", reproduction, trials) is not None
    resolved = folder.trial(trials[0].name).resolved
    settings = yaml.safe_load(resolved.read_text())

    del settings["population"][0]["count"]  # written before there was such an option
    resolved.write_text(yaml.safe_dump(settings))
    assert [folder.has(trial) for trial in trials] == [True] * 4

    settings["env_config"]["payoffs"][0] = 8  # what was then the default
    resolved.write_text(yaml.safe_dump(settings))
    assert [folder.has(trial) for trial in trials] == [False] + [True] * 3
    assert last_study(tmp_path / "runs", reproduction, trials) is None
    assert last_study(tmp_path / "runs", reproduction) is not None


def test_a_study_ends_on_the_page_and_is_not_run_twice(ray_local, tmp_path, monkeypatch):
    path = written(tmp_path / "payoffs.yaml")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["reproduce", str(path), "--out", "runs"])
    assert result.exit_code == 0, result.output
    assert "Payoffs decide (small): holds" in result.stdout
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "| [Payoffs decide (small)](#payoffs-decide-small) | more is more (nobody's, Figure 1) |" in page
    assert "rich 90 [90, 90], poor 0 [0, 0] | **holds**; controls: 1 x does not hold, 1 x holds |" in page
    assert "| rich above poor by 50 | 90 [90, 90] | holds |" in page
    assert "| control: poor above rich | -90 [-90, -90] | does not hold |" in page
    assert "](results/payoffs_small.png)" in page
    picture = tmp_path / "docs" / "results" / "payoffs_small.png"
    assert picture.stat().st_size > 1000
    again = CliRunner().invoke(app, ["reproduce", str(path), "--out", "runs"])
    assert again.exit_code == 0, again.output
    (first,) = (tmp_path / "runs" / "payoffs_small").iterdir()
    assert (tmp_path / "docs" / "results.md").read_text() == page

    more = {"rich": {}, "poor": {"env_config.payoffs": [1, 1, 1, 1]}, "new": {}}
    written(
        path,
        experiment={**ENTRY["experiment"], "study": {"seeds": [0, 1], "variants": more}},
        expect=[],
        controls=[{"variant": "new", "above": "poor"}],
    )
    changed = CliRunner().invoke(app, ["reproduce", str(path), "--out", "runs"])
    assert changed.exit_code == 0, changed.output
    (second,) = set((tmp_path / "runs" / "payoffs_small").iterdir()) - {first}
    same = {
        variant: (first / variant / "seed_0" / "metrics.csv").read_bytes()
        == (second / variant / "seed_0" / "metrics.csv").read_bytes()
        for variant in ("rich", "poor")
    }
    assert same == {"rich": True, "poor": False}
    page = (tmp_path / "docs" / "results.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| [Payoffs decide (small)]"))
    assert row.endswith("rich 90 [90, 90], poor 10 [10, 10], new 90 [90, 90] | **no claim**; controls: 1 x holds |")

    # Begun again and cut off: the page keeps what has finished, and the same command goes on.
    reproduction = load_reproduction(str(path), "small")
    trials = trials_to_reproduce(reproduction)
    assert reproduction.experiment is not None
    third = StudyFolder.create("runs", reproduction.experiment, trials)
    assert finished(Path("runs"), reproduction)
    assert not is_done(Path("runs"), reproduction, trials)
    third.add_outcome(Outcome(trials[0].name, "failed", {}, "the machine was gone"))
    on = CliRunner().invoke(app, ["reproduce", str(path), "--out", "runs"])
    assert on.exit_code == 0, on.output
    assert {outcome.ended for outcome in third.outcomes().values()} == {"finished"}
    assert is_done(Path("runs"), reproduction, trials)
    assert (tmp_path / "docs" / "results.md").read_text().count(
        "rich 90 [90, 90], poor 10 [10, 10], new 90 [90, 90]"
    ) == 1


def test_trials_that_failed_are_tried_again(ray_local, tmp_path, monkeypatch):
    path = written(tmp_path / "payoffs.yaml")
    monkeypatch.chdir(tmp_path)
    reproduction = load_reproduction(str(path), "small")
    trials = trials_to_reproduce(reproduction)
    assert reproduction.experiment is not None
    folder = StudyFolder.create("runs", reproduction.experiment, trials)
    for trial in trials:
        folder.add_outcome(Outcome(trial.name, "failed", {}, "a passing weakness"))
    study_results(reproduction.study, trials, folder)
    assert not is_done(Path("runs"), reproduction, trials)
    result = CliRunner().invoke(app, ["reproduce", str(path), "--out", "runs"])
    assert result.exit_code == 0, result.output
    assert {outcome.ended for outcome in folder.outcomes().values()} == {"finished"}


def test_a_page_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, monkeypatch):
    path = written(tmp_path / "payoffs.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").write_text("in the way")
    result = CliRunner().invoke(app, ["reproduce", str(path), "--out", "runs"])
    assert result.exit_code == 2
    assert "--page docs/results.md cannot be written" in result.stderr
    assert not (tmp_path / "runs").exists()
