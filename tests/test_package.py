"""What is installed: the wheel's contents, what importing costs, the pins."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rllib_empathy
from rllib_empathy.shipped import shipped

CHECKOUT = Path(__file__).parents[1]
PACKAGES = ("env_registry", "rllib_empathy")


def python(code: str, folder: Path) -> str:
    """What `code` prints in a fresh interpreter that imports from `folder`."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel of this checkout unpacks to."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    generated = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "tune_configs"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=generated)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        ".",
    ]
    subprocess.run(build, cwd=source, check=True, timeout=120, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def read_metadata(installed: Path, name: str) -> str:
    (metadata,) = installed.glob("*.dist-info")
    return (metadata / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_holds_all_of_the_package(installed: Path, package: str) -> None:
    def files(root: Path, pattern: str) -> set[str]:
        return {path.relative_to(root).as_posix() for path in (root / package).rglob(pattern)}

    assert files(CHECKOUT, "*.py") == files(installed, "*.py"), "a folder of modules is not listed in setup.cfg"
    assert (installed / package / "py.typed").is_file()


def test_experiment_files_are_found_where_the_wheel_is_installed(installed: Path) -> None:
    code = (
        "from rllib_empathy.shipped import shipped\nfolder = shipped('tune_configs')\n"
        "print(*sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.yaml')))"
    )
    folder = CHECKOUT / "tune_configs"
    experiments = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))
    assert {Path(name).parent.name for name in experiments} == {"", "reproduce"}
    assert python(code, installed).split() == experiments


def test_nothing_else_lies_at_the_top_of_the_wheel(installed: Path) -> None:
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == set(PACKAGES)


def test_unknown_shipped_folder_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="'recipes'"):
        shipped("recipes")


def test_command_is_installed_and_loads(installed: Path) -> None:
    commands = configparser.ConfigParser()
    commands.read_string(read_metadata(installed, "entry_points.txt"))
    command = EntryPoint("rllib-empathy", commands["console_scripts"]["rllib-empathy"], "console_scripts")
    assert callable(command.load())


def test_metadata_tells_the_version_and_the_least_python(installed: Path) -> None:
    metadata = HeaderParser().parsestr(read_metadata(installed, "METADATA"))
    assert metadata["Version"] == rllib_empathy.__version__
    assert metadata["Requires-Python"] == ">=3.10"


def test_worlds_are_imported_without_the_learning_side() -> None:
    heavy = {"ray", "torch", "supersuit", "matplotlib", "mlflow", "rllib_empathy"}
    assert heavy.isdisjoint(python("import env_registry\nprint(*sys.modules)", CHECKOUT).split())


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    pins: dict[str, list[Requirement]] = {}
    for line in (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    wanted = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    for line in wanted.split():
        requirement = Requirement(line)
        found = pins.get(canonicalize_name(requirement.name), [])
        assert found, f"{requirement.name} is not pinned: run 'make constraints'"
        for pin in found:
            ((_, version),) = ((pinned.operator, pinned.version) for pinned in pin.specifier)
            assert requirement.specifier.contains(version), f"{pin} is outside of {requirement}"
