"""The page: everything inside one HTML file, which needs no network and no scripts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from env_registry.grid import agent_colours
from rllib_empathy.experiments.between_agents import PARTS
from rllib_empathy.experiments.curves import COLOURS
from rllib_empathy.experiments.metrics_table import is_outcome, labels
from rllib_empathy.experiments.statistics import Estimate
from rllib_empathy.report.replay import animation, play_episode
from rllib_empathy.report.runs import Group, Run, group_runs, read_runs
from rllib_empathy.report.svg import Curve, gift_graph, line_chart, matrix, number
from rllib_empathy.sampling.episodes import SOCIAL

MATRICES = {
    "gift_share": "share of its reward that the row gives to the column, where it has one",
    "gift_amount": "reward that the row gives to the column, per step",
    "influence": "value influence of the row on the column, per step; near 0 where agents act as they used to",
    "influence_std": "its deviation over steps: how much the row's choices matter to the column",
    "balance": "what the column has done for the row so far in an episode, less what the row has done for it",
    "relationship": "how much the column's actions did for the row, by its own inference (from -1 to 1)",
}
"""What is shown first, and how it is read; all else that is logged between agents follows under its name."""

LEFT_OUT = ("no_relationship",)
"""Matrices that are not."""

NOT_DRAWN = ("efficiency", "equality_defined", "sustainability")
"""Outcomes in the table only: curves like those of others."""


def write_report(runs: Sequence[str | Path], path: Path, replay: bool = True, seed: int = 0) -> None:
    """Writes the report on some runs.

    Args:
        runs: run folders, or folders of studies for their trials (see `read_runs`). Runs that differ by nothing but their seed
            are shown together.
        path: of the page.
        replay: whether to play and show an episode of each experiment, for which a checkpoint is needed.
        seed: of that episode.

    Raises:
        RunFolderError: a run or study cannot be read.
        CheckpointError: a run's checkpoint is missing or damaged.
        SettingError: a world does not play an episode again as it was played (see `play_episode`).
        OSError: the page cannot be written.
    """
    groups = group_runs(read_runs(runs))
    sections = [_comparison(groups)]
    for group in groups:
        episode = _replay(group, seed) if replay else ""
        sections.append(_experiment(group, episode, several=len(groups) > 1))
    sections.append(_sources(groups))
    title = ", ".join(group.name.replace("_", " ") for group in groups)
    path.write_text(_PAGE.format(title=escape(title), style=_STYLE, body="".join(sections)), encoding="utf-8")


# -- all experiments


def _comparison(groups: Sequence[Group]) -> str:
    """Title, what happened in a few words, curves and social metrics."""
    worlds = sorted({group.experiment.environment.replace("_", " ") for group in groups})
    count = sum(len(group.runs) for group in groups)
    title = " and ".join(group.name.replace("_", " ") for group in groups)
    lead = f"{', '.join(worlds)} · {count} run{'s' if count > 1 else ''}"
    facts = "".join(f"<li>{fact}</li>" for group in groups for fact in _facts(group, len(groups) > 1))
    legend = ""
    if len(groups) > 1:
        names = (
            f'<span><i style="background:{_colour(g)}"></i>{escape(group.name)}</span>'
            for g, group in enumerate(groups)
        )
        legend = f'<p class="legend">{"".join(names)}</p>'
    note = "Mean over episodes, smoothed"
    if any(len(group.runs) > 1 for group in groups):
        note = "Interquartile mean over seeds with its 95 % bootstrap interval"
    return (
        f'<header><p class="lead">{escape(lead)}</p><h1>{escape(title)}</h1><ul class="facts">{facts}</ul></header>'
        f'{_first_looks(groups)}<section><h2>Learning curves</h2><p class="note">{note}, by env steps.</p>{legend}'
        f'<div class="charts">{"".join(_charts(groups))}</div></section>{_social_table(groups)}'
    )


def _first_looks(groups: Sequence[Group]) -> str:
    """Who gives what to whom, of every experiment in which somebody gives."""
    return "".join(_gifts(group, len(groups) > 1) for group in groups if "gift_amount" in group.matrices(1))


def _facts(group: Group, several: bool) -> list[str]:
    """What a reader should know first."""
    first, last = (estimate.value for estimate in group.first_and_last("group_return"))
    prefix = f"<b>{escape(group.name)}</b>: " if several else ""
    facts = [f"{prefix}The group's return went from {number(first)} to <b>{number(last)}</b> per episode."]
    amounts = group.gifts
    if amounts is None:
        return facts
    if not np.abs(amounts).max() > 0:
        return [*facts, f"{prefix}Nobody gave anything to anybody."]
    giver, taker = np.unravel_index(np.abs(amounts).argmax(), amounts.shape)
    facts.append(
        f"{prefix}The largest gift: <b>{escape(group.agents[giver])}</b> gives <b>{escape(group.agents[taker])}</b> "
        f"{number(float(amounts[giver, taker]))} per episode."
    )
    net = amounts.sum(0) - amounts.sum(1)
    best, worst = int(net.argmax()), int(net.argmin())
    facts.append(
        f"{prefix}Gifts leave <b>{escape(group.agents[best])}</b> {_signed(net[best])} and "
        f"<b>{escape(group.agents[worst])}</b> {_signed(net[worst])} per episode."
    )
    before, after = group.last("equality"), group.last("equality_after_gifts")
    if np.isfinite(before) and np.isfinite(after):
        facts.append(f"{prefix}Equality is {number(before)} before gifts and <b>{number(after)}</b> after them.")
    return facts


def _charts(groups: Sequence[Group]) -> list[str]:
    charts = []
    for column in _outcomes(groups):
        if column in NOT_DRAWN:
            continue
        curves = []
        for g, group in enumerate(groups):
            curve = group.curve(column)
            if curve is not None:
                curves.append(Curve(group.name, _colour(g), *curve))
        if curves:
            charts.append(line_chart(_in_words(column), curves))
    return charts


def _outcomes(groups: Sequence[Group]) -> list[str]:
    """All columns of outcomes of all experiments: social metrics in their order, then measures of cooperation."""
    ordered = ("group_return", "equality", "equality_after_gifts", *SOCIAL, "peace")
    found = {column for group in groups for run in group.runs for column in run.metrics if is_outcome(column)}
    return [column for column in dict.fromkeys([*ordered, *sorted(found)]) if column in found | {"group_return"}]


def _social_table(groups: Sequence[Group]) -> str:
    head = "".join(f'<th colspan="2">{escape(group.name)}</th>' for group in groups)
    sub = "<th>first tenth</th><th>last tenth</th>" * len(groups)
    rows = []
    for column in _outcomes(groups):
        cells = []
        for group in groups:
            pair = group.first_and_last(column) if group.has(column) else None
            cells += ["<td>&ndash;</td>"] * 2 if pair is None else [f"<td>{_estimate(each)}</td>" for each in pair]
        rows.append(f"<tr><th>{_in_words(column)}</th>{''.join(cells)}</tr>")
    return (
        '<section><h2>Social metrics</h2><p class="note">Means over episodes of the world\'s own rewards; with several seeds, '
        "interquartile means and their 95 % intervals.</p>"
        f"<table><thead><tr><th></th>{head}</tr><tr><th></th>{sub}</tr></thead><tbody>{''.join(rows)}</tbody></table></section>"
    )


# -- one experiment


def _experiment(group: Group, episode: str, several: bool) -> str:
    title = f'<h2 class="part">{escape(group.name.replace("_", " "))}</h2>' if several else ""
    return f"{title}{episode}{_labour(group)}{_matrices(group)}"


def _gifts(group: Group, several: bool) -> str:
    """The graph of gifts and, beside it, what they did to each agent."""
    amounts = group.gifts
    assert amounts is not None
    colours = _agents_colours(group)
    own = np.array([group.last(f"agent_return/{agent}") for agent in range(len(group.agents))])
    gave, got = amounts.sum(1), amounts.sum(0)
    rows = []
    for agent, name in enumerate(group.agents):
        net = got[agent] - gave[agent]
        rows.append(
            f'<tr><th><i style="background:{colours[agent]}"></i>{escape(name)}</th><td>{number(own[agent])}</td>'
            f"<td>{number(gave[agent])}</td><td>{number(got[agent])}</td>"
            f'<td class="{"plus" if net > 0 else "minus" if net < 0 else ""}">{_signed(net)}</td>'
            f"<td><b>{number(own[agent] + net)}</b></td></tr>"
        )
    notes = [f"{number(own[agent])} → {number(own[agent] + got[agent] - gave[agent])}" for agent in range(len(own))]
    name = f" · {escape(group.name)}" if several else ""
    return (
        f'<section><h2>Who gives what to whom{name}</h2><p class="note">Per episode at the end of training. Arrows are as '
        "wide as gifts are large; below each agent, what it earned and what it has after gifts.</p>"
        f'<div class="gifts">{gift_graph(amounts, group.agents, notes, colours)}'
        "<table><thead><tr><th>agent</th><th>earned</th><th>gave</th><th>received</th><th>net</th><th>has</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _replay(group: Group, seed: int) -> str:
    episode = play_episode(group.runs[0].path, seed)
    picture = base64.b64encode(animation(episode, group.agents, _agents_colours(group))).decode()
    gifts = " Beside it: the gifts of the last steps, fading." if episode.gifts.any() else ""
    return (
        f'<section><h2>One episode</h2><p class="note">{escape(group.name)}, the median of a few by group return, played by '
        f'the last checkpoint.{gifts}</p><img class="replay" alt="One episode as an animation" '
        f'src="data:image/gif;base64,{picture}"></section>'
    )


def _labour(group: Group) -> str:
    """Events per agent, as bars."""
    events = [name.removeprefix("events/") for name in group.runs[0].metrics if name.startswith("events/")]
    if not events:
        return ""
    colours, blocks = _agents_colours(group), []
    for event in events:
        counts = [group.last(f"agent_events/{event}/{agent}") for agent in range(len(group.agents))]
        largest = max((count for count in counts if np.isfinite(count)), default=0) or 1
        bars = "".join(
            f'<div class="bar"><span>{escape(name)}</span><i style="width:{max(0.0, 180 * count / largest):.0f}px;'
            f'background:{colour}"></i><b>{number(count)}</b></div>'
            for name, count, colour in zip(group.agents, counts, colours, strict=True)
        )
        blocks.append(f"<div><h3>{_in_words(event)}</h3>{bars}</div>")
    return (
        "<section><h2>Division of labour</h2>"
        '<p class="note">How often each agent did what, per episode at the end of training.</p>'
        f'<div class="labour">{"".join(blocks)}</div></section>'
    )


def _matrices(group: Group) -> str:
    """What agents are to each other, over the run."""
    found = {
        name: values
        for name, values in group.matrices(PARTS).items()
        if name in MATRICES or (name.partition("/")[0] not in LEFT_OUT and not name.endswith(("_std", "_count")))
    }
    ordered = [name for name in MATRICES if name in found] + [name for name in found if name not in MATRICES]
    blocks = []
    for name in ordered:
        values = found[name]
        largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
        pictures = [
            matrix(values[part], group.agents, largest, f"{100 * part // PARTS} to {100 * (part + 1) // PARTS} %")
            for part in range(PARTS)
        ]
        blocks.append(
            f'<h3>{_in_words(name)}</h3><p class="note">{escape(MATRICES.get(name, "row and column are agents"))}</p>'
            f'<div class="matrices">{"".join(pictures)}</div>'
        )
    if not blocks:
        return ""
    return f"<section><h2>Between agents, in fifths of training</h2>{''.join(blocks)}</section>"


def _sources(groups: Sequence[Group]) -> str:
    rows = [
        f"<tr><th>{escape(group.name)}</th><td>{run.experiment.seed}</td><td>{int(run.metrics['env_steps'][-1]):,}</td>"
        f"<td>{escape(', '.join(labels(group.population)))}</td><td>{escape(_folder(run))}</td></tr>"
        for group in groups
        for run in group.runs
    ]
    return (
        '<section><h2>Runs</h2><table class="left"><thead><tr><th>experiment</th><th>seed</th><th>env steps</th><th>agents</th>'
        f"<th>folder</th></tr></thead><tbody>{''.join(rows)}</tbody></table></section>"
    )


def _folder(run: Run) -> str:
    """Where a run is, and why this one if its study tried several settings."""
    chosen = f" (the best of {run.best_of} settings)" if run.best_of > 1 else ""
    return f"{run.path.parent.name}/{run.path.name}{chosen}"


def _agents_colours(group: Group) -> list[str]:
    """The colours in which worlds draw the agents, a little darker for text and arrows."""
    return ["#" + "".join(f"{round(0.85 * int(c)):02x}" for c in colour) for colour in agent_colours(len(group.agents))]


def _colour(number_of_group: int) -> str:
    return COLOURS[number_of_group % len(COLOURS)]


def _estimate(estimate: Estimate) -> str:
    text = number(estimate.value)
    if np.isfinite(estimate.low):
        text += f" <small>[{number(estimate.low)}, {number(estimate.high)}]</small>"
    return text


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def _in_words(column: str) -> str:
    name, _, detail = column.partition("/")
    words = detail if name == "cooperation" else f"{name} {detail}".strip()
    return escape(words.replace("_", " ").replace("/", ": "))


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{title}</title><style>{style}</style></head><body><main>{body}</main></body></html>
"""

_STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0; background: #fafbfc; color: #1f2933;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 40px 28px 64px }
h1 { font-size: 32px; line-height: 1.2; font-weight: 650; letter-spacing: -0.01em; margin: 0 0 14px }
h2 { font-size: 19px; font-weight: 650; margin: 0 0 2px }
h2.part { font-size: 26px; margin: 44px 0 14px }
h3 { font-size: 15px; font-weight: 600; margin: 20px 0 0 }
.lead { color: #7b8794; margin: 0 0 2px }
.note { color: #7b8794; font-size: 13.5px; margin: 0 0 12px }
.facts { list-style: none; margin: 0 0 26px; padding: 0; font-size: 17px; line-height: 1.7 }
section { background: #fff; border: 1px solid #e4e7eb; border-radius: 10px; padding: 22px 26px; margin: 0 0 20px;
  overflow-x: auto }
.charts, .matrices, .labour { display: flex; flex-wrap: wrap; gap: 18px 20px }
.labour { gap: 8px 60px }
.gifts { display: flex; flex-wrap: wrap; gap: 24px 44px; align-items: center }
.legend { margin: 0 0 10px; font-size: 13.5px }
.legend span { margin-right: 18px }
.legend i, th i { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 7px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 6px 14px 6px 0; text-align: right; border-bottom: 1px solid #eef0f3 }
th { font-weight: 500; color: #52606d }
th:first-child, table.left th, table.left td { text-align: left }
tbody th { color: #1f2933 }
td small { color: #9aa5b1 }
.plus { color: #1b7a43 } .minus { color: #b54708 }
.bar { display: flex; align-items: center; gap: 10px; margin: 5px 0; font-size: 13.5px }
.bar span { width: 110px } .bar i { height: 13px; border-radius: 3px; min-width: 1px } .bar b { font-weight: 500 }
.replay { max-width: 100%; border-radius: 6px }
svg { font-family: inherit; display: block }
svg .title { font-size: 13.5px; font-weight: 600; fill: #1f2933 } svg .caption { font-size: 12px; fill: #7b8794 }
svg .tick { font-size: 11.5px; fill: #7b8794 } svg .cell { font-size: 11px }
svg .curve { fill: none; stroke-width: 2.2; stroke-linejoin: round }
svg .node { font-size: 17px; font-weight: 650; fill: #fff } svg .name { font-size: 13px; font-weight: 600; fill: #1f2933 }
svg .gift { font-size: 12px; font-weight: 600; fill: #1f2933 }
svg .halo { paint-order: stroke; stroke: #fff; stroke-width: 4px }
@media print { section { break-inside: avoid } body { background: #fff } }
"""
