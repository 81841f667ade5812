"""A short experiment on a small cluster of this machine, in which processes and nodes are killed at random.

It begins on a head without room for runners, and nodes join. When all has been killed that is to be, and all runners are back,
it is asked to end, as by Ctrl-C.

python -m benchmarks.faults --kills 10
python -m benchmarks.faults --kills 10 --learners 2 --kinds runner,learner,driver
python -m benchmarks.faults --kills 0 --games 4000 --world cleanup   # an iteration's trajectories do not fit into an object store
"""

from __future__ import annotations

import os
import pickle
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

from rllib_empathy.cli.common import INTERRUPTED
from rllib_empathy.experiments.checkpoints import read_agent
from rllib_empathy.experiments.metrics_table import read_metrics
from rllib_empathy.experiments.run_folder import RunFolder
from rllib_empathy.learning.algorithm import LONGEST_WITHOUT_RUNNERS_S

STEPS, RUNNERS = 20, 2
"""Steps of a fragment; runners, each on a node of its own, so that a killed node's waits for another to join."""

OBJECT_STORE = 80 * 2**20
"""Bytes on each node; Ray allows hardly less."""

WORLD = "iterated_prisoners_dilemma"
"""In which LASE agents soon learn to cooperate: what a run lost would show in its learning curve."""

EXPERIMENT = {
    "training.lr": 0.003,
    "env_runners.num_env_runners": RUNNERS,
    "env_runners.rollout_fragment_length": STEPS,
    "training.network.hidden": "[16]",
    "checkpoint.every_iterations": 2,
    "checkpoint.keep": 2,
}

GREATEST_FALL = 20
"""Of the group's return in an episode of 100 steps. It rises from 100 to 200; networks that begin anew are back at 100."""


class Trial:
    """One experiment on one cluster, and the means to disturb it.

    Args:
        folder: where everything goes.
        learners: remote Learners; 0: the driver learns.
        games: of each runner.
        world: in which they are played.
    """

    def __init__(self, folder: Path, learners: int = 0, games: int = 8, world: str = WORLD) -> None:
        from ray.cluster_utils import Cluster

        # On a machine that is busy with other things:
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
        os.environ.setdefault("RAY_worker_niceness", "0")
        self.games, self.world = games, world
        self.checkpoints_read = 0
        self.folder = RunFolder(folder / "quickstart" / "trial")
        self._cluster: Any = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": learners, "include_dashboard": False, "object_store_memory": OBJECT_STORE},
        )
        self._workers: list[Any] = []
        settings = {
            **EXPERIMENT,
            "environment": world,
            "env_runners.num_envs_per_env_runner": games,
            "stop": f"{{iterations: {10**9}}}",
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

    def said(self) -> str:
        """What the driver has written."""
        return Path(self._log.name).read_text()

    def last(self, metric: str) -> int:
        """The last row's figure; 0 before the first."""
        try:
            rows = read_metrics(self.folder.metrics)
        except (FileNotFoundError, StopIteration):
            return 0
        return int(rows[metric][-1]) if metric in rows else 0

    def wait_for(self, reached: Callable[[], bool], what: str, seconds: float = LONGEST_WITHOUT_RUNNERS_S) -> None:
        """Waits, as long as training would at most; meanwhile the last checkpoint has to be readable whenever there is one.

        Raises:
            TimeoutError: it did not come.
        """
        deadline = time.monotonic() + seconds
        while not reached():
            self._read_checkpoint()
            if time.monotonic() > deadline or (self._driver.poll() is not None and not reached()):
                code, said = self._driver.poll(), self.said()[-1500:]
                raise TimeoutError(f"{what} did not come; the driver's code is {code}; it said {said}")
            time.sleep(0.2)

    def finish(self) -> int:
        """Asks the run to end, and returns the driver's exit code."""
        self._driver.send_signal(signal.SIGINT)
        self.wait_for(lambda: self._driver.poll() is not None, "the end")
        return int(self._driver.returncode)

    def add_node(self) -> None:
        """A node joins."""
        self._workers.append(self._cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE))

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
        self.add_node()

    def _read_checkpoint(self) -> None:
        """Reads all of the last checkpoint, unless another one takes its place meanwhile."""
        path = self.folder.last_checkpoint()
        try:
            if path is not None:
                read_agent(path)
                for file in path.rglob("*.pkl"):
                    pickle.loads(file.read_bytes())
                self.checkpoints_read += 1
        except Exception:  # a damaged pickle can raise anything
            if self.folder.last_checkpoint() == path:
                raise

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
        AssertionError: steps were lost or counted twice, what had been learned was lost, or runners have not come back.
    """
    rows = read_metrics(trial.folder.metrics)
    np.testing.assert_array_equal(rows["iteration"], np.arange(1, len(rows["iteration"]) + 1))
    steps = np.diff(rows["env_steps"], prepend=0)
    fragment = trial.games * STEPS
    assert set(steps) <= {fragment * runners for runners in range(1, RUNNERS + 1)}, steps
    assert steps[-1] == fragment * RUNNERS, steps
    returns = rows["group_return"][np.isfinite(rows["group_return"])]
    if trial.world == WORLD:
        falls = np.maximum.accumulate(returns) - returns
        assert falls.max() < GREATEST_FALL < returns[-1] - returns[0], returns
    return {
        "iterations": len(steps),
        "env steps": rows["env_steps"][-1],
        "resumes": rows["resumes"][-1],
        "most restarts of runners": rows["runner_restarts"].max(),
        "iterations without all runners": float((steps < fragment * RUNNERS).sum()),
        "group return, first": returns[0],
        "group return, last": returns[-1],
        "checkpoints read": trial.checkpoints_read,
    }


@contextmanager
def running(learners: int = 0, games: int = 8, world: str = WORLD) -> Iterator[Trial]:
    """A trial in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), learners, games, world)
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
    world: Annotated[str, typer.Option(help="In which they are played.")] = WORLD,
) -> None:
    """Kills at random, and says what became of the experiment."""
    console = Console()
    chance = random.Random(seed)
    disturb: Sequence[str] = [chance.choice(kinds.split(",")) for _ in range(kills)]
    with running(learners, games, world) as trial:
        trial.wait_for(lambda: "Waiting up to" in trial.said(), "the wait for nodes")
        for _ in range(RUNNERS):
            trial.add_node()
        for what in disturb:
            at = trial.last("iteration") + chance.randint(1, 10)
            trial.wait_for(lambda at=at: trial.last("iteration") >= at, f"iteration {at}")  # type: ignore[misc]
            checkpoint = trial.folder.last_checkpoint()
            console.print(f"iteration {trial.last('iteration')}, {checkpoint and checkpoint.name}: killing a {what}")
            getattr(trial, f"kill_{what}")()
        least = max(10 * (kills + 1), trial.last("iteration") + 5)
        trial.wait_for(lambda: trial.last("iteration") >= least, f"iteration {least}")
        trial.wait_for(lambda: trial.last("remote_runners") == RUNNERS, "all runners")
        code = trial.finish()
        console.print(trial.said()[-1500:])
        assert code == INTERRUPTED, code
        for name, value in check(trial).items():
            console.print(f"{name}: {value:.10g}")


if __name__ == "__main__":
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    typer.run(main)
