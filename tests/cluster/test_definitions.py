"""Cluster definitions are what Ray, Kubernetes and KubeRay expect, and leave no door open."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "cluster"
MACHINES = sorted(FOLDER.glob("*.yaml"))
MANIFESTS = [
    pytest.param(manifest, id=f"{path.stem}-{manifest['kind']}-{manifest['metadata']['name']}")
    for path in sorted((FOLDER / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text())
]


def fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """The schema of a mapping that has these keys and no other."""
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


TEXT, TRUTH, NUMBER = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
START_PARAMETERS = {"type": "object", "additionalProperties": TEXT}
POD_TEMPLATE = {"type": "object", "required": ["spec"]}  # checked by Kubernetes' own schema
RAY_CLUSTER = fields(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=fields(mode={"enum": ["token", "disabled"]}, secretName=TEXT),
    enableInTreeAutoscaling=TRUTH,
    autoscalerOptions=fields(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=NUMBER,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    ),
    headGroupSpec=fields(
        ("template",),
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        rayStartParams=START_PARAMETERS,
        template=POD_TEMPLATE,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            ("groupName", "minReplicas", "maxReplicas", "template"),
            groupName=TEXT,
            replicas=NUMBER,
            minReplicas=NUMBER,
            maxReplicas=NUMBER,
            rayStartParams=START_PARAMETERS,
            template=POD_TEMPLATE,
        ),
    },
)
RAY_JOB = fields(
    entrypoint=TEXT,
    backoffLimit=NUMBER,
    shutdownAfterJobFinishes=TRUTH,
    ttlSecondsAfterFinished=NUMBER,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    runtimeEnvYAML=TEXT,
    rayClusterSpec=RAY_CLUSTER,
)
"""What is used of KubeRay's ray.io/v1 types, with their types: docs.ray.io, KubeRay CRD API reference."""


def ray_cluster(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The cluster in a KubeRay manifest."""
    spec = manifest["spec"]
    return {"RayCluster": spec, "RayJob": spec.get("rayClusterSpec")}.get(manifest["kind"])


def check(manifest: dict[str, Any]) -> None:
    """Raises if the manifest is not what Kubernetes and KubeRay expect."""
    cluster = ray_cluster(manifest)
    if cluster is None:
        kubernetes_validate.validate(manifest, "1.37", strict=True)
        return
    assert manifest["apiVersion"] == "ray.io/v1"
    jsonschema.validate(manifest["spec"], RAY_JOB if manifest["kind"] == "RayJob" else RAY_CLUSTER)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(pod, "1.37", strict=True)


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_machines_fit_rays_schema(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(config)
    with pytest.raises(Exception, match="misspelt"):
        validate_config({**config, "misspelt": 1})


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_machines_need_a_token_and_show_the_dashboard_to_nobody(path):
    config = yaml.safe_load(path.read_text())
    starts = [c for c in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]) if "ray start" in c]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token") for command in starts)
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in path.read_text()


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_clouds_have_a_stable_head_spot_runners_and_gpus_for_learners(name):
    types = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["available_node_types"]

    def is_spot(node_type: str) -> bool:
        config = types[node_type]["node_config"]
        return "InstanceMarketOptions" in config or {"preemptible": True} in config.get("scheduling", [])

    assert [is_spot(node_type) for node_type in ("head", "runners", "learners")] == [False, True, False]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["learners"]["resources"]["GPU"] >= 1
    assert types["runners"]["min_workers"] == 0 < types["runners"]["max_workers"]


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_manifest_fits_its_schema(manifest):
    check(manifest)


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_wrong_manifest_does_not_fit(manifest):
    def refused(wrong: dict[str, Any]) -> None:
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            check(wrong)

    refused({**manifest, "spec": {**manifest["spec"], "misspelt": 1}})
    cluster = ray_cluster(manifest)
    if cluster is not None:
        wrong = deepcopy(manifest)
        (ray_cluster(wrong) or {})["headGroupSpec"]["template"]["spec"]["containers"][0]["imgae"] = "x"
        refused(wrong)


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_nothing_in_kubernetes_is_open_or_runs_as_root(manifest):
    text = yaml.safe_dump(manifest)
    assert not re.search(r"LoadBalancer|NodePort|enableIngress|hostNetwork|privileged", text)
    cluster = ray_cluster(manifest)
    if cluster is not None:
        assert cluster["authOptions"] == {"mode": "token"}
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert group["template"]["spec"]["securityContext"]["runAsNonRoot"]


def test_the_job_brings_the_same_cluster():
    cluster, job = (yaml.safe_load((FOLDER / "kubernetes" / name).read_text()) for name in ("cluster.yaml", "job.yaml"))
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_the_image_holds_what_is_packaged():
    """All that is copied exists, and all that the package is built from is copied."""
    copied = re.findall(r"^COPY (.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert all((FOLDER.parent / name).exists() for name in names)
    assert {"env_registry", "rllib_empathy", "tune_configs", "setup.cfg", "pyproject.toml", "README.md"} <= names


def test_the_ray_version_is_the_one_that_is_tested():
    pinned = re.search(r"^ray==(\S+)", (FOLDER.parent / "constraints.txt").read_text(), re.MULTILINE)
    cluster = yaml.safe_load((FOLDER / "kubernetes" / "cluster.yaml").read_text())
    assert pinned is not None
    assert cluster["spec"]["rayVersion"] == pinned[1]


def test_what_is_submitted_trains_with_the_command_line(tmp_path):
    arguments = [sys.executable, str(FOLDER / "train.py"), "no_such_experiment"]
    ran = subprocess.run(
        arguments, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    )
    assert ran.returncode == 2
    assert "no_such_experiment" in ran.stdout + ran.stderr
