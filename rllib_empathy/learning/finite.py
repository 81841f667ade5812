"""Numbers that are none stop a run before anything is learned from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.learning.distributed import average


class NonFiniteError(ArithmeticError):
    """Rewards or gradients are NaN or infinite. Nothing was learned from them; the weights are the last good ones."""


def check_rewards(joint: JointTrajectory) -> None:
    """Raises NonFiniteError, on all Learners together, if a reward of the trajectory is no finite number."""
    wrong = (~torch.isfinite(joint.rewards)).nonzero()  # of absent agents too: sums over agents would spread them
    anywhere = average(torch.tensor([float(len(wrong))], device=joint.rewards.device)).item() > 0
    if anywhere and not len(wrong):  # stop together: nobody waits for gradients that never come
        raise NonFiniteError("The world gave rewards that are not finite to another Learner's share of the batch.")
    if len(wrong):
        step, game, agent = wrong[0].tolist()
        raise NonFiniteError(
            f"The world gave agent {agent} a reward of {joint.rewards[step, game, agent].item()} (game {game}, step {step} of "
            f"the batch; {len(wrong)} such rewards in all). Rewards must be finite numbers. Training stops here with the "
            "weights of the update before; the last checkpoint is good."
        )


def check_gradients(norms: Mapping[str, Tensor]) -> None:
    """Raises NonFiniteError if the norm of the gradient of one of these modules is no finite number."""
    finite = torch.isfinite(torch.stack(list(norms.values())))
    if not finite.all():
        wrong = [module_id for module_id, good in zip(norms, finite.tolist(), strict=True) if not good]
        raise NonFiniteError(
            f"The gradients of {', '.join(wrong)} are not finite. Training stops here, before they touch the weights; the last "
            "checkpoint is good. A smaller lr or grad_clip, or a smaller reward_scale may help."
        )
