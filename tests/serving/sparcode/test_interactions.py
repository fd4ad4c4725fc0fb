"""Scores of tokens and items without TensorFlow."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.sparcode import interactions as module
from serving.sparcode.interactions import (
    INTERACTIONS,
    MlpInteraction,
    ProductInteraction,
    load_interaction,
    save_interaction,
)
from towers import sparcode

Floats = npt.NDArray[np.float32]
every_kind = pytest.mark.parametrize("kind", ["mlp", "product"])


def random(*shape: int, seed: int) -> Floats:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def arrays_of(kind: str, *, width: int = 6, num_item_tokens: int = 3, units: int = 5) -> dict[str, Floats]:
    arrays = {"products": random(num_item_tokens, width, seed=1)}
    if kind == "mlp":
        arrays |= {
            "hidden": random(num_item_tokens, units, width, seed=2),
            "hidden_bias": random(units, seed=3),
            "output": random(units, seed=4),
        }
    return arrays


def make(kind: str, **sizes: int) -> MlpInteraction | ProductInteraction:
    return INTERACTIONS[kind](**arrays_of(kind, **sizes))


def fitted(kind: str, *, width: int, num_item_tokens: int, units: int) -> sparcode.Interaction:
    """The module of TensorFlow with random weights."""
    sizes = {"num_item_tokens": num_item_tokens, "width": width, "scale": 1.0}
    made: sparcode.Interaction = (
        sparcode.MlpInteraction(**sizes, hidden_units=units, seed=1)
        if kind == "mlp"
        else sparcode.ProductInteraction(**sizes)
    )
    for name, array in arrays_of(kind, width=width, num_item_tokens=num_item_tokens, units=units).items():
        getattr(made, name).assign(array)
    return made


@every_kind
@pytest.mark.parametrize(("width", "num_item_tokens", "units"), [(6, 3, 5), (32, 1, 16), (5, 4, 1)])
@pytest.mark.parametrize(("num_tokens", "num_items"), [(1, 1), (7, 70), (129, 3)])
def test_scores_are_those_of_the_fitted_net(
    kind: str, width: int, num_item_tokens: int, units: int, num_tokens: int, num_items: int
) -> None:
    net = fitted(kind, width=width, num_item_tokens=num_item_tokens, units=units)
    interaction = INTERACTIONS[kind](**net.arrays())
    tokens, items = random(num_tokens, width, seed=5), random(num_items, num_item_tokens, width, seed=6)
    found = interaction.scores(tokens, interaction.prepare(items))
    assert (found.dtype, found.shape) == (np.float32, (num_tokens, num_items))
    np.testing.assert_allclose(found, net.scores(tokens, items).numpy(), rtol=1e-4, atol=1e-4)
    assert (interaction.width, interaction.num_item_tokens) == (width, num_item_tokens)


def test_scores_by_hand() -> None:
    # q * t_1 = (2, 3), q * t_2 = (4, -3); products 2*1 + 3*0 + 4*0 + (-3)*(-1) = 5.
    # Hidden: relu(2 + 3 + 4 - 3 + .5) = 6.5, relu(2 - 3 - 9) = 0; output 2 * 6.5 + 7 * 0 = 13.
    interaction = MlpInteraction(
        products=np.array([[1, 0], [0, -1]], np.float32),
        hidden=np.array([[[1, 1], [1, 0]], [[1, 1], [0, 3]]], np.float32),
        hidden_bias=np.array([0.5, -3], np.float32),
        output=np.array([2, 7], np.float32),
    )
    token, item = np.array([[2, -3]], np.float32), np.array([[[1, -1], [2, 1]]], np.float32)
    assert interaction.scores(token, interaction.prepare(item)).tolist() == [[18]]
    product = ProductInteraction(interaction.products)
    assert product.scores(token, product.prepare(item)).tolist() == [[5]]


@every_kind
@given(num_tokens=st.integers(0, 40), num_items=st.integers(0, 40))
@settings(max_examples=30)
def test_a_pair_scores_the_same_in_any_batch(kind: str, num_tokens: int, num_items: int) -> None:
    interaction = make(kind)
    tokens, items = random(200, 6, seed=7), random(150, 3, 6, seed=8)
    everything = interaction.scores(tokens, interaction.prepare(items))
    part = interaction.scores(tokens[50 : 50 + num_tokens], interaction.prepare(items[60 : 60 + num_items]))
    np.testing.assert_allclose(part, everything[50 : 50 + num_tokens, 60 : 60 + num_items], rtol=1e-4, atol=1e-4)


@every_kind
def test_scores_do_not_depend_on_the_tiles(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interaction = make(kind)
    tokens, items = random(130, 6, seed=7), random(70, 3, 6, seed=8)
    usual = interaction.scores(tokens, interaction.prepare(items))
    monkeypatch.setattr(module, "_TILE_TOKENS", 9)
    monkeypatch.setattr(module, "_TILE_ITEMS", 4)
    found = interaction.scores(tokens, interaction.prepare(items))
    np.testing.assert_allclose(found, usual, rtol=1e-4, atol=1e-4)


def test_items_prepared_for_products_alone_are_refused_by_the_network() -> None:
    prepared = make("product").prepare(random(2, 3, 6, seed=8))
    with pytest.raises(ValueError, match="prepared for inner products alone"):
        make("mlp").scores(random(2, 6, seed=7), prepared)


@every_kind
def test_a_saved_interaction_is_the_same(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "interaction.npz"
    save_interaction(path, kind, arrays_of(kind))
    loaded, made = load_interaction(path), make(kind)
    assert type(loaded) is INTERACTIONS[kind]
    for name, array in arrays_of(kind).items():
        np.testing.assert_array_equal(getattr(loaded, name), array)
    assert loaded.digest == made.digest


def test_the_digest_depends_on_kind_shapes_and_numbers() -> None:
    changed = []
    for name in arrays_of("mlp"):
        arrays = arrays_of("mlp")
        arrays[name] = arrays[name] + np.float32(1e-3)
        changed.append(MlpInteraction(**arrays).digest)
    reshaped = ProductInteraction(arrays_of("product")["products"].reshape(6, 3)).digest
    digests = [make("mlp").digest, make("product").digest, reshaped, *changed]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("products", np.zeros((2, 6), np.float32), r"hidden is float32 of shape \[3, 5, 6\].*of shape \[2, 5, 6\]"),
        (
            "products",
            np.zeros(6, np.float32),
            r"products is float32 of shape \[6\], expected float32 of shape \[6, 6\]",
        ),
        ("hidden_bias", np.zeros(4, np.float32), r"hidden_bias is .*shape \[4\], expected float32 of shape \[5\]"),
        ("output", np.zeros(5), r"output is float64 of shape \[5\]"),
        ("output", np.array([1, 2, 3, np.nan, 5], np.float32), "output holds nan or infinity"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name: str, array: Floats, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MlpInteraction(**arrays_of("mlp") | {name: array})


@pytest.mark.parametrize("array", [np.zeros(6, np.float32), np.float32(1), np.zeros((0, 6), np.float32)])
def test_factors_of_another_shape_are_refused(array: Floats) -> None:
    with pytest.raises(ValueError, match="products is float32 of shape"):
        ProductInteraction(np.asarray(array))


def test_an_invalid_interaction_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "interaction.npz"
    with pytest.raises(ValueError, match="of kind 'cosine', expected one of: mlp, product"):
        save_interaction(path, "cosine", arrays_of("product"))
    with pytest.raises(
        ValueError, match="arrays of 'mlp' are products, expected products, hidden, hidden_bias, output"
    ):
        save_interaction(path, "mlp", arrays_of("product"))
    with pytest.raises(ValueError, match=r"arrays of 'product' are .*expected products"):
        save_interaction(path, "product", arrays_of("mlp"))
    assert not path.exists()


def _saved(**arrays: npt.NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK no archive",
        _saved(kind=np.array("product"), **arrays_of("product"))[:-30],
        _saved(**arrays_of("product")),
        _saved(kind=np.array("product"), products=np.array([{}], dtype=object)),
        _saved(kind=np.array("mlp"), **arrays_of("product")),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "interaction.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"interaction\.npz: holds no interaction: .+; export it again"):
        load_interaction(path)
