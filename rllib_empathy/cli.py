"""The command line: `rllib-empathy train | evaluate | envs | agents | bench | theory`.

Commands import what they need when they run, so that each starts as fast as it can.
"""

from __future__ import annotations

import importlib
import json as json_format
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from env_registry.parameters import SettingError, unknown_name
from rllib_empathy.shipped import shipped
from rllib_empathy.theory.cli import app as theory

if TYPE_CHECKING:
    from rllib_empathy.experiments.experiment import Experiment
    from rllib_empathy.experiments.run_folder import RunFolder
    from rllib_empathy.learning.config import EmpathyConfig

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes."""

app = typer.Typer(
    help="Empathetic and reciprocal agents for mixed-motive games, on Ray RLlib.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(theory, name="theory")


@app.command()
def train(
    experiment: Annotated[
        str | None, typer.Argument(help="An experiment file, or the name of one that comes with the package.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Set a key: training.lr=0.001, population.0.kind=a2c. Repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    resume: Annotated[
        Path | None, typer.Option(help="A run folder to go on with; only stop and checkpoint can be set anew.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster; default: start one here.")
    ] = None,
) -> None:
    """Train the population of an experiment; everything goes to a new folder runs/NAME/TIMESTAMP."""
    _prepare()
    from rllib_empathy.experiments.building import build_config, resolved
    from rllib_empathy.experiments.run_folder import RunFolder

    with _clear_errors():
        settings = _experiment(experiment, resume, overrides or [])
        config = build_config(settings)
        folder = RunFolder.open(resume) if resume else RunFolder.create(out, settings.name)
        folder.describe(settings, resolved(settings, config))
        console = _console()
        console.print(f"Run folder: {folder.path}", soft_wrap=True, highlight=False)
        with _ray(address, settings), _interruptible(console) as interrupted:
            _train(console, settings, config, folder, interrupted)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint's folder, or a run folder for its last one.")],
    episodes: Annotated[int, typer.Option(min=1, help="Whole episodes to play.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of worlds and actions.")] = 0,
    greedy: Annotated[bool, typer.Option(help="Always the most probable action, instead of sampling.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Play whole episodes with the policies of a checkpoint."""
    _prepare()
    from rllib_empathy.experiments import evaluation
    from rllib_empathy.experiments.display import evaluation_table

    with _clear_errors():
        result = evaluation.evaluate(checkpoint, episodes, seed, greedy)
        if json:
            typer.echo(json_format.dumps(result.to_json(), indent=2))
        else:
            _console().print(evaluation_table(result))


@app.command()
def envs(name: Annotated[str | None, typer.Argument(help="One world, in detail.")] = None) -> None:
    """List the worlds, or all about one."""
    from env_registry import WORLDS, make
    from rllib_empathy.experiments.describe import overview_table, presets_of, settings_table

    console = _console()
    with _clear_errors():
        if name is None:
            console.print(overview_table("Worlds", WORLDS))
            console.print("All about one: rllib-empathy envs NAME")
            return
        if name not in WORLDS:
            raise unknown_name("world", name, WORLDS)
        factory: Any = WORLDS[name]
        world: Any = make(name)
        console.print((factory.__doc__ or "").strip(), highlight=False)
        console.print(settings_table(f"env_config of {name}", factory.Parameters))
        for preset, values in presets_of(factory.Parameters).items():
            console.print(f"preset {preset}: {values}", highlight=False)
        console.print(
            f"actions: {', '.join(f'{n} {action}' for n, action in enumerate(world.action_names))}", highlight=False
        )
        console.print(f"events: {', '.join(world.event_names)}", highlight=False)
        console.print(f"observation of an agent: {world.observation_space}", highlight=False)


@app.command()
def agents(kind: Annotated[str | None, typer.Argument(help="One kind, with its options.")] = None) -> None:
    """List the kinds of agents, or the options of one."""
    from rllib_empathy.experiments.describe import overview_table, settings_table
    from rllib_empathy.policies import KINDS, kind_named

    console = _console()
    with _clear_errors():
        if kind is None:
            console.print(overview_table("Kinds of agents", KINDS))
            console.print("Its options: rllib-empathy agents KIND")
            return
        found = kind_named(kind)
        console.print((found.__doc__ or "").strip(), highlight=False)
        console.print(settings_table(f"options of {kind}", found.Options))


@app.command()
def bench(
    only: Annotated[list[str] | None, typer.Option(help="Name of a benchmark; may be repeated. Default: all.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Run the benchmarks of a checkout."""
    with _clear_errors():
        try:
            folder = shipped("benchmarks")
        except FileNotFoundError:
            raise SettingError(
                "Benchmarks come with a checkout of the repository, not with the installed package."
            ) from None
        sys.path.insert(0, str(folder.parent))
        importlib.import_module("benchmarks.run").main(json=json, only=only)


def _experiment(source: str | None, resume: Path | None, overrides: list[str]) -> Experiment:
    """The experiment to run, from a file or from the run to go on with."""
    from rllib_empathy.experiments.experiment import load_experiment
    from rllib_empathy.experiments.run_folder import RunFolder

    if (source is None) == (resume is None):
        raise SettingError(
            "Give an experiment (a file, or a name such as quickstart), or --resume RUN_FOLDER, not both."
        )
    if resume is None:
        return load_experiment(str(source), overrides)
    for override in overrides:
        if not override.startswith(("stop.", "stop=", "checkpoint.", "checkpoint=")):
            raise SettingError(
                f"--set {override!r}: a resumed run goes on as it was; only stop and checkpoint can be set anew. For other "
                f"changes start a new run from {resume / 'experiment.yaml'}."
            )
    return load_experiment(RunFolder.open(resume).experiment, overrides)


def _train(
    console: Console, settings: Experiment, config: EmpathyConfig, folder: RunFolder, interrupted: Callable[[], bool]
) -> None:
    """Trains with a progress bar, and ends with a table, the picture, and where everything is."""
    from rllib_empathy.experiments.curves import draw_curves
    from rllib_empathy.experiments.display import TrainingProgress, results_table
    from rllib_empathy.experiments.metrics_table import read_metrics
    from rllib_empathy.experiments.training import train as iterations
    from rllib_empathy.learning.learner import NonFiniteError

    try:
        with TrainingProgress(console, settings.stop) as progress:
            for row in iterations(settings, config, folder, interrupted):
                progress.update(row)
    except SettingError:
        raise
    except BaseException as error:
        last = folder.last_checkpoint()
        where = (
            f"Last good checkpoint: {last}\n{_resume_hint(folder)}" if last else "No checkpoint has been written yet."
        )
        if isinstance(error, NonFiniteError | OSError):
            _fail(f"Training stopped. {error}\n{where}", FAILED)
        if isinstance(error, KeyboardInterrupt):
            _fail(f"Interrupted. {where}", INTERRUPTED)
        _console(stderr=True).print(f"Training failed. {where}", soft_wrap=True, highlight=False)
        raise
    metrics, population = read_metrics(folder.metrics), config.resolved_population()
    draw_curves(metrics, population, f"{settings.name}: {settings.environment}", folder.curves)
    console.print(results_table(metrics, population))
    for what, path in (
        ("curves", folder.curves),
        ("checkpoint", folder.last_checkpoint()),
        ("run folder", folder.path),
    ):
        console.print(f"{what + ':':12}{path}", soft_wrap=True, highlight=False)
    if interrupted():
        _fail(f"Stopped before the end, at your request. {_resume_hint(folder)}", INTERRUPTED)


def _resume_hint(folder: RunFolder) -> str:
    return f"Go on with: rllib-empathy train --resume {folder.path}"


@contextmanager
def _ray(address: str | None, settings: Experiment) -> Iterator[None]:
    """A Ray for this run: the one that runs in this process already, the cluster at `address`, or a new local one."""
    import ray

    if ray.is_initialized():
        yield
        return
    processes = 1 + settings.env_runners.num_env_runners + settings.learners.num_learners
    local = {"num_cpus": max(os.cpu_count() or 1, processes), "include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        _fail(f"Ray at {address or 'this machine'} cannot be used: {error}", FAILED)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _interruptible(console: Console) -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end training after the iteration under way, with a checkpoint; a second Ctrl-C ends it at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        console.print("Stopping after this iteration, with a checkpoint. Press Ctrl-C again to stop at once.")

    earlier = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Wrong input ends the command with its message, and nothing else."""
    from rllib_empathy.experiments.errors import CheckpointError, RunFolderError

    try:
        yield
    except (SettingError, CheckpointError, RunFolderError) as error:
        _fail(str(error), WRONG_INPUT)


def _fail(message: str, code: int) -> NoReturn:
    _console(stderr=True).print(message, style="red", soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(code)


def _console(stderr: bool = False) -> Console:
    return Console(stderr=stderr)


def _prepare() -> None:
    """Settings of this process, to be made before Ray and PyTorch are imported; the user's own come first."""
    # Networks are small: threads that share one product wait for each other longer than they compute.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray.rllib  # which sets its loggers' levels when it is imported

    # RLlib's notes on its own deprecations and API stacks are nothing to a user of ours.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for logger in (ray.__name__, ray.rllib.__name__):
        logging.getLogger(logger).setLevel(logging.ERROR)
