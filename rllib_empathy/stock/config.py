"""The one call that adds gifting to a user's own RLlib configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.utils import force_list
from ray.tune.search.sample import Domain

from env_registry.parameters import SettingError
from rllib_empathy.stock.kinds import KindSpec
from rllib_empathy.stock.learner import GIFTING, gifting_of, with_gifting_learner
from rllib_empathy.stock.runner import with_kept_ends
from rllib_empathy.stock.seats import seats_of
from rllib_empathy.stock.whole_episodes import keep_episodes_whole

Config = TypeVar("Config", bound=PPOConfig)


def with_gifting(config: Config, kinds: Mapping[str, KindSpec]) -> Config:
    """Adds gifts or reciprocal rewards to policies of a user's own PPO.

    >>> config = with_gifting(config, {"policy_a": "lase", "policy_b": {"kind": "lase", "social_lr": 0.0005}})

    Environment, connectors, networks, runners and loss stay the user's; runners keep apart who was cut off and who died (see
    `env_registry.ends`), and an agent that comes back in an episode that it has left stops the run.

    Before advantages are made, rewards are reshaped by
    the functions that `EmpathyConfig`'s agents use; auxiliary networks live on the Learner and are in its checkpoints. Returns
    are reported as the environment paid them; what policies learn from is logged beside them
    (`learners/POLICY/reshaped_reward_mean`). Policies that are not named keep what they are paid and may be given to.

    Call it when environment and policies are set.

    Args:
        config: of PPO or of an algorithm derived from it, on RLlib's new API stack; it stays as it is.
        kinds: policy -> name of a kind ("lase", "go", "blind_gift" ...) or {"kind": NAME, **options}.

    Returns:
        A copy of the config, with gifting.

    Raises:
        SettingError: what is wrong, what is allowed and how to mend it: an algorithm that is not on policy, the old API stack,
            a policy that plays nobody, a kind or an option that does not exist, spaces that a kind cannot handle.
    """
    _check_algorithm(config)
    if not kinds:
        raise SettingError("No policy is named: write {POLICY: KIND}.")
    gifted: Config = config.copy(copy_frozen=False)
    gifted.learner_config_dict = {**config.learner_config_dict, GIFTING: dict(kinds)}
    gifted.learners(learner_class=with_gifting_learner(config.learner_class))
    gifted.env_runners(env_runner_cls=with_kept_ends(config.env_runner_cls))
    others = [
        callback for callback in force_list(config.callbacks_on_algorithm_init) if callback != keep_episodes_whole
    ]
    gifted.callbacks(on_algorithm_init=[*others, keep_episodes_whole])
    if not _searches([kinds, config.env_config, config.gamma, config.algorithm_config_overrides_per_module]):
        gifting_of(gifted, kinds, seats_of(gifted))
    return gifted


def _check_algorithm(config: Any) -> None:
    name = type(config).__name__
    if not isinstance(config, PPOConfig):
        raise SettingError(
            f"{name} cannot be given gifts. They are worked out on batches of episodes in which all agents have just played side "
            "by side; algorithms with replay, offline data or asynchronous learners do not give these. Use PPOConfig or a class "
            "derived from it."
        )
    if not (config.enable_rl_module_and_learner and config.enable_env_runner_and_connector_v2):
        raise SettingError(
            f"{name} is set to RLlib's old API stack, which has no Learner to reshape rewards in. Leave out .api_stack(...) or "
            "switch on enable_rl_module_and_learner and enable_env_runner_and_connector_v2."
        )
    if not config.is_multi_agent:
        raise SettingError(
            f"{name} has one policy for one agent. Name policies with .multi_agent(policies=..., policy_mapping_fn=...)."
        )
    if config.env is None:
        raise SettingError(f"{name} has no environment yet. Call .environment(...) before with_gifting.")


def _searches(value: Any) -> bool:
    """Whether Tune is still to choose something in here; it is checked when a trial builds its algorithm."""
    if isinstance(value, Mapping):
        return "grid_search" in value or any(map(_searches, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_searches, value))
    return isinstance(value, Domain)
