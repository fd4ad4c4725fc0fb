"""The net of the second look: its formula, what counts in it, and its file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from serving.second_look.inputs import Inputs
from serving.second_look.net import LIMIT, WEIGHTS, Net


@pytest.fixture
def net() -> Net:
    rng = np.random.default_rng(1)
    names = ("first", "second", "third")
    shapes = {"attention": (4, 2), "hidden": (3 + 8, 5), "hidden_bias": (5,), "output": (5,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return Net(names, np.float32([1, 2, 3]), np.float32([1, 2, 4]), **weights)


@pytest.fixture
def inputs() -> Inputs:
    rng = np.random.default_rng(2)
    is_met = np.arange(4) < np.array([4, 2, 0, 1, 3, 0])[:, None]
    pairs = (rng.normal(size=(6, 4, 4)) * is_met[..., None]).astype(np.float32)
    return Inputs(rng.normal(size=(6, 3)).astype(np.float32), pairs, is_met)


def score_by_hand(net: Net, inputs: Inputs, entry: int) -> float:
    read = list((inputs.values[entry] - net.mean) / net.spread)
    met = inputs.pairs[entry][inputs.is_met[entry]]
    for code in range(2):
        powers = [float(np.exp(one @ net.attention[:, code])) for one in met]
        total = 1 + sum(powers)
        read += list(sum((power / total * one for power, one in zip(powers, met, strict=True)), np.zeros(4)))
    return float(np.maximum(np.array(read) @ net.hidden + net.hidden_bias, 0) @ net.output)


def test_scores_are_those_of_the_formula(net: Net, inputs: Inputs) -> None:
    expected = [score_by_hand(net, inputs, entry) for entry in range(6)]
    np.testing.assert_allclose(net.scores(inputs), expected, rtol=1e-4, atol=1e-5)


def test_a_score_depends_on_no_other_candidate(net: Net, inputs: Inputs) -> None:
    for entry in range(6):
        np.testing.assert_allclose(net.scores(inputs.of(np.array([entry]))), net.scores(inputs)[[entry]], rtol=1e-5)


def test_without_candidates_there_are_no_scores(net: Net, inputs: Inputs) -> None:
    nothing = inputs.of(np.empty(0, np.int64))
    assert net.scores(nothing).shape == (0,)
    assert net.counted(nothing).shape == (0, 4)


def test_what_was_never_trained_on_outweighs_nothing(net: Net, inputs: Inputs) -> None:
    far = dataclasses.replace(inputs, values=inputs.values + np.float32([0, 1e9, 0]))
    at_limit = dataclasses.replace(inputs, values=inputs.values.copy())
    at_limit.values[:, 1] = 2 + LIMIT * 2
    np.testing.assert_allclose(net.scores(far), net.scores(at_limit), rtol=1e-5)


def test_what_counts_is_the_loss_of_leaving_an_input_out(net: Net, inputs: Inputs) -> None:
    counted = net.counted(inputs)
    at_mean = dataclasses.replace(inputs, values=inputs.values.copy())
    at_mean.values[:, 1] = 2
    np.testing.assert_allclose(counted[:, 1], net.scores(inputs) - net.scores(at_mean), rtol=1e-4, atol=1e-5)
    # Without a history nothing is attended to.
    assert counted[[2, 5], -1].tolist() == [0, 0]
    assert np.abs(counted[0, -1]) > 0


def test_its_file_gives_the_same_net(net: Net, inputs: Inputs, tmp_path: Path) -> None:
    net.save(tmp_path / "net.npz")
    loaded = Net.load(tmp_path / "net.npz")
    assert loaded.names == net.names
    np.testing.assert_array_equal(loaded.scores(inputs), net.scores(inputs))
    assert {name: array.shape for name, array in loaded.weights.items()} == {
        name: getattr(net, name).shape for name in WEIGHTS
    }
