"""What README and docs tell people to type works: every command and snippet is run, with less to train."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rllib_empathy.cli import app
from rllib_empathy.experiments.building import build_config
from rllib_empathy.experiments.experiment import load_experiment
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.studies.trials import trials_of

CHECKOUT = Path(__file__).parents[1]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]

LESS = ("env_runners.num_envs_per_env_runner=2", "env_runners.rollout_fragment_length=10", "stop={iterations: 1}")
FEWER: dict[tuple[str, ...], list[str]] = {
    ("theory", "ipd"): ["--starts", "2", "--meta-episodes", "2"],
    ("theory", "mfos"): shlex.split("--seeds 1 --meta-episodes 1 --meta-games 2 --games 2 --inner-episodes 2"),
}
"""Of what takes long otherwise."""


def snippets(language: str) -> list:
    """Fenced blocks of a language, named by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 2
            found.append(pytest.param(match[1], id=f"{page.name}:{line}"))
    return found


def commands() -> list:
    """Lines of the bash blocks."""
    return [
        pytest.param(line, id=line)
        for block in snippets("bash")
        for line in block.values[0].splitlines()
        if line and not line.startswith("#")
    ]


@pytest.fixture(scope="module")
def a_run(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run, for commands that need one."""
    out = tmp_path_factory.mktemp("runs")
    arguments = ["train", "quickstart", "--out", str(out), *[part for less in LESS for part in ("--set", less)]]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    (folder,) = out.glob("quickstart/*")
    return folder


@pytest.mark.parametrize("command", commands())
def test_command_works(a_run, tmp_path, monkeypatch, command):
    program, *arguments = shlex.split(command)
    assert program == "rllib-empathy"
    arguments = [argument.replace("RUN_FOLDER", str(a_run)) for argument in arguments]
    if arguments[0] in ("train", "tune"):
        less = ("stop={iterations: 2}",) if "--resume" in arguments else LESS
        arguments += [part for value in less for part in ("--set", value)]
    arguments += FEWER.get(tuple(arguments[:2]), [])
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output


@pytest.mark.filterwarnings("ignore::UserWarning")  # RLlib's own runners warn of what they do themselves
@pytest.mark.parametrize("code", snippets("python"))
def test_code_works(ray_local, tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("text", snippets("yaml"))
def test_experiment_works(tmp_path, text):
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    experiment = load_experiment(path)
    build_config(experiment)
    assert experiment.study is None or trials_of(experiment)


def test_there_is_something_to_run():
    assert len(commands()) >= 8
    assert len(snippets("python")) >= 2
    assert len(snippets("yaml")) >= 1


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("train", "rllib-empathy tune tune_configs/quickstart.yaml"),
        ("test", "-m pytest"),
        ("bench", "rllib-empathy bench"),
    ],
)
def test_make_runs_what_the_readme_says(target, runs):
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert "make train\n" in readme
    assert "make test\n" in readme
    recipe = subprocess.run(["make", "-n", target], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert runs in recipe.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_names_of_files_in_the_docs_are_those_of_a_run(a_run):
    page = (CHECKOUT / "docs" / "experiments.md").read_text(encoding="utf-8")
    named = {name.rstrip("/") for name in re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)}
    assert named == {path.name for path in RunFolder(a_run).path.iterdir()}
