"""A short experiment on a small cluster of this machine, in which processes and nodes are killed at random.

python -m benchmarks.faults --kills 10
python -m benchmarks.faults --kills 0 --games 2500   # trajectories of an iteration do not fit into an object store
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from rich.console import Console

from rllib_empathy.experiments.metrics_table import read_metrics
from rllib_empathy.experiments.run_folder import RunFolder

STEPS, RUNNERS = 20, 3
"""Of a fragment; runners."""

OBJECT_STORE = 80 * 2**20
"""Bytes on each node; Ray allows hardly less."""

EXPERIMENT = {
    "env_runners.num_env_runners": RUNNERS,
    "env_runners.rollout_fragment_length": STEPS,
    "training.network.hidden": "[16]",
    "checkpoint.every_iterations": 2,
    "checkpoint.keep": 2,
}


class Trial:
    """One experiment on one cluster, and the means to disturb it.

    Args:
        folder: where everything goes.
        iterations: after which it ends.
        learners: remote Learners; 0: the driver learns.
        games: of each runner.
    """

    def __init__(self, folder: Path, iterations: int, learners: int = 0, games: int = 8) -> None:
        from ray.cluster_utils import Cluster

        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # machines that are busy take their time
        self.iterations, self.games = iterations, games
        self.folder = RunFolder(folder / "quickstart" / "trial")
        self._cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": max(1, learners), "object_store_memory": OBJECT_STORE}
        )
        self._workers = [self._add_node() for _ in range(2)]
        settings = {
            **EXPERIMENT,
            "env_runners.num_envs_per_env_runner": games,
            "stop": f"{{iterations: {iterations}}}",
            "learners.num_learners": learners,
        }
        overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        self._log = (folder / "log").open("w")
        self._driver = subprocess.Popen(
            [
                *(sys.executable, "-m", "rllib_empathy.cluster.driver", "quickstart", *overrides),
                *("--out", str(folder), "--run", "trial", "--address", self._cluster.address),
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def close(self) -> None:
        """Ends whatever still runs."""
        self._driver.terminate()
        try:
            self._driver.wait(30)
        except subprocess.TimeoutExpired:
            self._driver.kill()
        self._log.close()
        self._cluster.shutdown()

    def iteration(self) -> int:
        """The last iteration in the metrics."""
        try:
            rows = read_metrics(self.folder.metrics)
        except (FileNotFoundError, StopIteration):
            return 0
        return int(rows["iteration"][-1]) if "iteration" in rows else 0

    def wait_for(self, reached: Callable[[], bool], what: str, seconds: float = 180) -> None:
        """Waits, but not for ever.

        Raises:
            TimeoutError: it did not come.
        """
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline or (self._driver.poll() is not None and not reached()):
                said = Path(self._log.name).read_text()[-1500:]
                raise TimeoutError(f"{what} did not come; the driver's code is {self._driver.poll()}; it said {said}")
            time.sleep(0.2)

    def finish(self, seconds: float = 300) -> int:
        """The driver's exit code."""
        return self._driver.wait(seconds)

    def kill_runner(self) -> None:
        """Kills a process that samples."""
        self._kill("ray::JointEnvRunner")

    def kill_learner(self) -> None:
        """Kills a process that learns."""
        self._kill("ray::_WrappedExecutable")

    def kill_driver(self) -> None:
        """Kills the process that trains; the one that watches it stays."""
        children = psutil.Process(self._driver.pid).children()
        if children:
            children[0].send_signal(signal.SIGKILL)

    def kill_node(self) -> None:
        """Kills a worker node without a warning; another one joins later."""
        self._cluster.remove_node(self._workers.pop(0), allow_graceful=False)
        self._workers.append(self._add_node())

    def _add_node(self) -> Any:
        return self._cluster.add_node(num_cpus=2, object_store_memory=OBJECT_STORE)

    def _kill(self, *titles: str) -> None:
        raylets = [node.all_processes["raylet"][0].process.pid for node in self._cluster.list_all_nodes()]
        found = [
            child
            for raylet in raylets
            for child in psutil.Process(raylet).children(recursive=True)
            if " ".join(child.cmdline()).startswith(titles)
        ]
        if found:
            random.choice(found).send_signal(signal.SIGKILL)


def check(trial: Trial) -> dict[str, float]:
    """What the metrics of a finished trial say.

    Raises:
        AssertionError: steps were lost or counted twice.
    """
    rows = read_metrics(trial.folder.metrics)
    np.testing.assert_array_equal(rows["iteration"], np.arange(1, trial.iterations + 1))
    steps = np.diff(rows["env_steps"], prepend=0)
    fragment = trial.games * STEPS
    assert set(steps) <= {fragment * runners for runners in range(1, RUNNERS + 1)}, steps
    return {
        "env steps": rows["env_steps"][-1],
        "resumes": rows["resumes"][-1],
        "most restarts of runners": rows["runner_restarts"].max(),
        "iterations without all runners": float((steps < fragment * RUNNERS).sum()),
        "group return": float(np.nanmean(rows["group_return"][-5:])),
    }


@contextmanager
def running(iterations: int, learners: int = 0, games: int = 8) -> Iterator[Trial]:
    """A trial in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), iterations, learners, games)
        try:
            yield trial
        finally:
            trial.close()


def main(
    kills: Annotated[int, typer.Option(help="How many.")] = 10,
    seed: Annotated[int, typer.Option(help="Of what is killed, and when.")] = 0,
    kinds: Annotated[str, typer.Option(help="What is killed, separated by commas.")] = "runner,node,driver",
    learners: Annotated[int, typer.Option(help="Remote Learners.")] = 0,
    games: Annotated[int, typer.Option(help="Of each runner.")] = 8,
) -> None:
    """Kills at random, and says what became of the experiment."""
    console = Console()
    chance = random.Random(seed)
    disturb: Sequence[str] = [chance.choice(kinds.split(",")) for _ in range(kills)]
    with running(5 * (kills + 1), learners, games) as trial:
        for what in disturb:
            before = trial.iteration()
            trial.wait_for(lambda before=before: trial.iteration() > before, "the next iteration")  # type: ignore[misc]
            checkpoint = trial.folder.last_checkpoint()
            console.print(f"iteration {trial.iteration()}, {checkpoint and checkpoint.name}: killing a {what}")
            getattr(trial, f"kill_{what}")()
            time.sleep(chance.uniform(0, 3))
        code = trial.finish()
        console.print((trial.folder.path.parents[1] / "log").read_text()[-1500:])
        assert code == 0, code
        for name, value in check(trial).items():
            console.print(f"{name}: {value:g}")


if __name__ == "__main__":
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    typer.run(main)
