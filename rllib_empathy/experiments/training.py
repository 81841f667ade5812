"""A training run, iteration by iteration."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

from ray.exceptions import RayActorError, RayError

from env_registry.failures import ProgramError
from env_registry.parameters import SettingError
from rllib_empathy.experiments.experiment import Checkpoints, Experiment
from rllib_empathy.experiments.metrics_table import MetricsTable, Row, flat_metrics, read_metrics, rows_until
from rllib_empathy.experiments.run_folder import RunFolder, iteration_of
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.learning.faults import ClusterFault

logger = logging.getLogger(__name__)

MOST_VAIN_ATTEMPTS = 3
"""How often a run is taken up from the same checkpoint before it is given up."""


class TrainingRun:
    """A run under way: what is in its folder is taken up, each iteration is written there.

    Args:
        experiment: when to stop and to save.
        config: built from it.
        folder: where everything goes; the run goes on from its last checkpoint if it has one.
    """

    def __init__(self, experiment: Experiment, config: EmpathyConfig, folder: RunFolder) -> None:
        self.experiment = experiment
        self.config = config
        self.folder = folder
        self._table = MetricsTable(folder.metrics)
        self._checkpoint = folder.last_checkpoint()
        saved = iteration_of(self._checkpoint) if self._checkpoint else 0
        self.row: Row = {}
        """The last iteration's metrics; empty before the first."""
        self._resumes = 0
        if folder.metrics.exists():
            self._resumes = 1 + int(read_metrics(folder.metrics).get("resumes", [0])[-1])
            self.row = self._table.cut(saved)

    @property
    def finished(self) -> bool:
        """Whether the stop rule holds."""
        return self.experiment.stop.progress(self.row) >= 1

    def start(self) -> None:
        """Builds the algorithm and restores the last checkpoint. Ray has to be running."""
        # Places were looked for when the run began. One that is lost later may come back, and is waited for.
        self._algorithm = self.config.build_algo(check_places=False)
        if self._checkpoint:
            self._algorithm.restore_from_path(str(self._checkpoint))
        self._population, self._event_names = self.config.resolved_population(), self.config.make_world(1).event_names
        self._begun = monotonic() - self.row.get("seconds", 0.0)
        self._saved = _Saved(self.experiment.checkpoint, int(self.row.get("iteration", 0)))

    def step(self) -> Row:
        """Trains for one iteration, writes its metrics, and saves where it is time to.

        Raises:
            NonFiniteError: rewards or gradients are not finite; the last checkpoint is good.
            OSError: the folder can no longer be written; the last checkpoint is good.
        """
        result = self._algorithm.train()
        seconds = monotonic() - self._begun
        self.row = flat_metrics(result, self._population, self._event_names, seconds, self._resumes)
        self._table.append(self.row)
        if self.finished or self._saved.is_due(int(self.row["iteration"])):
            self.save()
        return self.row

    def save(self) -> None:
        """Saves the state after the last iteration, unless that is done.

        Raises:
            OSError: it cannot be written; the last checkpoint is good.
        """
        iteration = int(self.row.get("iteration", 0))
        if iteration > self._saved.iteration:
            self.folder.save_checkpoint(self._algorithm, iteration, self.experiment.checkpoint.keep)
            self._saved = _Saved(self.experiment.checkpoint, iteration)

    def take_over(self, checkpoint: Path) -> None:
        """Goes on from the state of another run, whose networks are alike. Of this run's metrics those stay that are older.

        Args:
            checkpoint: the other run's.

        Raises:
            OSError: this run's folder cannot be written.
        """
        iteration = iteration_of(checkpoint)
        self._algorithm.restore_from_path(str(checkpoint))
        self.folder.remove_checkpoints(after=iteration)
        self.row = {**self._table.cut(iteration), "iteration": iteration}
        self.folder.save_checkpoint(self._algorithm, iteration, self.experiment.checkpoint.keep)
        self._saved = _Saved(self.experiment.checkpoint, iteration)

    def close(self) -> None:
        """Ends the algorithm's processes."""
        self._algorithm.stop()
        with contextlib.suppress(OSError):
            Path(self._algorithm.logdir).rmdir()  # which RLlib makes in the home folder, and which stays empty


def check_goes_on(experiment: Experiment, folder: RunFolder) -> None:
    """Checks that a run has something left to do. Nothing is changed.

    Raises:
        SettingError: it has reached its end already.
    """
    last = folder.last_checkpoint()
    rows = rows_until(folder.metrics, iteration_of(last) if last else 0) if folder.metrics.exists() else []
    if experiment.stop.progress(rows[-1] if rows else {}) >= 1:
        raise SettingError(
            f"The run {folder.path} has reached its end ({experiment.stop.model_dump(exclude_defaults=True)}). To train on, "
            f"raise that: rllib-empathy train --resume {folder.path} --set stop.env_steps=2_000_000."
        )


def train(
    experiment: Experiment, config: EmpathyConfig, folder: RunFolder, interrupted: Callable[[], bool] = lambda: False
) -> Iterator[Row]:
    """Trains until the experiment's stop rule holds; goes on from the folder's last checkpoint if it has one.

    Where a Learner dies, or all runners do, training is taken up again from the last checkpoint.

    Ray has to be running. Each row is in the folder's metrics before it is handed out.

    Args:
        experiment: when to stop and to save.
        config: built from it.
        folder: where everything goes.
        interrupted: asked after each iteration; training then saves and ends.

    Yields:
        The metrics of each iteration; iterations that have to be repeated after a fault come again.

    Raises:
        SettingError: the run has reached its end already.
        NonFiniteError: rewards or gradients are not finite; the last checkpoint is good.
        ProgramError: code of a user's raised an exception; what had been learned before it has been saved.
        OSError: the folder can no longer be written; the last checkpoint is good.
        ClusterFault: the cluster failed time and again.
    """
    faults: list[Path | None] = []  # the checkpoint from which each vain attempt began
    while True:
        try:
            yield from _train(experiment, config, folder, interrupted)
            return
        except (ClusterFault, RayActorError) as fault:  # noqa: PERF203
            checkpoint = folder.last_checkpoint()
            faults = [*(before for before in faults if before == checkpoint), checkpoint]
            if len(faults) > MOST_VAIN_ATTEMPTS:
                raise ClusterFault(f"{fault} This is the {len(faults)}th time without a new checkpoint.") from fault
            where = f"checkpoint {checkpoint.name}" if checkpoint else "the beginning, since there is no checkpoint yet"
            logger.warning("%s Training goes on from %s.", fault, where)


def _train(
    experiment: Experiment, config: EmpathyConfig, folder: RunFolder, interrupted: Callable[[], bool]
) -> Iterator[Row]:
    check_goes_on(experiment, folder)
    run = TrainingRun(experiment, config, folder)
    run.start()
    try:
        while not (run.finished or interrupted()):
            yield run.step()
        run.save()
    except (ProgramError, SettingError):  # of the world or an agent, amid training
        with contextlib.suppress(ClusterFault, RayError, OSError):
            run.save()
        raise
    finally:
        run.close()


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
