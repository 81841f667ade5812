"""What a cluster can ever hold, by its definition or by what is up, and whether an experiment fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from env_registry.parameters import SettingError

Bundles = Sequence[Mapping[str, float]]
"""Resources, as Ray counts them, of each process that has to find a place."""


@dataclass(frozen=True)
class NodeType:
    """Like nodes.

    Attributes:
        name: as in the definition.
        most: how many there may be.
        resources: of each, as Ray counts them; None where nobody knows before the node is up.
    """

    name: str
    most: int
    resources: dict[str, float] | None


def capacity_of(path: Path) -> list[NodeType]:
    """The node types of a cluster's definition: of Ray's cluster launcher, a RayCluster or a RayJob.

    Raises:
        SettingError: the file is missing or no such definition.
    """
    try:
        documents = [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if isinstance(d, dict)]
    except (OSError, yaml.YAMLError) as error:
        raise SettingError(f"Cluster definition {str(path)!r} cannot be read: {error}.") from error
    for document in documents:
        spec = document.get("spec", {})
        if document.get("kind") == "RayJob":
            spec = spec.get("rayClusterSpec", {})
        if "headGroupSpec" in spec:
            return _kubernetes(spec)
        if "provider" in document:
            return _machines(document)
    raise SettingError(
        f"{path} is no cluster definition: it has neither a key 'provider' (Ray's cluster launcher) nor a RayCluster or RayJob. "
        "Those in cluster/ show what one looks like."
    )


def live_capacity(nodes: Iterable[Mapping[str, Any]]) -> list[NodeType]:
    """The nodes that are up, from `ray.nodes()`."""
    return [NodeType(node["NodeManagerAddress"], 1, dict(node["Resources"])) for node in nodes if node["Alive"]]


def check_fits(bundles: Bundles, capacity: Iterable[NodeType], where: str, mend: str) -> None:
    """Checks that all processes of a run find a place at the same time.

    Args:
        bundles: of the run, the most demanding first.
        capacity: of the cluster.
        where: what the cluster is called in an error.
        mend: what else may help, besides asking for less.

    Raises:
        SettingError: they never do; says what fits.
    """
    types = list(capacity)
    if any(node_type.resources is None for node_type in types):
        return  # known once the nodes are up
    free = [dict(t.resources or {}) for t in types for _ in range(t.most)]
    placed: dict[str, int] = {}
    missing: dict[str, int] = {}
    for bundle in bundles:
        # The node that has least to spare of what others might need more: GPUs, then CPUs.
        fitting = [node for node in free if all(node.get(name, 0) >= amount for name, amount in bundle.items())]
        found = min(fitting, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default=None)
        name = " and ".join(f"{amount:g} {resource}" for resource, amount in bundle.items())
        if found is None:
            missing[name] = missing.get(name, 0) + 1
            continue
        placed[name] = placed.get(name, 0) + 1
        for resource, amount in bundle.items():
            found[resource] -= amount
    if missing:
        short = "; ".join(
            f"{count + placed.get(name, 0)} processes of {name} each, of which {placed.get(name, 0)} find a place"
            for name, count in missing.items()
        )
        has = ", ".join(f"{t.most} x {t.name} ({_readable(t.resources or {})})" for t in types)
        raise SettingError(
            f"The experiment needs more than {where} ever has: {short}. The cluster has {has or 'no node'}. Lower "
            "env_runners.num_env_runners, learners.num_learners, learners.num_gpus_per_learner (in Python also what else the "
            "configuration asks for each process: CPUs, GPUs, custom resources) or, of a study, study.resources, "
            f"or {mend}."
        )


def _readable(resources: Mapping[str, float]) -> str:
    # Ray adds entries that nobody asks for: memory, the node's own name, the accelerator's type.
    own = {n: a for n, a in resources.items() if n not in ("memory", "object_store_memory") and ":" not in n}
    return ", ".join(f"{amount:g} {name}" for name, amount in own.items()) or "nothing"


def _machines(definition: Mapping[str, Any]) -> list[NodeType]:
    types = definition.get("available_node_types")
    if types is None:  # machines of one's own: Ray counts their CPUs and GPUs when it starts there
        addresses = definition["provider"].get("worker_ips", [])
        return [NodeType("head", 1, None), NodeType("worker", len(addresses), None)]
    head = definition.get("head_node_type")
    most = definition.get("max_workers", 0)
    return [
        NodeType(name, 1 if name == head else min(most, of.get("max_workers", most)), of.get("resources") or None)
        for name, of in types.items()
    ]


def _kubernetes(spec: Mapping[str, Any]) -> list[NodeType]:
    groups = [("head", 1, spec["headGroupSpec"])]
    groups += [(group["groupName"], group["maxReplicas"], group) for group in spec.get("workerGroupSpecs", [])]
    return [NodeType(name, most, _of_pod(group)) for name, most, group in groups]


def _of_pod(group: Mapping[str, Any]) -> dict[str, float]:
    limits = group["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
    started = group.get("rayStartParams", {})
    found = {
        "CPU": float(started.get("num-cpus", _quantity(limits.get("cpu", 0)))),
        "GPU": float(started.get("num-gpus", _quantity(limits.get("nvidia.com/gpu", 0)))),
    }
    return {name: amount for name, amount in found.items() if amount}


def _quantity(text: str | float) -> float:
    """Kubernetes' 16, "16" or "500m"."""
    value = str(text)
    return float(value[:-1]) / 1000 if value.endswith("m") else float(value)
