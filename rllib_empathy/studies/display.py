"""A study in the terminal while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf
from time import monotonic
from typing import Any

from rich.console import Console

from rllib_empathy.experiments.display import ProgressBar, clock
from rllib_empathy.studies.study_folder import Outcome, StudyFolder
from rllib_empathy.studies.trainable import SCORE
from rllib_empathy.studies.trials import Trial
from rllib_empathy.studies.tuning import Watcher


class StudyProgress(Watcher, ProgressBar):
    """A bar over all trials, and a line for each one that has ended.

    Args:
        console: where it is shown.
        trials: all of them.
        folder: the study's, whose trials may have ended already.
    """

    def __init__(self, console: Console, trials: Sequence[Trial], folder: StudyFolder) -> None:
        ProgressBar.__init__(self, console, "trials are being started", total=len(trials))
        self._stops = {trial.name: trial.experiment.stop for trial in trials}
        # Trials that failed are tried again.
        self._ended = {name for name, outcome in folder.outcomes().items() if outcome.ended != "failed"}
        self._shares = {name: float(name in self._ended) for name in self._stops}
        self._begun, self._share_then = monotonic(), sum(self._shares.values())

    def on_result(self, trial: str, result: dict[str, Any]) -> None:
        self._shares[trial] = self._stops[trial].progress(result)
        done = sum(self._shares.values())
        running = sum(0 < share < 1 for share in self._shares.values())
        parts = [f"{len(self._ended)} of {len(self._stops)} trials ended", f"{running} running"]
        if done > self._share_then:
            left = (monotonic() - self._begun) * (len(self._stops) - done) / (done - self._share_then)
            parts.append(f"{clock(left)} left")
        self.show(done, " | ".join(parts))

    def on_end(self, outcome: Outcome, result: dict[str, Any]) -> None:
        if outcome.trial in self._ended:  # in an earlier call, or in another study
            return
        self._shares[outcome.trial] = 1.0
        self._ended.add(outcome.trial)
        line = f"{outcome.trial}: {outcome.ended}"
        if outcome.error:
            line += f", {outcome.error.splitlines()[0]}"
        elif result:
            score = result[SCORE]
            shown = "no episode has ended" if isinf(score) else f"{score:.2f}"
            line += f", {shown} after {result['env_steps']:,} env steps, {clock(result['seconds'])}"
        self.console.print(
            f"[{len(self._ended)}/{len(self._stops)}] {line}", soft_wrap=True, highlight=False, markup=False
        )
