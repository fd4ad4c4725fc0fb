"""Product quantizer: a token is cut into parts, each replaced by the nearest row of its own codebook.

    k_m = argmin_k || t^(m) - C_k^(m) ||,   q = [C_{k_1}^(1); ...; C_{k_M}^(M)]

Codebooks follow the tokens by moving averages instead of a gradient:

    n_k <- g n_k + (1 - g) |{t : k(t) = k}|,   v_k <- g v_k + (1 - g) sum_{t : k(t) = k} t,   C_k = v_k / n_k

with sizes smoothed after Laplace, so that an empty row does not divide by nothing.

Shape letters: B rows, K tokens of a row, D width of a token, M parts, N rows of a codebook, P = D / M.

Source: Su et al. (SparCode), SIGIR 2023, section 3.3; van den Oord et al. (VQ-VAE), NIPS 2017, appendix A.1.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.cluster.vq import kmeans2

Floats = npt.NDArray[np.float32]
Sizes = npt.NDArray[np.int64]
# Of Laplace's smoothing: what each row of a codebook counts in addition to its tokens.
SMOOTHING = 1e-5
KMEANS_ROUNDS = 20
POINTS_PER_CODE = 16
# Tokens a batch on average, below which a row stays where it is.
SMALLEST_SIZE = 1e-2


class ProductQuantizer(tf.Module):  # type: ignore[misc]
    """Codebooks and their moving averages.

    Args:
        num_parts: M.
        num_codes: N.
        width: D, a multiple of M.
        decay: g, what stays of the averages at a step.
        restart_below: Rows that tokens fall into less often than this share of even use are put on tokens of the batch.
        seed: Of k-means, and of the tokens that dead rows are put on.

    Raises:
        ValueError: The width is not a multiple of the number of parts.
    """

    def __init__(
        self, *, num_parts: int, num_codes: int, width: int, decay: float, restart_below: float, seed: int
    ) -> None:
        """Makes empty codebooks; `start` fills them."""
        super().__init__(name="quantizer")
        if width % num_parts:
            raise ValueError(f"tokens have width {width}, expected a multiple of the {num_parts} parts they are cut in")
        self.num_parts, self.num_codes, self.width = num_parts, num_codes, width
        self._decay, self._restart_below, self._seed = decay, restart_below, seed
        shape = (num_parts, num_codes, width // num_parts)
        self.codebooks = tf.Variable(tf.zeros(shape), trainable=False, name="codebooks")
        self.sizes = tf.Variable(tf.ones(shape[:2]), trainable=False, name="sizes")
        self.sums = tf.Variable(tf.zeros(shape), trainable=False, name="sums")
        self.restarts = tf.Variable(0, dtype=tf.int64, trainable=False, name="restarts")
        self._random = tf.random.Generator.from_seed(seed, alg="philox")

    def like(self) -> ProductQuantizer:
        """An empty one of the same shape."""
        return ProductQuantizer(
            num_parts=self.num_parts, num_codes=self.num_codes, width=self.width, decay=self._decay,
            restart_below=self._restart_below, seed=self._seed,
        )  # fmt: skip

    def start(self, tokens: Floats) -> None:
        """Puts the codebooks where k-means puts them; where tokens are fewer than codes, each gets a row of its own.

        Args:
            tokens: [n, D] float32; of very many, a sample is taken.
        """
        some = np.random.default_rng(self._seed).permutation(len(tokens))[: POINTS_PER_CODE * self.num_codes]
        parts = tokens[np.sort(some)].reshape(len(some), self.num_parts, -1)
        found = [self._centers(parts[:, part].astype(np.float64), part) for part in range(self.num_parts)]
        centers, sizes = zip(*found, strict=True)
        # As large as in a batch of this many tokens.
        size = np.maximum(np.stack(sizes), 1.0).astype(np.float32)
        self.codebooks.assign(np.stack(centers).astype(np.float32))
        self.sizes.assign(size)
        self.sums.assign(self.codebooks * size[..., None])

    def _centers(self, points: npt.NDArray[np.float64], part: int) -> tuple[npt.NDArray[np.float64], Sizes]:
        """Centers of a part's points, and how many points each has: [N, P], [N]."""
        rng = np.random.default_rng([self._seed, part])
        distinct, counts = np.unique(points, axis=0, return_counts=True)
        if len(distinct) <= self.num_codes:
            # Each has a row of its own; what is left repeats them, a little apart, and waits for other tokens.
            spare = rng.integers(len(distinct), size=self.num_codes - len(distinct))
            apart = distinct[spare] + rng.normal(scale=1e-3, size=(len(spare), points.shape[1]))
            return np.concatenate([distinct, apart]), np.concatenate([counts, np.zeros(len(spare), np.int64)])
        first = distinct[rng.choice(len(distinct), self.num_codes, replace=False)]
        with warnings.catch_warnings():
            # A cluster that loses all of its points keeps its place, until it is restarted.
            warnings.filterwarnings("ignore", message="One of the clusters is empty")
            centers, owner = kmeans2(points, first, iter=KMEANS_ROUNDS, minit="matrix", missing="warn")
        return centers, np.bincount(owner, minlength=self.num_codes)

    def codes(self, tokens: tf.Tensor) -> tf.Tensor:
        """The code of each token: [..., D] -> [..., M] int32."""
        parts = self._parts(tokens)
        # || t - c ||^2 without || t ||^2, which all rows share.
        products = tf.einsum("nmp,mkp->nmk", parts, self.codebooks)
        distances = tf.reduce_sum(tf.square(self.codebooks), axis=-1)[None] - 2.0 * products
        nearest = tf.argmin(distances, axis=-1, output_type=tf.int32)
        return tf.reshape(nearest, tf.concat([tf.shape(tokens)[:-1], [self.num_parts]], axis=0))

    def decode(self, codes: tf.Tensor) -> tf.Tensor:
        """What a code decodes to: [..., M] int32 -> [..., D]."""
        flat = tf.reshape(codes, [-1, self.num_parts])
        parts = [tf.gather(self.codebooks[part], flat[:, part]) for part in range(self.num_parts)]
        return tf.reshape(tf.concat(parts, axis=-1), tf.concat([tf.shape(codes)[:-1], [self.width]], axis=0))

    def update(self, tokens: tf.Tensor, codes: tf.Tensor) -> None:
        """Moves the averages on by a batch, and puts rows that hardly anything falls into on tokens of it.

        Args:
            tokens: [..., D].
            codes: [..., M] int32, those of the tokens.
        """
        parts, flat = self._parts(tf.stop_gradient(tokens)), tf.reshape(codes, [-1, self.num_parts])
        # All parts in one table of M N rows.
        rows = tf.reshape(flat + self.num_codes * tf.range(self.num_parts), [-1])
        total = self.num_parts * self.num_codes
        counts = tf.math.bincount(rows, minlength=total, maxlength=total, dtype=tf.float32)
        sums = tf.math.unsorted_segment_sum(tf.reshape(parts, [-1, parts.shape[-1]]), rows, total)
        self.sizes.assign(self._decay * self.sizes + (1 - self._decay) * tf.reshape(counts, self.sizes.shape))
        self.sums.assign(self._decay * self.sums + (1 - self._decay) * tf.reshape(sums, self.sums.shape))
        self._restart(parts)
        in_part = tf.reduce_sum(self.sizes, axis=1, keepdims=True)
        smoothed = (self.sizes + SMOOTHING) / (in_part + self.num_codes * SMOOTHING) * in_part
        # What little is left of a row that nothing falls into any more would be smoothed away to zero.
        is_alive = self.sizes > SMALLEST_SIZE
        self.codebooks.assign(tf.where(is_alive[..., None], self.sums / smoothed[..., None], self.codebooks))

    def _restart(self, parts: tf.Tensor) -> None:
        dead = self.sizes < self._restart_below * tf.reduce_mean(self.sizes, axis=1, keepdims=True)
        drawn = self._random.uniform(self.sizes.shape, maxval=tf.shape(parts)[0], dtype=tf.int32)
        fresh = tf.stack([tf.gather(parts[:, part], drawn[part]) for part in range(self.num_parts)])
        self.sums.assign(tf.where(dead[..., None], fresh, self.sums))
        self.sizes.assign(tf.where(dead, tf.ones_like(self.sizes), self.sizes))
        self.restarts.assign_add(tf.reduce_sum(tf.cast(dead, tf.int64)))

    def _parts(self, tokens: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tokens, [-1, self.num_parts, self.width // self.num_parts])


def straight_through(tokens: tf.Tensor, quantised: tf.Tensor) -> tf.Tensor:
    """The quantised token forward, the token's gradient backward: t + stop(q - t).

    Source: van den Oord et al., NIPS 2017, section 3.2.
    """
    return tokens + tf.stop_gradient(quantised - tokens)
