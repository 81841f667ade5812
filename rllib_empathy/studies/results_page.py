"""The page of results: what papers say beside what came out here, written from the studies' folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import isnan
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from env_registry.parameters import SettingError
from rllib_empathy.experiments.run_folder import try_to_write, write_whole
from rllib_empathy.experiments.statistics import Estimate, iqm_estimate
from rllib_empathy.studies.finished import Finished

HEAD = """# Results

Written by `rllib-empathy reproduce` from the studies that have run; not by hand. Each number is the interquartile mean (IQM) over
seeds of the last tenth of training (of what is computed instead: over random starts or seeds of the end), with its 95 % bootstrap
interval. Returns are the world's own rewards, but for what is named `after_gifts`; other measures and the names of variants
are explained in [search](search.md#published-results). An expectation *holds* if the whole interval of its difference lies
where it is expected, *does not hold* if the whole interval lies elsewhere, and is *undecided* otherwise. An entry's verdict is on
the paper's claim: that of its worst expectation. Controls, questions of our own, are counted beside it. Entries are the files of
`tune_configs/reproduce`; `small` and `paper` are their scales.

All figures here are of the fast path, which has bootstrapped at time limits all along. On RLlib's own runners that has been
mended since; which figures that changed is told [there](rllib_users.md#time-limits-and-who-comes-back).

"""


def check_page(page: Path) -> None:
    """Makes the folders of the page and its pictures, and checks that both can be written, before hours are spent on them.

    Raises:
        SettingError: they cannot.
    """
    try:
        for folder in (page.parent, page.with_suffix("")):
            folder.mkdir(parents=True, exist_ok=True)
            try_to_write(folder)
        if page.exists():
            page.open("a").close()
    except OSError as error:
        raise SettingError(
            f"--page {page} cannot be written: {error.strerror or error}. Choose another place."
        ) from error


def write_page(page: Path, entries: Sequence[Finished]) -> None:
    """Writes the page, and the pictures beside it into a folder of the page's name.

    Raises:
        OSError: it cannot be written.
    """
    pictures = page.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    rows = ["| what | paper | ours | verdict |", "|---|---|---|---|"]
    sections = []
    for entry in entries:
        picture = pictures / f"{entry.reproduction.name}_{entry.reproduction.scale}.png"
        entry.draw(picture)
        rows.append(_row(entry))
        sections.append(_section(entry, f"{pictures.name}/{picture.name}"))
    write_whole(page, HEAD + "\n".join([*rows, "", *sections]))


def _row(entry: Finished) -> str:
    of = entry.reproduction.entry
    scores = entry.scores(entry.reproduction.metric)
    ours = ", ".join(f"{variant} {_number(iqm_estimate(values))}" for variant, values in scores.items())
    anchor = "".join(c for c in entry.title.lower().replace(" ", "-") if c.isalnum() or c in "-_")
    verdict = f"**{entry.verdict}**{_controls(entry)}"
    return f"| [{entry.title}](#{anchor}) | {of.claim} ({of.paper}, {of.figure}) | {ours} | {verdict} |"


def _controls(entry: Finished) -> str:
    found = sorted(Counter(verdict for _, verdict, _ in entry.controls).items())
    counts = ", ".join(f"{number} x {verdict}" for verdict, number in found)
    return f"; controls: {counts}" if counts else ""


def _comparisons(entry: Finished) -> list[list[str]]:
    """Rows: what is expected or asked, the difference, the verdict."""
    return [
        [f"{whose}{comparison}", _number(difference), verdict]
        for whose, judged in (("", entry.claims), ("control: ", entry.controls))
        for comparison, verdict, difference in judged
    ]


def _section(entry: Finished, picture: str) -> str:
    of, metric = entry.reproduction.entry, entry.reproduction.metric
    shown = {name: entry.scores(name) for name in (metric, *of.shows)}
    costs = entry.costs()
    columns = ["variant", *shown, *(["seeds", "env steps", "minutes a seed"] if costs else ["starts or seeds"])]
    rows = []
    for variant, values in shown[metric].items():
        numbers = [_number(iqm_estimate(scores[variant])) for scores in shown.values()]
        rows.append([variant, *numbers, *costs.get(variant, (str(len(values)),))])
    lines = [
        f"## {entry.title}",
        "",
        f"{of.paper}, {of.figure}: {of.claim}",
        "",
        f"![{metric}]({picture})",
        "",
        *_table(columns, rows),
        "",
        *_table(["expected", "difference", ""], _comparisons(entry)),
        "",
        f"`rllib-empathy reproduce {entry.reproduction.name} --scale {entry.reproduction.scale}`: {entry.source()}.",
        "",
    ]
    return "\n".join(lines)


def verdicts_table(entry: Finished) -> Table:
    """What has come of each expectation, for the terminal."""
    table = Table(title=f"{entry.title}: {entry.verdict}{_controls(entry)}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("expected")
    table.add_column("difference", justify="right")
    table.add_column("")
    for comparison, difference, verdict in _comparisons(entry):
        table.add_row(comparison, difference.replace("[", r"\["), verdict)
    return table


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)]


def _number(estimate: Estimate) -> str:
    if isnan(estimate.value):
        return "-"
    interval = "" if isnan(estimate.low) else f" [{estimate.low:.4g}, {estimate.high:.4g}]"
    return f"{estimate.value:.4g}{interval}"
