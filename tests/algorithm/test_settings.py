"""Every setting that RLlib's configuration brings along is honoured or refused, however it is written."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest
from ray.rllib.algorithms.algorithm_config import DEPRECATED_VALUE, AlgorithmConfig, NotProvided
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.metrics.stats import MeanStats

from env_registry import SettingError
from rllib_empathy.learning.agent_options import agent_options, is_agent_option
from rllib_empathy.learning.algorithm import Empathy
from rllib_empathy.learning.config import EmpathyConfig
from rllib_empathy.learning.learner import EmpathyLearner
from rllib_empathy.learning.settings import arguments_of, attribute_of, rllib_attributes, setting, shown
from rllib_empathy.learning.settings_page import page
from rllib_empathy.learning.settings_table import CALLBACKS, FORMER_NAMES, INTERNAL, METHODS, SETTINGS
from rllib_empathy.policies import KINDS
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner
from tests.algorithm.common import small_config

REFUSED = sorted(
    name for name in rllib_attributes() - INTERNAL if not setting(name).honoured and not is_agent_option(name)
)
ARGUMENTS = [(method, name) for method in METHODS for name in arguments_of(method)]


def another(value):
    """A value that is not the default one."""
    return not value if isinstance(value, bool) else {"changed": 1} if isinstance(value, dict) else "changed"


# -- The table is whole


def test_all_methods_that_set_something_are_known():
    setters = {
        name
        for name, method in vars(AlgorithmConfig).items()
        if inspect.isfunction(method)
        and any(parameter.default is NotProvided for parameter in inspect.signature(method).parameters.values())
    }
    assert setters == set(METHODS)


def test_every_argument_is_honoured_or_refused():
    for method, argument in ARGUMENTS:
        if argument not in FORMER_NAMES:
            attribute = attribute_of(argument)
            assert attribute in rllib_attributes(), (method, argument)
            callback = attribute.removeprefix("callbacks_")
            assert (attribute in SETTINGS) != (callback in CALLBACKS), f"classify {argument} in settings_table.py"


def test_every_attribute_is_honoured_or_refused_or_older_than_this_stack():
    default = AlgorithmConfig()
    unknown = {
        name: getattr(default, name)
        for name in rllib_attributes() - SETTINGS.keys() - INTERNAL
        if name.removeprefix("callbacks_") not in CALLBACKS
    }
    assert all(value in (DEPRECATED_VALUE, None) for value in unknown.values()), unknown
    assert SETTINGS.keys() <= rllib_attributes(), "the table names what RLlib has not"


def test_every_callback_is_honoured_or_refused():
    hooks = {name for name in dir(RLlibCallback) if name.startswith("on_")}
    assert hooks == set(CALLBACKS)


def test_the_page_in_the_docs_is_made_of_the_table():
    text = Path(__file__).parents[2].joinpath("docs", "settings.md").read_text(encoding="utf-8")
    assert text == page(), "python -m rllib_empathy.learning.settings_page > docs/settings.md"


# -- Refused


@pytest.mark.parametrize("name", REFUSED)
def test_what_nothing_reads_is_refused_by_name_and_value(name):
    value = another(getattr(EmpathyConfig(), name))
    config = EmpathyConfig()
    setattr(config, name, value)
    for same in (config, EmpathyConfig.from_state(pickle.loads(pickle.dumps(config.get_state())))):
        with pytest.raises(SettingError) as caught:
            same.validate()
        assert f"{shown(name)}, here {['changed'] if name == 'policies' else repr(value)}, is refused" in str(
            caught.value
        )


@pytest.mark.parametrize("method", METHODS)
def test_methods_refuse_what_nothing_reads_or_lead_to_a_refusal(method):
    for argument in arguments_of(method):
        attribute = FORMER_NAMES.get(argument, attribute_of(argument))
        if argument == "enable_connectors" or (attribute and setting(attribute).honoured):  # RLlib drops the first one
            continue
        config = EmpathyConfig()
        try:
            getattr(config, method)(**{argument: another(getattr(config, attribute, None))})
        except (ValueError, TypeError, AttributeError, AssertionError):
            continue  # RLlib refuses it, or the value
        with pytest.raises(SettingError):
            config.validate()


@pytest.mark.parametrize("argument", sorted(name for name, meant in FORMER_NAMES.items() if meant))
def test_former_names_mean_the_newer_ones_or_are_refused(argument):
    config = EmpathyConfig()
    method = next(method for method, name in ARGUMENTS if name == argument)
    try:
        getattr(config, method)(**{argument: 7})
    except ValueError:
        return
    assert getattr(config, FORMER_NAMES[argument]) == 7


def test_dicts_take_arguments_by_their_names():
    for _, argument in ARGUMENTS:
        if argument in FORMER_NAMES or argument == "train_batch_size_per_learner":
            continue
        config = EmpathyConfig()
        config[argument] = "changed"
        kept = config.agent_defaults if is_agent_option(argument) else vars(config)
        assert kept[attribute_of(argument)] == "changed", argument


@pytest.mark.parametrize("name", ["gama", "num_sgd_iter", "kl_coeff", "training", "env_runners"])
def test_names_that_nobody_knows_are_refused(name):
    for write in (
        lambda c: setattr(c, name, 1),
        lambda c: c.__setitem__(name, 1),
        lambda c: c.update_from_dict({name: 1}),
    ):
        config = small_config("snowdrift")
        write(config)
        with pytest.raises(SettingError, match=f"{name} = 1: Unknown setting '{name}'"):
            config.validate()


@pytest.mark.parametrize("hook", sorted(CALLBACKS))
def test_callbacks_of_a_class_are_refused_where_nobody_calls_them(hook):
    of_class = type("Mine", (RLlibCallback,), {hook: lambda self, **kwargs: None})
    inherited = type("Derived", (of_class,), {})
    for callbacks in (of_class, inherited, [RLlibCallback, of_class], lambda: of_class()):
        config = small_config("snowdrift").callbacks(callbacks)
        if CALLBACKS[hook].honoured:
            config.validate()
        else:
            with pytest.raises(SettingError, match=rf"{hook} of \.callbacks.*refused"):
                config.validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.multi_agent(policies={"one"}), r"\.multi_agent\(policies=\.\.\.\), here \['one'\]"),
        (lambda c: c.multi_agent(policies={"one": (None, None, None, {})}), r"policies=.*population says who"),
        (lambda c: c.multi_agent(policy_mapping_fn=lambda *a, **k: "one"), r"policy_mapping_fn=.*population says who"),
        (lambda c: c.multi_agent(policies_to_train=["one"]), r"policies_to_train"),
        (lambda c: c.env_runners(env_runner_cls=AlgorithmConfig), "derived from JointEnvRunner"),
        (lambda c: c.learners(learner_class=AlgorithmConfig), "derived from EmpathyLearner"),
        (lambda c: c.evaluation(evaluation_config={"observation_filter": "MeanStdFilter"}), "observation_filter"),
        (lambda c: c.evaluation(evaluation_config={"explor": False}), "'explor'. Did you mean 'explore'"),
        (
            lambda c: c.multi_agent(algorithm_config_overrides_per_module={"ppo": {"lr": 0.1}}),
            "'ppo'. Did you mean 'ppo_3'",
        ),
        (
            lambda c: c.rl_module(algorithm_config_overrides_per_module={"ppo_0": {"grad_clip_by": "norm"}}),
            "'grad_clip_by'",
        ),
        (lambda c: c.rl_module(algorithm_config_overrides_per_module={"ppo_0": {"lr": -1}}), "lr"),
    ],
)
def test_what_is_honoured_within_limits_is_refused_beyond(change, message):
    with pytest.raises(ValueError, match=message):
        change(small_config("snowdrift")).validate()


def test_all_that_is_wrong_is_said_at_once():
    config = small_config("snowdrift").update_from_dict({"observation_filter": "x", "clip_rewards": True, "gama": 0.1})
    with pytest.raises(SettingError) as caught:
        config.validate()
    assert all(name in str(caught.value) for name in ("observation_filter", "clip_rewards", "gama"))


def test_nothing_is_refused_at_ones_own_risk():
    small_config("snowdrift").experimental(_validate_config=False).update_from_dict(
        {"observation_filter": "x"}
    ).validate()


def test_a_validated_configuration_stays_valid():
    config = small_config("snowdrift")
    config.validate()
    for same in (
        config,
        config.copy(),
        EmpathyConfig.from_state(config.get_state()),
        EmpathyConfig.from_dict(config.to_dict()),
    ):
        same.validate()
    other = config.copy().population(["a2c", "a2c", "ppo", "random"])
    other.validate()
    assert set(other.policies) == {"a2c_0", "a2c_1", "ppo_2", "random_3"}


# -- Options of agents


def written(name, value):
    """Configurations into which an option came in all ways that there are."""
    by_method = EmpathyConfig().training(**{name: value})
    by_attribute, by_item = EmpathyConfig(), EmpathyConfig()
    setattr(by_attribute, name, value)
    by_item[name] = value
    by_dict = EmpathyConfig().update_from_dict({"lambda" if name == "lambda_" else name: value})
    yield from (by_method, by_attribute, by_item, by_dict, by_dict.copy(), pickle.loads(pickle.dumps(by_item)))
    yield EmpathyConfig.from_dict({name: value})
    yield EmpathyConfig.from_dict(by_method.to_dict())
    yield EmpathyConfig.from_state(by_attribute.get_state())
    yield EmpathyConfig().update_from_dict({"__trial_info__": None, **by_method.to_dict()})


@pytest.mark.parametrize("name", sorted(agent_options()))
def test_options_of_agents_are_one_setting_however_they_are_written(name):
    for config in written(name, 0.25):
        assert config.agent_defaults == {name: 0.25}
        assert name in config
        assert config.to_dict()["lambda" if name == "lambda_" else name] == 0.25


def test_options_reach_the_agents_that_have_them():
    wanted = {"lr": 0.5, "gamma": 0.1, "lambda_": 0.3, "grad_clip": None, "num_epochs": 7, "minibatch_size": 11}
    for name, value in wanted.items():
        for config in written(name, value):
            members = (
                config.environment("snowdrift")
                .population(["ppo", "ppo", "a2c", "random"])
                .resolved_population()
                .members
            )
            assert [getattr(m.options, name, value) for m in members] == [value] * 4


def test_options_that_nobody_sets_are_each_kinds_own():
    config = EmpathyConfig().environment("snowdrift")
    for name, kind in KINDS.items():
        if name == "frozen":
            continue
        for option in kind.Options.model_fields:
            field = kind.Options.model_fields[option]
            if not field.is_required():
                config.population(name)
                assert getattr(config, option) == field.get_default(call_default_factory=True), (name, option)


def test_a_configuration_says_what_agents_use():
    config = EmpathyConfig().population(
        [{"kind": "ppo", "gamma": 0.5}, {"kind": "a2c", "count": 2, "gamma": 0.5}, "random"]
    )
    assert config.gamma == 0.5
    config.gamma = 0.9  # each entry has its own
    assert config.gamma == 0.5
    config.population([{"kind": "ppo", "gamma": 0.5}, "ppo", "random", "random"])
    assert config.gamma == 0.9  # they differ: what is set for all
    assert EmpathyConfig().population(["ppo", {"kind": "ppo", "gamma": 0.5}]).gamma is None
    config.environment("snowdrift").multi_agent(algorithm_config_overrides_per_module={"ppo_1": {"gamma": 0.7}})
    assert [config.get_config_for_module(module_id).gamma for module_id in ("ppo_0", "ppo_1")] == [0.5, 0.7]


def test_a_frozen_configuration_stays_as_it_is():
    config = EmpathyConfig()
    config.freeze()
    for write in (
        lambda: setattr(config, "lr", 1.0),
        lambda: config.__setitem__("lr", 1.0),
        lambda: config.training(lr=1.0),
    ):
        with pytest.raises(AttributeError, match="frozen"):
            write()
    assert config.lr == 0.001


def test_states_of_older_versions_give_the_options_that_agents_had():
    state = {
        **EmpathyConfig().training(gamma=0.9).get_state(),
        "gamma": 0.99,
        "lr": 0.7,
    }  # RLlib's lay beside, read by nobody
    config = EmpathyConfig.from_state(state)
    assert config.agent_defaults == {"gamma": 0.9}
    assert config.lr == 0.001


def test_an_option_that_a_trial_sets_for_all_and_no_agent_takes_is_refused():
    entries = [{"kind": "ppo", "count": 4, "lr": 0.1}]
    small_config("snowdrift", entries).training(lr=0.2).validate()  # a study's variant may have values of its own
    trial = EmpathyConfig.from_dict({**small_config("snowdrift", entries).to_dict(), "lr": 0.2, "__trial_info__": None})
    with pytest.raises(SettingError, match=r"lr = 0\.2 is set for all agents and taken by none"):
        trial.validate()


# -- Honoured


def test_a_train_batch_is_as_large_as_rllibs():
    config = small_config("snowdrift", games=8).learners(num_learners=2)
    assert config.env_steps_wanted == 0  # one round
    config.training(train_batch_size=400)
    assert (config.env_steps_wanted, config.train_batch_size_per_learner, config.total_train_batch_size) == (
        400,
        200,
        400,
    )
    config.training(train_batch_size_per_learner=300)
    assert (config.env_steps_wanted, config.train_batch_size_per_learner) == (600, 300)


def test_resources_are_asked_for():
    config = (
        small_config("snowdrift")
        .env_runners(num_env_runners=2, num_cpus_per_env_runner=3, custom_resources_per_env_runner={"near": 1})
        .learners(
            num_learners=2, num_cpus_per_learner=4, num_gpus_per_learner=1, custom_resources_per_learner={"fast": 2}
        )
        .resources(
            num_cpus_for_main_process=5, custom_resources_for_main_process={"mine": 1}, placement_strategy="SPREAD"
        )
    )
    config.validate()
    asked = Empathy.default_resource_request(config)
    assert asked.strategy == "SPREAD"
    total = {key: sum(bundle.get(key, 0) for bundle in asked.bundles) for key in ("CPU", "GPU", "near", "mine", "fast")}
    assert total == {"CPU": 5 + 2 * 3 + 2 * 4, "GPU": 2, "near": 2, "mine": 1, "fast": 4}


HONOURED_ELSEWHERE = {
    "algorithms/algorithm.py": [
        "log_level",
        "min_time_s_per_iteration",
        "min_train_timesteps_per_iteration",
        "num_consecutive_env_runner_failures_tolerance",
        "env_runner_restore_timeout_s",
        "evaluation_auto_duration_min_env_steps_per_sample",
        "evaluation_auto_duration_max_env_steps_per_sample",
        "evaluation_sample_timeout_s",
        "evaluation_parallel_to_training",
        "evaluation_unhealthy_workers_timeout_s",
        "evaluation_error_after_n_consecutive_skips",
        "evaluation_force_reset_envs_before_iteration",
        "custom_evaluation_function",
    ],
    "env/env_runner_group.py": [
        "num_env_runners",
        "validate_env_runners_after_construction",
        "max_requests_in_flight_per_env_runner",
        "restart_failed_env_runners",
        "ignore_env_runner_failures",
        "max_num_env_runner_restarts",
        "env_runner_health_probe_timeout_s",
    ],
    "utils/actor_manager.py": ["delay_between_env_runner_restarts_s"],
    "utils/framework.py": ["local_gpu_idx"],
}
"""File of RLlib's -> settings that it reads on this path, too."""


@pytest.mark.parametrize(
    ("file", "name"), [(file, name) for file, names in HONOURED_ELSEWHERE.items() for name in names]
)
def test_rllib_still_reads_what_it_is_said_to_honour(file, name):
    assert setting(name).honoured
    root = Path(inspect.getfile(AlgorithmConfig)).parents[1]
    assert name in (root / file).read_text(encoding="utf-8")


class Runner(JointEnvRunner):
    """A user's own."""


class Learner(EmpathyLearner):
    """A user's own, which reads a setting of its own."""

    def before_gradient_based_update(self, **kwargs):
        super().before_gradient_based_update(**kwargs)
        self.metrics.log_value("of_dict", self.config.learner_config_dict["mine"], reduce="mine")


CALLED: list[str] = []


class Mine(RLlibCallback):
    """Every callback that is honoured."""

    def on_algorithm_init(self, **kwargs):
        CALLED.append("on_algorithm_init")

    def on_environment_created(self, *, env_runner, metrics_logger, env, env_context, **kwargs):
        assert env is env_runner.world
        assert env_context["drifts"] == 3
        CALLED.append("on_environment_created")

    def on_sample_end(self, *, env_runner, metrics_logger, samples, **kwargs):
        metrics_logger.log_value("rows", sum(sample.env_steps() for sample in samples), reduce="sum")
        CALLED.append("on_sample_end")

    def on_evaluate_start(self, **kwargs):
        CALLED.append("on_evaluate_start")

    def on_evaluate_end(self, **kwargs):
        CALLED.append("on_evaluate_end")

    def on_train_result(self, *, algorithm, metrics_logger, result, **kwargs):
        CALLED.append("on_train_result")

    def on_checkpoint_loaded(self, **kwargs):
        CALLED.append("on_checkpoint_loaded")


def by_function(name):
    return lambda **kwargs: CALLED.append(f"function {name}")


def acting(algorithm, module_id):
    module = algorithm.learner_group._learner.module[module_id]
    return [parameter.detach().clone() for parameter in module.actor_critic.parameters()]


def test_honoured_settings_have_their_effects(ray_local, tmp_path):
    CALLED.clear()
    functions = ("on_environment_created", "on_sample_end", "on_train_result")
    config = (
        small_config("snowdrift")
        .environment(env_config={"drifts": 3})
        .env_runners(env_runner_cls=Runner)
        .learners(learner_class=Learner, learner_config_dict={"mine": 5.0})
        .callbacks([Mine], **{name: by_function(name) for name in functions})
        .multi_agent(
            algorithm_config_overrides_per_module={"ppo_1": EmpathyConfig.overrides(lr=0.5, gamma=0.3)},
            policies_to_train=["ppo_1", "ppo_2"],
        )
        .reporting(
            log_gradients=True, min_sample_timesteps_per_iteration=300, custom_stats_cls_lookup={"mine": MeanStats}
        )
        .evaluation(
            evaluation_interval=1,
            evaluation_duration=3,
            evaluation_config=EmpathyConfig.overrides(
                explore=False, num_envs_per_env_runner=3, env_config={"drifts": 3}
            ),
        )
    )
    algorithm = config.build_algo()
    before = {module_id: acting(algorithm, module_id) for module_id in ("ppo_0", "ppo_1")}
    result = algorithm.train()
    learned = result["learners"]

    assert isinstance(algorithm.env_runner, Runner)
    assert learned["of_dict"] == 5.0
    assert [learned[module_id]["default_optimizer_learning_rate"] for module_id in ("ppo_1", "ppo_2")] == [0.5, 0.001]
    assert learned["ppo_1"]["gradients_default_optimizer_global_norm"] > 0
    assert "total_loss" not in learned["ppo_0"]
    assert all((now == then).all() for now, then in zip(acting(algorithm, "ppo_0"), before["ppo_0"], strict=True))
    assert any((now != then).any() for now, then in zip(acting(algorithm, "ppo_1"), before["ppo_1"], strict=True))
    assert result["env_runners"]["num_env_steps_sampled"] == 320  # two rounds of 8 * 20 reach 300
    assert result["env_runners"]["rows"] == 320
    assert result["evaluation"]["env_runners"]["num_episodes"] == 3
    assert algorithm.eval_env_runner.config.explore is False

    algorithm.save_to_path(tmp_path)
    algorithm.load_checkpoint(str(tmp_path))
    honoured = {name for name, found in CALLBACKS.items() if found.honoured} - {
        "on_env_runners_recreated",
        "on_workers_recreated",
    }
    assert honoured <= set(CALLED), "all but those of runners that died"
    assert {f"function {name}" for name in functions} <= set(CALLED)
    algorithm.stop()
