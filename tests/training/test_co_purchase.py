"""Co-purchase factors of items."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from towers.co_purchase import ItemFactors
from training import co_purchase
from training.co_purchase import UNCHOSEN_WEIGHT, WEIGHTS, item_factors, recall_by_weight, with_factors_of, with_weight
from training.config import TowerConfig
from training.negatives.known_positives import KnownPositives

NUM_USERS, NUM_ITEMS = 30, 12


def factors_of(
    matrix: npt.NDArray[np.float64],
    *,
    num_factors: int,
    user_power: float = 0.25,
    item_power: float = 0.3,
    seed: int = 1,
) -> npt.NDArray[np.float32]:
    return all_of(matrix, num_factors=num_factors, user_power=user_power, item_power=item_power, seed=seed).own


def all_of(
    matrix: npt.NDArray[np.float64], *, num_factors: int, user_power: float, item_power: float, seed: int = 1
) -> ItemFactors:
    users, items = np.nonzero(matrix)
    return item_factors(
        users,
        items,
        num_user_rows=matrix.shape[0],
        num_item_rows=matrix.shape[1],
        num_factors=num_factors,
        user_power=user_power,
        item_power=item_power,
        seed=seed,
    )


@pytest.fixture(scope="module")
def matrix() -> npt.NDArray[np.float64]:
    """Popular items on the left; row 0 of users and of items, the unknown ones, are empty."""
    rng = np.random.default_rng(2)
    matrix = (rng.random((NUM_USERS, NUM_ITEMS)) < np.linspace(0.9, 0.1, NUM_ITEMS)).astype(float)
    matrix[0], matrix[:, 0] = 0, 0
    return matrix


@pytest.mark.parametrize("transposed", [False, True], ids=["more users than items", "more items than users"])
def test_factors_are_the_right_singular_vectors_strongest_first(
    matrix: npt.NDArray[np.float64], transposed: bool
) -> None:
    matrix = matrix.T if transposed else matrix
    expected = np.linalg.svd(matrix)[2][:4].T
    expected = expected / np.linalg.norm(expected, axis=1).max()
    found = factors_of(matrix, num_factors=4, user_power=0.0, item_power=0.0)
    assert (found.dtype, found.shape) == (np.float32, (matrix.shape[1], 4))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)
    # Up to the sign of whole columns, which is fixed by the largest entry.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)
    assert (found[np.abs(found).argmax(axis=0), range(4)] > 0).all()


@pytest.mark.parametrize(("user_power", "item_power"), [(0.0, 0.0), (0.25, 0.3), (0.5, 0.5), (1.0, 0.0)])
def test_scores_are_those_of_the_scaled_matrix(
    matrix: npt.NDArray[np.float64], user_power: float, item_power: float
) -> None:
    """By hand: the history, scaled, through the first singular vectors, and scaled back."""
    found = all_of(matrix, num_factors=4, user_power=user_power, item_power=item_power)
    of_user, of_item = (np.maximum(matrix.sum(axis=axis), 1) for axis in (1, 0))
    scaled = matrix / of_user[:, None] ** user_power / of_item**item_power
    right = np.linalg.svd(scaled)[2][:4]
    expected = (matrix / of_item**item_power) @ right.T @ right * of_item**item_power

    scores = (matrix * found.weights) @ found.own @ found.own.T

    assert np.linalg.norm(found.own, axis=1).max() == pytest.approx(1)
    np.testing.assert_allclose(scores[1:] / scores[1:].max(), expected[1:] / expected[1:].max(), atol=1e-4)


def test_the_same_seed_gives_the_same_bits_and_another_one_the_same_factors(matrix: npt.NDArray[np.float64]) -> None:
    first, again, other = (factors_of(matrix, num_factors=4, seed=seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    np.testing.assert_allclose(first, other, atol=1e-4)


def test_a_pair_counts_once_however_often_it_is_given() -> None:
    users, items = np.array([1, 1, 2, 2, 3, 3]), np.array([1, 2, 1, 3, 2, 3])
    sizes = {"num_user_rows": 4, "num_item_rows": 4, "num_factors": 2, "seed": 1}
    powers = {"user_power": 0.25, "item_power": 0.3}
    once = item_factors(users, items, **sizes, **powers)
    repeated = item_factors(np.append(users, [1, 1]), np.append(items, [1, 1]), **sizes, **powers)
    assert once.own.tobytes() == repeated.own.tobytes()
    assert once.weights.tobytes() == repeated.weights.tobytes()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_users", [7, 31], ids=["few users", "many users"])
def test_factors_beyond_the_rank_and_of_items_without_users_are_zero(num_users: int, power: float) -> None:
    """Users of three kinds, two items each: rank 3. Items 0 and 7 to 9 are never met."""
    matrix = np.zeros((num_users, 10))
    for user in range(1, num_users):
        kind = user % 3
        matrix[user, [1 + 2 * kind, 2 + 2 * kind]] = 1
    found = factors_of(matrix, num_factors=6, user_power=power, item_power=power)
    assert np.linalg.matrix_rank(found) == 3
    assert (found[:, 3:] == 0).all()
    assert (found[[0, 7, 8, 9]] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(found[1:7], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("matrix", "met"),
    [
        ([[0, 0], [0, 1]], [1]),
        ([[0, 0, 0, 0], [0, 1, 0, 1]], [1, 3]),
        ([[0, 0], [0, 1], [0, 0], [0, 1]], [1]),
        ([[0, 0, 0], [0, 0, 0]], []),
        ([[0, 0, 0]], []),
    ],
    ids=["one pair", "one user", "one item", "no pairs", "no users"],
)
def test_the_smallest_data_gives_factors(matrix: list[list[float]], met: list[int]) -> None:
    found = factors_of(np.array(matrix), num_factors=5)
    expected = np.zeros((len(matrix[0]), 5))
    expected[met, 0] = 1
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("useful", "best"), [("factors", max(WEIGHTS)), ("learned", min(WEIGHTS))])
def test_the_weight_goes_to_what_finds_more(useful: str, best: float) -> None:
    """One part of the vectors points at what is relevant, the other one at random."""
    rng = np.random.default_rng(5)
    right, wrong = rng.normal(size=(2, 40, 8))
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    noise = 0.1 * rng.normal(size=(40, 8))
    order = 1 if useful == "learned" else -1
    items = np.concatenate([right, wrong][::order], axis=1).astype(np.float32)
    users = np.concatenate([right, noise][::order], axis=1).astype(np.float32)
    users[:, 8:] *= UNCHOSEN_WEIGHT
    relevant = sparse.csr_array(np.eye(40, dtype=bool))
    seen = sparse.csr_array((40, 40), dtype=np.float32)

    found = recall_by_weight(users, items, learned_width=8, seen=seen, relevant=relevant, k=3)

    assert list(found) == list(WEIGHTS)
    assert found[best] == max(found.values()) > 0.9
    assert found[max(WEIGHTS)] != found[min(WEIGHTS)]


def test_weights_have_no_recall_without_anything_relevant() -> None:
    nothing = sparse.csr_array((3, 4), dtype=bool)
    vectors = np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)
    seen = sparse.csr_array((3, 4), dtype=np.float32)

    found = recall_by_weight(*vectors, learned_width=1, seen=seen, relevant=nothing, k=2)

    assert set(found.values()) == {0.0}


def test_another_weight_gives_the_vectors_of_towers_with_it() -> None:
    learned, taste = np.array([[0.6, 0.8]]), np.array([[0.0, 1.0, 0.0]])

    def joined(weight: float) -> npt.NDArray[np.float64]:
        return np.concatenate([learned, weight * taste], axis=1) / np.sqrt(1 + weight**2)

    before = joined(UNCHOSEN_WEIGHT).astype(np.float32)
    found = with_weight(before, 3.0, learned_width=2, width=5)

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, joined(3.0), atol=1e-6)
    # Of several interests, each vector.
    several = with_weight(np.hstack([before, before]), 3.0, learned_width=2, width=5)
    np.testing.assert_allclose(several, np.hstack([found, found]), atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_lengths_are_tempered_and_directions_kept(matrix: npt.NDArray[np.float64], power: float) -> None:
    users, items = np.nonzero(matrix)
    sizes = {"num_user_rows": NUM_USERS, "num_item_rows": NUM_ITEMS, "num_factors": 3, "seed": 1}
    powers = {"user_power": 0.25, "item_power": 0.3}
    plain = item_factors(users, items, **sizes, **powers).own
    tempered = item_factors(users, items, **sizes, **powers, length_power=power).own

    lengths = np.linalg.norm(plain, axis=1)
    expected = np.append([0.0], lengths[1:] ** power)
    np.testing.assert_allclose(np.linalg.norm(tempered, axis=1), expected, rtol=1e-4)
    cosines = np.sum(plain[1:] * tempered[1:], axis=1) / (lengths[1:] * expected[1:])
    np.testing.assert_allclose(cosines, 1, atol=1e-5)


def test_powers_and_seed_reach_what_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def record(*rows: object, **others: object) -> ItemFactors:
        given.update(others)
        return ItemFactors(np.zeros((3, 4), np.float32), np.zeros(3, np.float32))

    monkeypatch.setattr(co_purchase, "item_factors", record)
    known = KnownPositives.of(np.array([1]), np.array([1]), num_user_rows=2)
    towers = TowerConfig(factor_dim=4, factor_powers=(0.1, 0.2, 0.3))
    encoder = SimpleNamespace(item_ids=SimpleNamespace(num_table_rows=3))

    with_factors_of(encoder, known, towers=towers, seed=9)  # type: ignore[arg-type]

    named = ("user_power", "item_power", "length_power", "seed", "num_factors", "num_user_rows", "num_item_rows")
    assert [given[name] for name in named] == [0.1, 0.2, 0.3, 9, 4, 2, 3]
