"""State of one run, options of another: what is learned with, and reported, are the options."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from env_registry import SettingError
from rllib_empathy.learning.algorithm import Empathy
from rllib_empathy.learning.config import EmpathyConfig
from tests.algorithm.common import small_config, weights


@pytest.fixture(autouse=True)
def interrupt_handler():
    """Tune leaves its own behind."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


LANE = {"lr": [[0, 0.01], [10_000, 0.001]], "exploration": [[0, 0.5], [10_000, 0.1]]}
"""Options that follow schedules."""


def optimisers(algorithm):
    """What every optimiser is set to, by its name."""
    learner = algorithm.learner_group._learner
    groups = {name: optimizer.param_groups[0] for name, optimizer in learner._named_optimizers.items()}
    return {name: {key: value for key, value in group.items() if key != "params"} for name, group in groups.items()}


def networks(algorithm):
    """The parameters of each agent, in one row."""
    modules = algorithm.learner_group._learner.module
    return {name: torch.cat([p.detach().flatten() for p in module.parameters()]) for name, module in modules.items()}


def shares(algorithm):
    """The shares of even actions, on the Learner and on the runner."""
    learner = algorithm.learner_group._learner.module["ppo_0"].exploration.item()
    return learner, algorithm.env_runner.module["ppo_0"].exploration.item()


@pytest.fixture(scope="module")
def saved(ray_local, tmp_path_factory):
    """A run with schedules, its checkpoint, and the same with constants."""
    folders = {}
    for name, options in (("scheduled", LANE), ("constant", {"lr": 0.001})):
        algorithm = small_config("snowdrift").training(**options).build_algo()
        algorithm.train()
        folders[name] = algorithm.save_to_path(tmp_path_factory.mktemp(name))
        algorithm.stop()
    return folders


@pytest.mark.parametrize("began", ["scheduled", "constant"])
def test_new_options_are_learned_with_from_the_first_update_on(saved, began):
    config = small_config("snowdrift").training(lr=1e-12, adam_epsilon=0.125, exploration=0.75, gamma=0.5)
    algorithm = Empathy.from_checkpoint(saved[began], config=config)
    assert algorithm.iteration == 1
    assert all(group["lr"] == 1e-12 and group["eps"] == 0.125 for group in optimisers(algorithm).values())
    assert shares(algorithm) == (0.75, 0.75)
    assert all(kind.options.gamma == 0.5 for kind in algorithm.learner_group._learner._kinds.values())
    before = weights(algorithm)
    learned = algorithm.train()["learners"]["ppo_0"]
    np.testing.assert_allclose(weights(algorithm), before, atol=1e-9)  # the old rate would have moved them
    assert learned["default_optimizer_learning_rate"] == 1e-12
    algorithm.stop()


@pytest.mark.parametrize("began", ["scheduled", "constant"])
def test_new_schedules_go_on_where_the_steps_are(saved, began):
    config = small_config("snowdrift").training(lr=[[0, 0.0], [320, 0.64]], exploration=[[0, 0.0], [320, 0.64]])
    algorithm = Empathy.from_checkpoint(saved[began], config=config)
    assert all(group["lr"] == pytest.approx(0.32) for group in optimisers(algorithm).values())  # 160 steps are played
    assert shares(algorithm) == pytest.approx((0.32, 0.32))
    algorithm.stop()


@pytest.mark.parametrize("began", ["scheduled", "constant"])
def test_the_same_options_leave_a_state_as_it_was(saved, began):
    algorithm = Empathy.from_checkpoint(saved[began])
    again = small_config("snowdrift").training(**(LANE if began == "scheduled" else {"lr": 0.001})).build_algo()
    again.train()
    assert optimisers(algorithm) == optimisers(again)
    assert shares(algorithm) == shares(again)
    algorithm.train()
    again.train()
    np.testing.assert_array_equal(weights(algorithm), weights(again))
    algorithm.stop()
    again.stop()


def test_who_learns_is_what_the_configuration_says(saved):
    config = small_config("snowdrift").training(lr=0.001).multi_agent(policies_to_train=["ppo_1"])
    algorithm = Empathy.from_checkpoint(saved["constant"], config=config)
    before = networks(algorithm)
    algorithm.train()
    changed = [name for name, now in networks(algorithm).items() if (now != before[name]).any()]
    assert changed == ["ppo_1"]
    algorithm.stop()


def test_new_options_reach_a_remote_learner(saved):
    config = small_config("snowdrift").training(lr=0.25, exploration=0.75).learners(num_learners=1)
    algorithm = Empathy.from_checkpoint(saved["constant"], config=config)

    def look(learner):
        rates = {optimizer.param_groups[0]["lr"] for optimizer in learner._named_optimizers.values()}
        return rates, learner.module["ppo_0"].exploration.item()

    assert [answer.get() for answer in algorithm.learner_group.foreach_learner(look)] == [({0.25}, 0.75)]
    algorithm.stop()


def scheduler(**mutations):
    return PopulationBasedTraining(
        time_attr="training_iteration",
        metric="env_runners/episode_return_mean",
        mode="max",
        perturbation_interval=2,
        quantile_fraction=0.5,
        resample_probability=1.0,
        hyperparam_mutations=mutations,
        synch=True,
    )


def fitted(param_space, path, algorithm=Empathy, **mutations):
    tuner = tune.Tuner(
        algorithm,
        param_space=param_space,
        tune_config=tune.TuneConfig(num_samples=2, scheduler=scheduler(**mutations)),
        run_config=tune.RunConfig(stop={"training_iteration": 3}, storage_path=str(path), verbose=0),
    )
    return tuner.fit()


def learned_with(result):
    return {
        numbers["default_optimizer_learning_rate"]
        for module_id, numbers in result.metrics["learners"].items()
        if "default_optimizer_learning_rate" in numbers
    }


class TellsOptions(Empathy):
    """Reports what its Learner's agents have."""

    def training_step(self):
        super().training_step()
        for module_id, kind in self.learner_group._learner._kinds.items():
            for name in ("gamma", "lambda_", "entropy_coeff"):
                self.metrics.log_value(("told", module_id, name), getattr(kind.options, name), reduce="mean", window=1)


@pytest.mark.filterwarnings("ignore:Consider boosting PBT")
def test_population_based_training_changes_what_is_learned_with(ray_local, tmp_path):
    config = (
        small_config("iterated_prisoners_dilemma", games=2)
        .environment(env_config={"episode_length": 10})
        .training(lr=tune.uniform(1e-4, 1e-3), entropy_coeff=0.02)
    )
    mutations = {"lr": tune.uniform(0.5, 0.6), "gamma": tune.uniform(0.1, 0.2), "lambda": tune.uniform(0.3, 0.4)}
    results = fitted(config, tmp_path, TellsOptions, **mutations)
    assert not results.errors
    assert any(result.config["lr"] > 0.4 for result in results), "no trial took over another one's state"
    for result in results:
        assert learned_with(result) == {result.config["lr"]}
        for told in result.metrics["told"].values():
            assert told["entropy_coeff"] == pytest.approx(0.02)
            if "gamma" in result.config:
                assert told["gamma"] == pytest.approx(result.config["gamma"])
                assert told["lambda_"] == pytest.approx(result.config["lambda"])


def test_plain_dicts_are_taken_as_configurations_are(ray_local):
    trial = {
        "env": "iterated_prisoners_dilemma",
        "num_envs_per_env_runner": 2,
        "rollout_fragment_length": 10,
        "population": ["ppo", {"kind": "ppo", "entropy_coeff": 0.3}],
        "lr": 0.02,
    }
    algorithm = Empathy(config=trial)
    learned = algorithm.train()["learners"]
    assert {learned[name]["default_optimizer_learning_rate"] for name in ("ppo_0", "ppo_1")} == {0.02}
    assert [m.options.entropy_coeff for m in algorithm.config.resolved_population().members] == [0.01, 0.3]
    algorithm.stop()


def test_a_search_over_what_no_agent_takes_is_refused(ray_local, tmp_path):
    population = [{"kind": "ppo", "count": 2, "lr": 0.1}]
    config = small_config("iterated_prisoners_dilemma", population).training(lr=tune.uniform(0.01, 0.02))
    tuner = tune.Tuner(
        Empathy,
        param_space=config,
        run_config=tune.RunConfig(stop={"training_iteration": 1}, storage_path=str(tmp_path), verbose=0),
    )
    try:
        errors = [str(error) for error in tuner.fit().errors]
    except SettingError as error:  # where Tune asks the configuration before any trial
        errors = [str(error)]
    assert errors
    assert all("taken by none: each entry of the population has its own" in error for error in errors)


def test_what_a_dict_changes_is_what_agents_get():
    space = small_config("snowdrift").training(lr=0.1).to_dict()
    space["lr"], space["gamma"] = 0.3, 0.4
    options = EmpathyConfig.from_dict(space).resolved_population().members[0].options
    assert (options.lr, options.gamma) == (0.3, 0.4)
