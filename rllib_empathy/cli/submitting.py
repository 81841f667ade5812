"""`rllib-empathy submit`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from env_registry.parameters import SettingError
from rllib_empathy.cli.common import FAILED, clear_errors, fail, prepare, terminal

if TYPE_CHECKING:
    from rllib_empathy.cluster.needs import Needs


def submit(
    experiment: Annotated[
        str, typer.Argument(help="A file in the working directory, or the name of an experiment of the package.")
    ],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Set a key, as in `train`. Repeatable.")] = None,
    cluster: Annotated[
        Path | None,
        typer.Option(help="A cluster's definition, cluster/on_prem.yaml for instance; goes there through ssh."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Of a cluster's dashboard, http://HOST:8265.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="Where results go: a folder that all nodes see, or s3://..., gs://...; default: the head."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where results are fetched to.")] = Path("runs"),
    run: Annotated[
        str | None, typer.Option(help="Name of the run; one that exists goes on from its last checkpoint.")
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            help="MLflow store as the cluster reaches it, or 'off'; default: the server that the cluster's definition starts."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and what it needs, and check it.")] = False,
) -> None:
    """Run an experiment on a cluster: send it, follow its log, fetch its results."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # which Ray reads when it is imported
    prepare()
    from rllib_empathy.cluster import submission
    from rllib_empathy.cluster.capacity import capacity_of, check_fits
    from rllib_empathy.cluster.needs import needs_of
    from rllib_empathy.experiments.building import build_config
    from rllib_empathy.experiments.experiment import find_experiment, load_experiment
    from rllib_empathy.experiments.run_folder import check_run_name
    from rllib_empathy.tracking.store import check_form

    with clear_errors():
        if run is not None:
            check_run_name(run)
        if mlflow is not None:
            check_form(mlflow)
        settings = load_experiment(experiment, overrides or [])
        needs = needs_of(build_config(settings))
        if cluster is not None:
            check_fits(needs.bundles(), capacity_of(cluster), str(cluster), "allow more nodes there")
        run = run or datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        inside = _inside(find_experiment(experiment), experiment)
        command = submission.entrypoint(inside, overrides or [], run, storage, mlflow)
        console = terminal()
        console.print(plan_table(settings.name, needs))
        console.print(f"command: {command}", soft_wrap=True, highlight=False)
        if dry_run:
            return
        if (cluster is None) == (address is None):
            raise SettingError("Say where to: --cluster DEFINITION or --address http://HOST:8265, not both.")
        with submission.tunnel(cluster) if cluster else nullcontext(address) as reached:
            client = submission.connect(str(reached))
            job = submission.submit(client, command, Path.cwd())
            console.print(f"job: {job}; stop it with: ray job stop {job}", soft_wrap=True, highlight=False)
            succeeded = submission.follow(client, job, lambda text: typer.echo(text, nl=False))
        fetched = submission.fetch(settings.name, run, out, cluster, storage)
        where = fetched or storage or f"{submission.HEAD_FOLDER} on the head"
        console.print(f"results: {where}", soft_wrap=True, highlight=False)
        if not succeeded:
            fail(f"The job {job} failed; its log is above. Go on with the same command and --run {run}.", FAILED)


def plan_table(name: str, needs: Needs) -> Table:
    """What runs where, and what it needs."""
    table = Table(title=f"{name} on a cluster")
    for column in ("process", "count", "each needs", "memory of each"):
        table.add_column(column, justify="right" if column == "count" else "left")
    for group in needs.processes:
        resources = ", ".join(f"{amount:g} {resource}" for resource, amount in group.resources.items())
        table.add_row(group.what, str(group.count), resources or "the head", f"{group.memory / 2**30:.1f} GiB")
    table.caption = (
        f"{needs.env_steps:,} env steps an iteration, {needs.bytes_per_env_step:,.0f} bytes each; object stores hold up to "
        f"{needs.object_store / 2**20:,.0f} MiB of them in all"
    )
    return table


def _inside(file: Path, experiment: str) -> str:
    """How the experiment is called on the cluster.

    Raises:
        SettingError: it lies outside of what is sent.
    """
    if not Path(experiment).is_file():
        return experiment
    try:
        return file.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        raise SettingError(
            f"The experiment {str(file)!r} is not in the working directory, which is what is sent to the cluster. Copy it there, "
            "or go to its folder."
        ) from None
