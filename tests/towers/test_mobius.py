"""Three classes come out of two towers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tf_keras

from features.encoding import Inputs
from features.kinds import InputSpec
from towers.mobius import BAD, CLICK, OneIndex, with_three_parts
from towers.two_tower import TwoTower, build_two_tower

Rows = Callable[..., Inputs]


@pytest.fixture
def base(
    user_specs: list[InputSpec], item_specs: list[InputSpec], randomise: Callable[[tf_keras.Model], None]
) -> TwoTower:
    towers = build_two_tower(user_specs, item_specs, embedding_dim=7)
    randomise(towers.item)
    randomise(towers.user)
    return towers


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_one_inner_product_is_the_click_part_less_the_bad_part(
    beta: float, base: TwoTower, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows
) -> None:
    towers = with_three_parts(base, bad_weight=beta)
    users, items = rows_of(user_specs, 4), rows_of(item_specs, 6)
    user, item = towers.user_parts(users)["parts"].numpy(), towers.item_parts(items)["parts"].numpy()
    assert (user.shape, item.shape) == ((4, 3, 2), (6, 3, 2))
    expected = user[:, CLICK] @ item[:, CLICK].T - beta * user[:, BAD] @ item[:, BAD].T
    scores = towers.user(users).numpy() @ towers.item(items).numpy().T
    np.testing.assert_allclose(scores * (2 * (1 + beta**2)) ** 0.5, expected, atol=1e-6)


def test_every_part_and_every_joined_vector_has_length_one(
    base: TwoTower, user_specs: list[InputSpec], item_specs: list[InputSpec], rows_of: Rows
) -> None:
    towers = with_three_parts(base, bad_weight=1.5)
    for model, parts, specs in (
        (towers.user, towers.user_parts, user_specs),
        (towers.item, towers.item_parts, item_specs),
    ):
        rows = rows_of(specs, 5)
        np.testing.assert_allclose(np.linalg.norm(model(rows), axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(parts(rows)["parts"], axis=2), 1, atol=1e-6)


def test_the_parts_of_the_pair_below_stay(base: TwoTower, user_specs: list[InputSpec], rows_of: Rows) -> None:
    users = rows_of(user_specs, 3)
    found = with_three_parts(base, bad_weight=1.0).user_parts(users)
    np.testing.assert_array_equal(found["vector"], base.user(users))


def test_vectors_narrower_than_three_have_no_room(user_specs: list[InputSpec], item_specs: list[InputSpec]) -> None:
    narrow = build_two_tower(user_specs, item_specs, embedding_dim=2)
    with pytest.raises(ValueError, match=r"towers\.embedding_dim is below 3"):
        with_three_parts(narrow, bad_weight=1.0)


def test_the_layer_is_made_again_from_its_configuration() -> None:
    layer = OneIndex.from_config(OneIndex(bad=-0.5, name="join").get_config())
    assert (layer.bad, layer.name) == (-0.5, "join")
