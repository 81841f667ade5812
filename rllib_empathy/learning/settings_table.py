"""Which of the settings that RLlib's configuration brings along are honoured here, and which are refused, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_STOCK = "keep your own PPO and give it gifts by with_gifting, which leaves all this to RLlib (docs/rllib_users.md)"


class Setting(NamedTuple):
    """What becomes of a setting of RLlib's."""

    honoured: bool
    note: str
    """What it does, or why it is refused."""
    instead: str = ""
    """What to do where it is refused."""


def _honoured(note: str, *names: str) -> dict[str, Setting]:
    return {name: Setting(True, note) for name in names}


def _refused(why: str, instead: str, *names: str) -> dict[str, Setting]:
    return {name: Setting(False, why, instead) for name in names}


_OFFLINE = "agents learn from games that they have just played, never from recorded ones"
_NO_OFFLINE = "Leave it out; for offline data take one of RLlib's own algorithms"
OLD = "it belongs to RLlib's old API stack, and nothing of the new one reads it"
LEAVE_OUT = "Leave it out"
_NO_CONNECTORS = (
    "runners and Learners of this package pass joint trajectories on, without RLlib's connectors and episodes"
)
_WRAP = f"Write it as a wrapper of the world (env_config={{'wrappers': [...]}}) or as a kind of agent, or {_STOCK}"

SETTINGS: Mapping[str, Setting] = {
    # -- environment
    **_honoured("the world, as `env_registry.make` takes it", "env"),
    **_honoured("the world's parameters", "env_config"),
    **_honoured(
        "actions are discrete: RLlib leaves such actions as they are, too", "normalize_actions", "clip_actions"
    ),
    **_refused("the world says its spaces itself", LEAVE_OUT, "observation_space", "action_space"),
    **_refused("runners draw no pictures", "rllib-empathy report shows games", "render_env"),
    **_refused(
        "rewards are never clipped, since returns and gifts are told as the world pays them",
        ".training(reward_scale=...) scales what is learned from; a wrapper of the world can clip",
        "clip_rewards",
    ),
    **_refused("the contract of a world is always checked", LEAVE_OUT, "disable_env_checking"),
    **_refused("the wrappers that RLlib puts around Atari games are not used", LEAVE_OUT, "_is_atari"),
    **_refused("nothing of RLlib 2.60 reads it", LEAVE_OUT, "action_mask_key"),
    # -- env_runners
    **_honoured("a class derived from `JointEnvRunner`", "env_runner_cls"),
    **_honoured("as in RLlib", "num_env_runners", "num_cpus_per_env_runner", "custom_resources_per_env_runner"),
    **_honoured("games that each runner plays at once", "num_envs_per_env_runner"),
    **_honoured("as in RLlib", "validate_env_runners_after_construction", "max_requests_in_flight_per_env_runner"),
    **_honoured("seconds that a silent runner is waited for", "sample_timeout_s"),
    **_honoured("as in RLlib, in steps of each game", "rollout_fragment_length", "batch_mode"),
    **_honoured("as in RLlib; False: the most probable action", "explore"),
    **_refused(
        "runners play on CPUs, a GPU would lie idle",
        "Learners use GPUs: .learners(num_gpus_per_learner=1)",
        "num_gpus_per_env_runner",
    ),
    **_refused("a world steps all its games at once", "More games: num_envs_per_env_runner", "gym_env_vectorize_mode"),
    **_refused(
        "the local runner holds the weights that are evaluated and saved; it plays only where there are no others",
        LEAVE_OUT,
        "create_local_env_runner",
        "create_env_on_local_worker",
    ),
    **_refused(
        _NO_CONNECTORS,
        _WRAP,
        "_env_to_module_connector",
        "_module_to_env_connector",
        "add_default_connectors_to_env_to_module_pipeline",
        "add_default_connectors_to_module_to_env_pipeline",
    ),
    **_refused(
        _NO_CONNECTORS,
        LEAVE_OUT,
        "episode_lookback_horizon",
        "episodes_to_numpy",
        "merge_env_runner_states",
        "broadcast_env_runner_states",
        "use_env_runner_state_server",
        "env_runner_state_server_max_concurrency",
        "_dont_auto_sync_env_runner_states",
    ),
    **_refused(
        OLD,
        LEAVE_OUT,
        "compress_observations",
        "use_worker_filter_stats",
        "update_worker_filter_stats",
        "sample_collector",
        "remote_worker_envs",
        "remote_env_batch_wait_ms",
        "preprocessor_pref",
        "observation_filter",
        "enable_tf1_exec_eagerly",
        "sampler_perf_stats_ema_coef",
        "sync_filters_on_rollout_workers_timeout_s",
    ),
    **_refused(OLD, "Agents explore with .training(exploration=SHARE)", "exploration_config"),
    # -- learners
    **_honoured(
        "as in RLlib", "num_learners", "num_cpus_per_learner", "num_gpus_per_learner", "custom_resources_per_learner"
    ),
    **_honoured("as in RLlib, for a Learner in the driver's process", "local_gpu_idx"),
    **_honoured("a class derived from `EmpathyLearner`", "_learner_class"),
    **_honoured("for a Learner class of your own", "learner_config_dict"),
    **_refused(_NO_CONNECTORS, _WRAP, "_learner_connector", "add_default_connectors_to_learner_pipeline"),
    **_refused(
        "Learners learn one batch at a time, of games that no aggregator has to put together",
        LEAVE_OUT,
        "num_aggregator_actors_per_learner",
        "max_requests_in_flight_per_aggregator_actor",
        "max_requests_in_flight_per_learner",
    ),
    # -- training
    **_honoured(
        "the default of all agents that have it; other options of agents are taken likewise",
        "lr",
        "gamma",
        "grad_clip",
        "num_epochs",
        "minibatch_size",
    ),
    **_honoured("env steps of an iteration, at least, for each Learner", "_train_batch_size_per_learner"),
    **_honoured("the same for all Learners together, as in RLlib", "train_batch_size"),
    **_refused(
        "each agent's whole gradient is limited by its norm ('global_norm')",
        "Set .training(grad_clip=...)",
        "grad_clip_by",
    ),
    **_refused("minibatches are always drawn in a new order", LEAVE_OUT, "shuffle_batch_per_epoch"),
    **_refused(OLD, "Networks are set by .training(network={...})", "model"),
    **_refused(OLD, "Each agent has Adam; its options are lr and adam_epsilon", "optimizer"),
    # -- callbacks: the methods of a class are in CALLBACKS
    **_honoured("a class, or several, whose methods are honoured below", "callbacks_class"),
    # -- multi_agent
    **_honoured("ids of agents that learn, or a function; the others play on as they are", "policies_to_train"),
    **_honoured(
        "options of single agents by module id; stronger than the population's", "algorithm_config_overrides_per_module"
    ),
    **_refused(
        "the population says who plays where",
        "Write .population([{kind, count, shared, name}, ...]); its module ids are the policies",
        "policies",
        "policy_mapping_fn",
    ),
    **_refused("batches hold whole steps of all agents", "Leave it out; steps are env steps", "count_steps_by"),
    **_refused(OLD, LEAVE_OUT, "policy_map_capacity", "policy_states_are_swappable", "observation_fn"),
    # -- rl_module
    **_refused(
        "each kind of agent brings its network",
        "Set .training(network={...}) or an entry's network in the population (rllib-empathy agents KIND lists its options)",
        "_model_config",
    ),
    **_refused(
        "each kind of agent brings its RLModule",
        f"Register a kind of your own (docs/design.md, Adding things), or {_STOCK}",
        "_rl_module_spec",
    ),
    # -- evaluation
    **_honoured(
        "as in RLlib",
        "evaluation_interval",
        "evaluation_duration",
        "evaluation_duration_unit",
        "evaluation_auto_duration_min_env_steps_per_sample",
        "evaluation_auto_duration_max_env_steps_per_sample",
        "evaluation_sample_timeout_s",
        "evaluation_parallel_to_training",
        "evaluation_unhealthy_workers_timeout_s",
        "evaluation_error_after_n_consecutive_skips",
        "evaluation_force_reset_envs_before_iteration",
        "evaluation_num_env_runners",
    ),
    **_honoured(
        "as in RLlib, which reports what the function logs with `algorithm.metrics`", "custom_evaluation_function"
    ),
    **_honoured("as in RLlib; what is refused here is refused there", "evaluation_config"),
    **_refused(
        _OFFLINE,
        _NO_OFFLINE,
        "off_policy_estimation_methods",
        "ope_split_batch_by_episode",
        "offline_evaluation_interval",
        "num_offline_eval_runners",
        "offline_evaluation_type",
        "offline_eval_runner_class",
        "offline_loss_for_module_fn",
        "offline_evaluation_duration",
        "offline_evaluation_parallel_to_training",
        "offline_eval_batch_size_per_runner",
        "dataset_num_iters_per_eval_runner",
        "offline_eval_rl_module_inference_only",
        "num_cpus_per_offline_eval_runner",
        "num_gpus_per_offline_eval_runner",
        "custom_resources_per_offline_eval_runner",
        "offline_evaluation_timeout_s",
        "max_requests_in_flight_per_offline_eval_runner",
        "broadcast_offline_eval_runner_states",
        "validate_offline_eval_runners_after_construction",
        "restart_failed_offline_eval_runners",
        "ignore_offline_eval_runner_failures",
        "max_num_offline_eval_runner_restarts",
        "offline_eval_runner_health_probe_timeout_s",
        "offline_eval_runner_restore_timeout_s",
        # -- offline_data
        "input_",
        "offline_data_class",
        "input_read_method",
        "input_read_method_kwargs",
        "input_read_schema",
        "input_read_episodes",
        "input_read_sample_batches",
        "input_read_batch_size",
        "input_filesystem",
        "input_filesystem_kwargs",
        "input_compress_columns",
        "input_spaces_jsonable",
        "materialize_data",
        "materialize_mapped_data",
        "map_batches_kwargs",
        "iter_batches_kwargs",
        "ignore_final_observation",
        "prelearner_class",
        "prelearner_buffer_class",
        "prelearner_buffer_kwargs",
        "prelearner_module_synch_period",
        "prelearner_use_recorded_module_states",
        "dataset_num_iters_per_learner",
        "input_config",
        "actions_in_input_normalized",
        "postprocess_inputs",
        "shuffle_buffer_size",
    ),
    **_refused(
        "runners record no episodes",
        "Take trajectories from the callback on_sample_end, or games from rllib-empathy report",
        "output",
        "output_config",
        "output_compress_columns",
        "output_max_file_size",
        "output_max_rows_per_file",
        "output_write_remaining_data",
        "output_write_method",
        "output_write_method_kwargs",
        "output_filesystem",
        "output_filesystem_kwargs",
        "output_write_episodes",
        "offline_sampling",
    ),
    # -- reporting
    **_honoured(
        "as in RLlib",
        "min_time_s_per_iteration",
        "min_train_timesteps_per_iteration",
        "min_sample_timesteps_per_iteration",
    ),
    **_honoured("`gradients_OPTIMIZER_global_norm` of each agent, the mean over an iteration's steps", "log_gradients"),
    **_honoured("added to RLlib's and this package's reductions", "stats_cls_lookup"),
    **_refused(
        "means are exact, over all episodes that ended in an iteration",
        "Leave it out; smooth the curve afterwards",
        "metrics_num_episodes_for_smoothing",
    ),
    **_refused(OLD, LEAVE_OUT, "keep_per_episode_custom_metrics", "metrics_episode_collection_timeout_s"),
    # -- checkpointing, debugging, fault tolerance
    **_refused(OLD, LEAVE_OUT, "export_native_model_files", "checkpoint_trainable_policies_only", "fake_sampler"),
    **_honoured("as in RLlib", "log_level", "seed"),
    **_honoured("as in Ray Tune", "log_sys_usage"),
    **_honoured(
        "as in RLlib",
        "restart_failed_env_runners",
        "ignore_env_runner_failures",
        "max_num_env_runner_restarts",
        "delay_between_env_runner_restarts_s",
        "num_consecutive_env_runner_failures_tolerance",
        "env_runner_health_probe_timeout_s",
        "env_runner_restore_timeout_s",
    ),
    **_refused(
        "all games of a runner are one world: an error in it is told, and ends the run",
        "Catch in the world what it can survive",
        "restart_failed_sub_environments",
    ),
    # -- resources, processes, frameworks
    **_honoured(
        "as in RLlib and Tune", "num_cpus_for_main_process", "custom_resources_for_main_process", "placement_strategy"
    ),
    **_refused(OLD, ".learners(num_gpus_per_learner=...)", "num_gpus", "_fake_gpus"),
    **_refused(
        OLD,
        "Environment variables of remote processes: ray.init(runtime_env={'env_vars': {...}})",
        "extra_python_environs_for_driver",
        "extra_python_environs_for_worker",
    ),
    **_refused("agents are PyTorch modules on RLlib's new API stack", LEAVE_OUT, "framework_str"),
    **_refused(
        "agents live on RLlib's new API stack",
        LEAVE_OUT,
        "enable_rl_module_and_learner",
        "enable_env_runner_and_connector_v2",
    ),
    **_refused(
        "it is a setting of TensorFlow, and agents are PyTorch modules",
        LEAVE_OUT,
        "eager_tracing",
        "eager_max_retraces",
        "tf_session_args",
        "local_tf_session_args",
        "_tf_policy_handles_more_than_one_loss",
    ),
    **_refused(
        "agents that are alike are evaluated together, by functions that are not compiled",
        LEAVE_OUT,
        "torch_compile_learner",
        "torch_compile_learner_what_to_compile",
        "torch_compile_learner_dynamo_mode",
        "torch_compile_learner_dynamo_backend",
        "torch_compile_worker",
        "torch_compile_worker_dynamo_backend",
        "torch_compile_worker_dynamo_mode",
    ),
    **_refused("Learners average all gradients in one call, without DDP", LEAVE_OUT, "torch_ddp_kwargs"),
    **_refused("gradients that are not finite end the run", LEAVE_OUT, "torch_skip_nan_gradients"),
    # -- experimental
    **_honoured("False: settings are not held against this table, at your own risk", "_validate_config"),
    **_refused("games and sources of chance are saved as pickles", LEAVE_OUT, "_use_msgpack_checkpoints"),
    **_refused("losses are not scaled", LEAVE_OUT, "_torch_grad_scaler_class"),
    **_refused(
        "the Learner's loop is not RLlib's",
        "A learning rate may be points: .training(lr=[[0, 0.001], [100_000, 0]])",
        "_torch_lr_scheduler_classes",
    ),
    **_refused(
        OLD,
        LEAVE_OUT,
        "_disable_preprocessor_api",
        "_disable_action_flattening",
        "_disable_initialize_loss_from_dummy_batch",
    ),
}
"""Attribute of `AlgorithmConfig` -> what becomes of it. One that is refused may only have the value that it has by default."""

_NO_EPISODES = "runners of this package hold no MultiAgentEpisode; they play all games at once"
_SAMPLES = (
    f"Write on_sample_end, which gets the joint trajectories of all games; let the world count events; or {_STOCK}"
)

CALLBACKS: Mapping[str, Setting] = {
    **_honoured(
        "as in RLlib",
        "on_algorithm_init",
        "on_train_result",
        "on_evaluate_start",
        "on_evaluate_end",
        "on_env_runners_recreated",
        "on_workers_recreated",
        "on_checkpoint_loaded",
    ),
    **_honoured("as in RLlib; `env` is the world, with all of the runner's games", "on_environment_created"),
    **_honoured("as in RLlib; `samples` are joint trajectories (`rllib_empathy.joint`)", "on_sample_end"),
    **_refused(_NO_EPISODES, _SAMPLES, "on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end"),
    **_refused(
        _OFFLINE,
        _NO_OFFLINE,
        "on_evaluate_offline_start",
        "on_evaluate_offline_end",
        "on_offline_eval_runners_recreated",
    ),
    **_refused(
        OLD,
        _SAMPLES,
        "on_sub_environment_created",
        "on_postprocess_trajectory",
        "on_create_policy",
        "on_learn_on_batch",
    ),
}
"""Method of a callback -> what becomes of it, as a method of a class and as a function of its own."""

INTERNAL = frozenset(
    {
        "_is_frozen",
        "_is_online",
        "_per_module_overrides",
        "_prior_exploration_config",
        "algo_class",
        "class",
        "in_evaluation",
        "simple_optimizer",
        "worker_index",
    }
)
"""Attributes in which RLlib keeps what it has worked out; no settings of a user's."""

METHODS = (
    "environment",
    "env_runners",
    "learners",
    "training",
    "callbacks",
    "multi_agent",
    "rl_module",
    "evaluation",
    "offline_data",
    "reporting",
    "checkpointing",
    "debugging",
    "fault_tolerance",
    "resources",
    "framework",
    "api_stack",
    "experimental",
    "python_environment",
)
"""The methods of `AlgorithmConfig` that set something."""

FORMER_NAMES: Mapping[str, str] = {
    "num_cpus_per_worker": "num_cpus_per_env_runner",
    "num_gpus_per_worker": "num_gpus_per_env_runner",
    "custom_resources_per_worker": "custom_resources_per_env_runner",
    "num_learner_workers": "num_learners",
    "num_cpus_per_learner_worker": "num_cpus_per_learner",
    "num_gpus_per_learner_worker": "num_gpus_per_learner",
    "num_cpus_for_local_worker": "num_cpus_for_main_process",
    "num_rollout_workers": "num_env_runners",
    "num_envs_per_worker": "num_envs_per_env_runner",
    "validate_workers_after_construction": "validate_env_runners_after_construction",
    "ignore_worker_failures": "ignore_env_runner_failures",
    "recreate_failed_workers": "restart_failed_env_runners",
    "recreate_failed_env_runners": "restart_failed_env_runners",
    "num_consecutive_worker_failures_tolerance": "num_consecutive_env_runner_failures_tolerance",
    "worker_health_probe_timeout_s": "env_runner_health_probe_timeout_s",
    "worker_restore_timeout_s": "env_runner_restore_timeout_s",
    "max_num_worker_restarts": "max_num_env_runner_restarts",
    "delay_between_worker_restarts_s": "delay_between_env_runner_restarts_s",
    "evaluation_num_workers": "evaluation_num_env_runners",
    "num_sgd_iter": "num_epochs",
    "max_requests_in_flight_per_sampler_worker": "max_requests_in_flight_per_env_runner",
    "model_config_dict": "_model_config",
    "synchronize_filter": "update_worker_filter_stats",
    "enable_connectors": "",
    "env_task_fn": "",
    "always_attach_evaluation_results": "",
    "replay_mode": "",
    "policy_map_cache": "",
    "_enable_rl_module_api": "enable_rl_module_and_learner",
}
"""Arguments that RLlib keeps for older code -> the attribute that they mean ("": none). RLlib translates or refuses them."""
