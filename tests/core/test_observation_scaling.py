"""Observations are scaled element by element, and in the same way wherever a network sees them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st

from env_registry.observations import ObservationLayout
from rllib_empathy.inference import Agent
from rllib_empathy.policies import KINDS
from rllib_empathy.policies.actor_critic import FACTORS, LARGEST, SCALING, architecture_for
from rllib_empathy.policies.frozen import TrainedAgent
from rllib_empathy.policies.kind import checked_options
from rllib_empathy.policies.networks import LARGEST_BOUND, NetworkOptions, encode, evaluate, scale_of, scaled
from tests.core.agents import facts_of

FLOAT_MAX = float(np.finfo(np.float32).max)
BOUNDS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 9.0, 255.0, 1000.0, 1e6, LARGEST_BOUND, 2e9, FLOAT_MAX, np.inf])


def space_of(*bounds: float) -> Box:
    """Two bits, and elements with these bounds."""
    return Box(np.zeros(2 + len(bounds), np.float32), np.array([1, 1, *bounds], np.float32))


def module_for(space: Box, kind: str = "ppo", legacy: bool = False):
    options = checked_options(KINDS[kind], {"network": {"hidden": (8,)}})
    config = KINDS[kind].model_config(options, facts_of(space, 2), (0,))
    torch.manual_seed(0)
    extra = {SCALING: LARGEST} if legacy else {}
    return KINDS[kind].Module(observation_space=space, action_space=Discrete(2), model_config={**config, **extra})


def factor(bound: float) -> float:
    return 1 / bound if 1 < bound <= LARGEST_BOUND else 1.0


@given(st.lists(BOUNDS, min_size=1, max_size=6))
def test_each_element_is_brought_to_one_by_its_own_bound(bounds):
    found = np.broadcast_to(scale_of(np.array(bounds)), len(bounds))
    for bound, own in zip(bounds, found, strict=True):
        assert own == factor(bound) or bound == 0
    if len({factor(bound) for bound in bounds if bound}) <= 1:
        assert isinstance(scale_of(np.array(bounds)), float)
    hash(scale_of(np.array(bounds)))


@given(st.lists(BOUNDS, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
@torch.no_grad()
def test_all_that_scales_agrees(bounds, seed):
    """The acting network, convolution-free encoders of auxiliary networks, and plain products: x times the elements' factors."""
    space = space_of(*bounds)
    architecture = architecture_for(space, Discrete(2), NetworkOptions(conv_filters=(), hidden=(4,)))
    seen = torch.from_numpy(np.random.default_rng(seed).random((1, 5, len(bounds) + 2), np.float32))
    factors = torch.tensor([1.0, 1.0, *map(factor, bounds)])
    never = torch.tensor([False, False, *(bound == 0 for bound in bounds)])
    seen[..., never] = 0
    expected = seen * factors
    torch.testing.assert_close(scaled(architecture.scale, seen), expected)
    torch.testing.assert_close(encode(architecture, {"any": seen}, seen), expected)


@pytest.mark.parametrize("bound", [1000, 1e6, FLOAT_MAX, np.inf])
@pytest.mark.parametrize("kind", ["ppo", "lase", "reciprocator"])
@torch.no_grad()
def test_a_large_bound_of_one_element_leaves_what_the_network_makes_of_the_others(kind, bound):
    wide, plain = (module_for(space_of(each), kind) for each in (bound, 1))
    seen = torch.rand(1, 1, 6, 3)
    seen[..., 2] = 0
    answers = [
        evaluate(each.architecture, each.stacked([each], 6), seen, inputs=torch.zeros(1, 1, 6, sum(each.num_inputs)))
        for each in (wide, plain)
    ]
    torch.testing.assert_close(answers[0].logits, answers[1].logits, rtol=0, atol=0)
    torch.testing.assert_close(answers[0].values, answers[1].values, rtol=0, atol=0)


def test_a_picture_beside_bits_is_scaled_alone():
    layout = ObservationLayout({"a": Dict({"bits": Box(0, 1, (2,)), "picture": Box(0, 255, (2, 2, 3), np.uint8)})})
    scale = architecture_for(layout.space, Discrete(2), NetworkOptions()).scale
    np.testing.assert_allclose(scale, [1, 1, *[1 / 255] * 12])


def test_the_larger_side_counts_and_padding_does_not():
    spaces = Box(np.array([-50, -1], np.float32), np.array([1, 1], np.float32))
    np.testing.assert_allclose(architecture_for(spaces, Discrete(2), NetworkOptions()).scale, [1 / 50, 1])
    layout = ObservationLayout({"a": Box(0, 255, (4, 4, 3), np.uint8), "b": Box(0, 255, (6, 2, 3), np.uint8)})
    assert architecture_for(layout.space, Discrete(2), NetworkOptions()).scale == 1 / 255


def test_an_exported_network_scales_as_the_acting_one(tmp_path):
    bound = 1000
    module = module_for(space_of(bound))
    trained = TrainedAgent(
        "made up", 0, "ppo", "world", type(module), module.model_config, module.observation_space, module.action_space,
        weights=module.get_state(),
    )  # fmt: skip
    Agent(trained).to_onnx(tmp_path / "agent.onnx")
    seen = np.random.default_rng(0).random((4, 3), np.float32) * np.array([1, 1, bound], np.float32)
    found = onnxruntime.InferenceSession(tmp_path / "agent.onnx").run(None, {"observations": seen})[0]
    with torch.no_grad():
        expected = evaluate(module.architecture, module.stacked([module], 4), torch.from_numpy(seen)[None, None])
    np.testing.assert_allclose(found, expected.logits[0, 0].numpy(), atol=1e-5)


def test_weights_keep_to_the_factors_that_they_learned_with():
    new, old = module_for(space_of(1000)), module_for(space_of(1000), legacy=True)
    assert old.architecture.scale == pytest.approx(1 / 1000)
    assert FACTORS in new.get_state()
    assert FACTORS not in old.get_state()
    with pytest.raises(ValueError, match="of an earlier version"):
        new.set_state(old.get_state())
    with pytest.raises(ValueError, match="announces other bounds"):
        module_for(space_of(500)).set_state(new.get_state())
    module_for(space_of(1000)).set_state(new.get_state())


def test_where_all_bounds_are_equal_nothing_has_changed():
    for space in (Box(0, 255, (3, 4, 4), np.uint8), Box(0, 1, (5,), np.uint8), Box(-np.inf, np.inf, (5,), np.float32)):
        new, old = module_for(space), module_for(space, legacy=True)
        assert new.architecture == old.architecture
        assert new.get_state().keys() == old.get_state().keys()
