"""How do an id's neighbours enter its vector? Both towers add what they have met, over some hops.

    A = D_u^-1/2 X D_i^-1/2,   [U; V] = sum_{h=0..H} [[0, A], [A', 0]]^h [E_u; E_v]

One hop is a history tower: a user is its own row and the sum of the rows of its items, scaled by how many they are;
an item likewise by its users. Further hops reach users with items in common. Shape letters: U users, N items, P pairs,
D vector width.

Source: He et al., LightGCN, SIGIR 2020, section 3. Departs from it: the hops are added, not averaged, which vectors of
length one do not notice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy import sparse

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class NeighbourTowers(tf.Module):  # type: ignore[misc]
    """Id tables of users and items, and the pairs through which they are read.

    Args:
        users: [P] int64 user rows of distinct pairs.
        items: [P] int64 item rows.
        num_users: U.
        num_items: N.
        embedding_dim: D.
        num_hops: H; 0 is matrix factorisation.
        seed: Of the tables' first values.
    """

    def __init__(
        self,
        users: Ints,
        items: Ints,
        *,
        num_users: int,
        num_items: int,
        embedding_dim: int,
        num_hops: int,
        seed: int,
    ) -> None:
        """Normalises the pairs and fills the tables."""
        super().__init__()
        matrix = sparse.csr_array((np.ones(len(users), np.float32), (users, items)), shape=(num_users, num_items))
        of_users, of_items = (
            1.0 / np.sqrt(np.maximum(np.bincount(rows, minlength=size), 1.0))
            for rows, size in ((users, num_users), (items, num_items))
        )
        scaled = sparse.csr_array(sparse.diags_array(of_users) @ matrix @ sparse.diags_array(of_items))
        self._to_users = scaled.astype(np.float32)
        self._to_items = sparse.csr_array(self._to_users.T)
        self.num_hops = num_hops
        rng = np.random.default_rng(seed)
        self.user_table = tf.Variable(_first_values(rng, num_users, embedding_dim), name="user_table")
        self.item_table = tf.Variable(_first_values(rng, num_items, embedding_dim), name="item_table")

    def vectors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Vectors of all users [U, D] and all items [N, D], not normalised; gradients reach both tables.

        SciPy multiplies the sparse matrix, fourteen times faster on two cores than TensorFlow does; the map is linear
        and symmetric, so that it is its own gradient. Runs eagerly.
        """

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def spread(user_table: tf.Tensor, item_table: tf.Tensor) -> object:
            def gradient(of_users: tf.Tensor, of_items: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                dense = (tf.convert_to_tensor(part).numpy() for part in (of_users, of_items))
                return self._spread(*dense)

            return self._spread(user_table.numpy(), item_table.numpy()), gradient

        users, items = spread(self.user_table, self.item_table)
        return users, items

    def _spread(self, users: Floats, items: Floats) -> tuple[tf.Tensor, tf.Tensor]:
        total_users, total_items = users.copy(), items.copy()
        for _ in range(self.num_hops):
            users, items = self._to_users @ items, self._to_items @ users
            total_users += users
            total_items += items
        return tf.convert_to_tensor(total_users), tf.convert_to_tensor(total_items)


def _first_values(rng: np.random.Generator, num_rows: int, width: int) -> Floats:
    # Only the direction counts, so that the length sets how fast it turns.
    return rng.normal(scale=0.1, size=(num_rows, width)).astype(np.float32)
