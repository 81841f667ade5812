"""What may go wrong with the machines that train, as opposed to with the programs that they run.

Lost processes and machines are waited for and replaced. An exception of a program would come again, so it ends training at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.rllib.env import env_runner_group
from ray.rllib.utils.actor_manager import FaultTolerantActorManager

from env_registry.failures import told

logger = logging.getLogger(__name__)


class ClusterFault(RuntimeError):
    """Something that an iteration cannot do without is gone. Training can be taken up again from the last checkpoint."""


def error_of_program(error: Exception) -> Exception | None:
    """What a program raised in another process, as it is shown to users; None where a process or a machine is gone.

    Args:
        error: what Ray raised for a remote call.
    """
    if isinstance(error, RayActorError) and error.actor_init_failed:
        error = error.args[0]  # of the process's start, for instance a module that it cannot import
    if not isinstance(error, RayTaskError):
        return None
    cause = error.cause
    if isinstance(cause, RayError) or not isinstance(cause, Exception):  # what the call needed is gone
        return None
    return told(cause, "Another process failed")


class RaisingActorManager(FaultTolerantActorManager):
    """RLlib's manager of remote runners, but an exception of a program is raised instead of waited out."""

    def _fetch_result(self, **kwargs: Any) -> Any:
        healthy = set(self.healthy_actor_ids())
        fetched = super()._fetch_result(**kwargs)
        for answer in fetched[1]:
            error = None if answer.ok else answer.get()
            of_program = error_of_program(error) if error else None
            if of_program is not None:
                raise of_program
            if error and answer.actor_id in healthy:
                logger.warning("Runner %s is gone: %s", answer.actor_id, str(error).partition("\n")[0])
        return fetched


@contextmanager
def errors_of_programs_raised() -> Iterator[None]:
    """Groups of runners that are built inside raise exceptions of programs, also those of a runner that cannot be built.

    RLlib has no setting for the class of their manager.
    """
    before = env_runner_group.FaultTolerantActorManager
    env_runner_group.FaultTolerantActorManager = RaisingActorManager
    try:
        yield
    finally:
        env_runner_group.FaultTolerantActorManager = before
