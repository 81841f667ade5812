"""What is checked on a cluster before training begins: places for all processes, versions, storage."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from env_registry.parameters import SettingError
from rllib_empathy.cluster.capacity import Bundles, check_fits, live_capacity
from rllib_empathy.cluster.errors import ClusterError
from rllib_empathy.experiments.run_folder import versions

logger = logging.getLogger(__name__)

COMPARED = ("rllib-empathy", "ray", "torch", "numpy", "numba", "gymnasium")
"""Packages whose versions have to be the same everywhere: what is sent between nodes depends on them."""

LONGEST_ANSWER_S = 60
"""How long a node may take to answer."""

LONGEST_CONNECTION_S = 10
"""How long a head may take to take a connection."""

GONE = (
    ray.exceptions.TaskUnschedulableError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.ObjectLostError,
)
"""What Ray says of a node that died while it was asked: for some seconds it still counts dead nodes as alive."""


def check_reachable(address: str) -> None:
    """Checks that somebody listens at a cluster's address, for which Ray itself would try for minutes.

    Args:
        address: HOST:PORT, ray://HOST:PORT; all others, as "auto", are left to Ray.

    Raises:
        ClusterError: nobody does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), LONGEST_CONNECTION_S).close()
    except OSError as error:
        raise ClusterError(
            f"No cluster answers at {address}: {error}. Give HOST:PORT of a head that is up, as `ray start --head` says it there "
            "(port 6379), or leave --address out to train on this machine."
        ) from error


def wait_for_places(bundles: Bundles, seconds: float, tell: Callable[[str], None]) -> None:
    """Waits until the cluster has grown to what a run needs; asks the autoscaler for it, if there is one.

    Args:
        bundles: of the run, the most demanding first.
        seconds: how long at most.
        tell: gets a line when there is something to wait for.

    Raises:
        SettingError: it has not.
    """
    deadline = time.monotonic() + seconds
    asked = False
    while True:
        try:
            mend = "start more nodes" + (f" (waited {seconds:g} s for them; --wait says how long)" if seconds else "")
            return check_fits(bundles, live_capacity(ray.nodes()), "the running cluster", mend)
        except SettingError:
            if time.monotonic() >= deadline:
                raise
        if not asked:
            from ray.autoscaler.sdk import request_resources

            # It stays, so that lost nodes are replaced as long as the run lasts.
            request_resources(bundles=[dict(bundle) for bundle in bundles])
            tell(f"Waiting up to {seconds:g} s for nodes: places for {len(bundles)} processes are not there yet.")
            asked = True
        time.sleep(1)


def check_places(bundles: Bundles) -> None:
    """Checks that all processes of a run find a place in the Ray that runs, or in the one that is started for it.

    Where a cluster has yet to grow, call `wait_for_places` first.

    Raises:
        SettingError: they never do. RLlib would wait for places for ever, and say nothing.
    """
    if not bundles:
        return
    if not ray.is_initialized():
        ray.init()  # as the first remote process would
    grow = "start Ray with more, or, where nodes are still to come, call rllib_empathy.cluster.preflight.wait_for_places before"
    check_fits(bundles, live_capacity(ray.nodes()), "the running Ray", grow)


def check_nodes(storage: Path | None = None) -> None:
    """Checks that all nodes have the versions that this process has, and see the folder of results.

    Args:
        storage: a folder that all nodes have to see; None: only this process writes.

    Raises:
        ClusterError: they do not; says which.
    """
    mine = _facts(None)
    probe = None
    if storage is not None:
        probe = storage / ".seen_by_all_nodes"
        probe.write_text(str(time.time_ns()), encoding="utf-8")
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(_facts)
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    asked = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            str(probe) if probe else None
        ): address
        for node, address in nodes.items()
    }
    try:
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=LONGEST_ANSWER_S)
        answers = {address: _answer(reference, address, reference in answered) for reference, address in asked.items()}
        silent = [address for address, found in answers.items() if found is None]
        if silent:
            logger.warning("No answer from %s; going on without.", ", ".join(silent))
        facts = {address: found for address, found in answers.items() if found is not None}
        _check_versions(mine, facts)
        if probe is not None:
            _check_storage(probe, facts)
    finally:
        if probe is not None:
            probe.unlink(missing_ok=True)


def _facts(probe: str | None) -> dict[str, Any]:
    """What a node knows of itself."""
    found = {package: version for package, version in versions().items() if package in (*COMPARED, "python")}
    try:
        return {**found, "probe": Path(probe).read_text(encoding="utf-8") if probe else None}
    except OSError:
        return {**found, "probe": None}


def _answer(reference: ray.ObjectRef, address: str, ready: bool) -> dict[str, Any] | None:
    """What a node answered; None if it did not, or is no more."""
    if not ready:
        return None
    try:
        found: dict[str, Any] = ray.get(reference)
        return found
    except GONE:
        return None
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"Node {address} cannot run rllib-empathy: {str(error).strip().splitlines()[-1]}. Install the same package there, or "
            "use one image for all nodes (cluster/Dockerfile)."
        ) from error


def _check_versions(mine: Mapping[str, Any], facts: Mapping[str, Mapping[str, Any]]) -> None:
    unlike = [
        f"{address} has {package} {found[package]}, the head {mine[package]}"
        for address, found in facts.items()
        for package in (*COMPARED, "python")
        if found[package] != mine[package]
    ]
    if unlike:
        raise ClusterError(
            f"Nodes have unlike versions: {'; '.join(unlike)}. Install the same everywhere (constraints.txt), or use one image "
            "for all nodes (cluster/Dockerfile)."
        )


def _check_storage(probe: Path, facts: Mapping[str, Mapping[str, Any]]) -> None:
    written = probe.read_text(encoding="utf-8")
    blind = [address for address, found in facts.items() if found["probe"] != written]
    if blind:
        raise ClusterError(
            f"{', '.join(blind)} cannot see {probe.parent}, where results go. Mount the same folder on all nodes, or use --out, "
            "which only the head has to see."
        )
