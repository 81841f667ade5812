"""A training run, iteration by iteration."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

from env_registry.parameters import SettingError
from rllib_empathy.experiments.experiment import Checkpoints, Experiment
from rllib_empathy.experiments.metrics_table import MetricsTable, Row, flat_metrics
from rllib_empathy.experiments.run_folder import RunFolder, iteration_of
from rllib_empathy.learning.config import EmpathyConfig


def train(
    experiment: Experiment, config: EmpathyConfig, folder: RunFolder, interrupted: Callable[[], bool] = lambda: False
) -> Iterator[Row]:
    """Trains until the experiment's stop rule holds; goes on from the folder's last checkpoint if it has one.

    Ray has to be running. Each row is in the folder's metrics before it is handed out.

    Args:
        experiment: when to stop and to save.
        config: built from it.
        folder: where everything goes.
        interrupted: asked after each iteration; training then saves and ends.

    Yields:
        The metrics of each iteration.

    Raises:
        SettingError: the run has reached its end already.
        NonFiniteError: rewards or gradients are not finite; the last checkpoint is good.
        OSError: the folder can no longer be written; the last checkpoint is good.
    """
    table = MetricsTable(folder.metrics)
    checkpoint = folder.last_checkpoint()
    last: Row = table.cut(iteration_of(checkpoint)) if checkpoint else {}
    if experiment.stop.progress(last) >= 1:
        raise SettingError(
            f"The run {folder.path} has reached its end ({experiment.stop.model_dump(exclude_defaults=True)}). To train on, "
            "raise that, for instance with --set stop.env_steps=2_000_000."
        )
    population, event_names = config.resolved_population(), config.make_world(1).event_names
    algorithm = config.build_algo()
    try:
        if checkpoint:
            algorithm.restore_from_path(str(checkpoint))
        begun = monotonic() - last.get("seconds", 0.0)
        saved = _Saved(experiment.checkpoint, iteration_of(checkpoint) if checkpoint else 0)
        done = False
        while not done:
            result = algorithm.train()
            row = flat_metrics(result, population, event_names, monotonic() - begun)
            table.append(row)
            yield row
            done = experiment.stop.progress(row) >= 1 or interrupted()
            if done or saved.is_due(int(row["iteration"])):
                folder.save_checkpoint(algorithm, int(row["iteration"]), experiment.checkpoint.keep)
                saved = _Saved(experiment.checkpoint, int(row["iteration"]))
    finally:
        algorithm.stop()
        with contextlib.suppress(OSError):
            Path(algorithm.logdir).rmdir()  # which RLlib makes in the home folder, and which stays empty


class _Saved:
    """When the last checkpoint was written, and whether the next is due."""

    def __init__(self, rule: Checkpoints, iteration: int) -> None:
        self.rule = rule
        self.iteration = iteration
        self.time = monotonic()

    def is_due(self, iteration: int) -> bool:
        by_iterations = self.rule.every_iterations is not None and (
            iteration - self.iteration >= self.rule.every_iterations
        )
        by_time = self.rule.every_seconds is not None and monotonic() - self.time >= self.rule.every_seconds
        return by_iterations or by_time
