"""RLlib's Learners, with rewards reshaped before they make advantages of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from env_registry.parameters import SettingError
from rllib_empathy.learning.distributed import average, average_gradients, broadcast_parameters, world_size
from rllib_empathy.learning.groups import all_parameters
from rllib_empathy.stock.gifting import Gifting, Metrics
from rllib_empathy.stock.kinds import KindSpec
from rllib_empathy.stock.runner import check_faults
from rllib_empathy.stock.seats import Seat, as_observed, seats_of

GIFTING = "gifting"
"""Key of the policies' kinds in `learner_config_dict`, and of what gifting keeps in a Learner's state."""


class ReshapeRewards(ConnectorV2):
    """First piece of the Learner's pipeline: all others see the reshaped rewards."""

    def __init__(self, gifting: Gifting) -> None:
        super().__init__()
        self.gifting = gifting

    def __call__(
        self,
        *,
        rl_module: Any,
        batch: dict[str, Any],
        episodes: list[MultiAgentEpisode],
        metrics: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Puts copies with reshaped rewards in the place of the episodes.

        Raises:
            SettingError: see `check_faults` and `Gifting.reshape`.
        """
        check_faults(episodes)
        episodes[:], statistics = self.gifting.reshape(episodes)
        if metrics is not None:
            log(metrics, statistics)
        return batch


class GiftingLearner(TorchLearner):
    """To be put before a Learner class that makes batches of episodes by its connector pipeline."""

    def build(self) -> None:
        """Builds what the Learner has without gifts, then reads who plays and prepends the reshaping of rewards."""
        super().build()
        spaces = {mid: module.unwrapped().observation_space for mid, module in self.module.items()}
        seats = [as_observed(seat, spaces.get(seat.module_id)) for seat in seats_of(self.config)]
        kinds = self.config.learner_config_dict[GIFTING]
        self._gifting = gifting_of(self.config, kinds, seats, self._device or "cpu")
        self._learner_connector.prepend(ReshapeRewards(self._gifting))

    def compute_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Any]:
        """Gradients, with several Learners their means."""
        gradients: dict[Any, Any] = super().compute_gradients(loss_per_module, **kwargs)
        if world_size() == 1:
            return gradients
        modules = sorted(self.module.keys())
        somewhere = average(torch.tensor([float(mid in loss_per_module) for mid in modules], device=self._device)) > 0
        learned = [self.module[mid] for mid, has_loss in zip(modules, somewhere.tolist(), strict=True) if has_loss]
        average_gradients(all_parameters(learned))
        return {reference: parameter.grad for reference, parameter in self._params.items()}

    def _make_modules_ddp_if_necessary(self) -> None:
        """One flat all-reduce instead: RLlib's per module meets in no fixed order, and processes die where shards differ."""
        if self.distributed:
            for module in self.module.values():
                module.no_sync = nullcontext  # what RLlib's update asks wrapped modules for
            broadcast_parameters(all_parameters([self.module[mid] for mid in sorted(self.module.keys())]))

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Trains the auxiliary networks, after the acting ones."""
        super().after_gradient_based_update(timesteps=timesteps)
        env_steps = timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0)
        log(self.metrics, self._gifting.learn(env_steps, self.should_module_be_updated))

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The Learner's state, with the auxiliary networks and their optimisers."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(GIFTING, components, not_components):
            state[GIFTING] = self._gifting.get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`'s answer."""
        super().set_state(state)
        if GIFTING in state:
            self._gifting.set_state(state[GIFTING])


def gifting_of(
    config: Any, kinds: Mapping[str, KindSpec], seats: Sequence[Seat], device: torch.device | str = "cpu"
) -> Gifting:
    """The gifting that a configuration asks for.

    Raises:
        SettingError: see `Gifting`; or a kind needs whole episodes and does not get them.
    """
    own = config.algorithm_config_overrides_per_module
    discounts = {module_id: own.get(module_id, {}).get("gamma", config.gamma) for module_id in kinds}
    gifting = Gifting(kinds, seats, config.env_config, config.seed, device, discounts)
    for module_id, kind in gifting.kinds.items():
        if kind.needs_whole_episodes and config.batch_mode != "complete_episodes":
            raise SettingError(
                f"Policy {module_id!r}: agents of kind {kind.name!r} need whole episodes, and batch_mode is "
                f"{config.batch_mode!r}. Set .env_runners(batch_mode='complete_episodes')."
            )
    return gifting


def log(metrics: Any, statistics: Metrics) -> None:
    """Logs this iteration's numbers with RLlib's logger."""
    for key, value in statistics.items():
        metrics.log_value(key, value, window=1)


@cache
def with_gifting_learner(learner: type) -> type:
    """The Learner class with gifting."""
    if issubclass(learner, GiftingLearner):
        return learner
    return type(
        f"Gifting{learner.__name__}", (GiftingLearner, learner), {"__doc__": f"{learner.__name__} with gifting."}
    )
