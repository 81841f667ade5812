"""`rllib-empathy reproduce`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from rllib_empathy.cli.common import (
    FAILED,
    INTERRUPTED,
    MlflowStore,
    WaitForNodes,
    clear_errors,
    disk_errors,
    fail,
    prepare,
    terminal,
)
from rllib_empathy.cli.tuning import run_study


class Scale(str, Enum):
    """How long the studies take."""

    small = "small"
    paper = "paper"


def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="An entry of the catalogue, a file like those, or 'all'. Default: list them.")
    ] = None,
    scale: Annotated[Scale, typer.Option(help="small: for two cores; paper: what a cluster runs.")] = Scale.small,
    out: Annotated[Path, typer.Option(help="Folder of the studies.")] = Path("runs/reproduce"),
    page: Annotated[Path, typer.Option(help="The page of results; pictures go beside it.")] = Path("docs/results.md"),
    again: Annotated[bool, typer.Option(help="Run a study anew that has been run.")] = False,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster; default: start one here.")
    ] = None,
    wait: WaitForNodes = 600,
    mlflow: MlflowStore = None,
) -> None:
    """Run the study of a published result, and write numbers, intervals and verdict on the page of results.

    A study that was cut off goes on, and trials that failed are tried again; one that is finished is only written on the page.
    Where an entry or a default was changed, trials that have been run with just the same settings are taken over.
    """
    prepare()
    from rllib_empathy.studies.catalogue import catalogue, load_reproduction, trials_to_reproduce
    from rllib_empathy.studies.finished import finished, is_done, last_study, run_analysis, studies
    from rllib_empathy.studies.results_page import check_page, verdicts_table, write_page
    from rllib_empathy.studies.study_folder import StudyFolder
    from rllib_empathy.tracking.store import store_uri

    with clear_errors():
        console = terminal()
        if name is None:
            for known in catalogue():
                console.print(f"{known:32}{load_reproduction(known, 'small').entry.title}", highlight=False)
            return
        wanted = [load_reproduction(entry, scale.value) for entry in (catalogue() if name == "all" else [name])]
        trials_of = {found.name: trials_to_reproduce(found) for found in wanted if found.experiment}
        todo = [found for found in wanted if again or not is_done(out, found, trials_of.get(found.name, []))]
        check_page(page)
        uri = store_uri(mlflow, out)
        failed = []
        begun: set[str] = set()  # studies that this call has run, and that several entries may show
        for reproduction in todo:
            if reproduction.experiment is None:
                with disk_errors(f"What was computed for {reproduction.name} cannot be written"):
                    run_analysis(out, reproduction)
                continue
            if reproduction.experiment.name in begun:
                continue
            begun.add(reproduction.experiment.name)
            trials = trials_of[reproduction.name]
            before = [] if again else studies(out, reproduction)
            folder = None if again else last_study(out, reproduction, trials)
            folder = folder or StudyFolder.create(out, reproduction.experiment, trials)
            for earlier in before:
                if earlier.path != folder.path:
                    folder.take_over(trials, earlier)
            results = run_study(reproduction.experiment, trials, folder, address, wait, uri)
            if results.that("unfinished"):
                fail("Stopped before the end. The same command goes on.", INTERRUPTED)
            failed += [f"  - {folder.path / trial.name}: {trial.error}" for trial in results.that("failed")]
        every = [load_reproduction(entry, size.value) for entry in catalogue() for size in Scale]
        every += [found for found in wanted if found.name not in catalogue()]
        there = [found for found in (finished(out, reproduction) for reproduction in every) if found]
        with disk_errors(f"{page} cannot be written", "The same command writes it again, and runs nothing."):
            write_page(page, there)
        for entry in there:
            if entry.reproduction in wanted:
                console.print(verdicts_table(entry))
        console.print(f"results: {page}", soft_wrap=True, highlight=False)
        if failed:
            fail("\n".join([f"{len(failed)} trials failed:", *failed, "The same command tries them again."]), FAILED)
