"""Sampled softmax, fused: slabs of rows that stay in the cache, with a gradient of its own.

    l_ij = <u_i, v_j> / temperature - log q_j,   loss_i = log sum_j [not masked] exp(l_ij - l_ii)

All that is linear goes into matrix products: log q and -l_ii as two more columns of the factors, the sum over j as a
column of ones next to the items in the product which the users' gradient needs anyway. Of a slab [R, C] there remain
one exp and one pass for the mask; the gradient reuses the exponentials and needs one more matrix product.

Shape letters: B rows of a batch, C candidates in it (C >= B; column i is row i's own item), D vector width, R rows of a
slab.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

# Cells of a slab, 1 MB of float32, which a core's own cache holds. Slabs of 4 MB take half as long again from B = 4096
# on, where the system has to find and clear their memory again in each step.
SLAB_CELLS = 2**18
# exp(75) times a million columns is finite in float32, whose largest number is about exp(88).
LARGEST_EXPONENT = 75.0

# What is computed of the rows from one number up to another.
Slab = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def fused_softmax(
    users: tf.Tensor,
    items: tf.Tensor,
    *,
    temperature: tf.Tensor | float,
    log_q: tf.Tensor | None = None,
    mask: tf.Tensor | None = None,
    item_gradient: tf.Tensor | None = None,
    own: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> tf.Tensor:
    """The losses of `training.losses.softmax.in_batch_softmax`, from vectors instead of scores.

    Args:
        users: [B, D] float, gets a gradient.
        items: [C, D] of the same type, gets a gradient; row i is the own item of row i of the users.
        temperature: [] what inner products are divided by, gets a gradient if it is a tensor.
        log_q: [C], subtracted from the scores, without a gradient; None leaves them as they are.
        mask: [B, C] bool, True where a column must not count as a negative of a row; the row's own column is never
            masked.
        item_gradient: [C], what an item's gradient counts where it is another row's negative; None counts it as it is.
        own: Vectors [B, D] and log q [B] of the rows' own items where these are apart from the columns, of which none
            is the own one then; None takes the first columns.

    Returns:
        [B] losses, nats, not reduced.

    Raises:
        ValueError: The shapes do not fit each other, or C < B.

    Source: Yi et al., RecSys 2019, section 3. Departs from the usual computation: the row's own logit, not its largest,
        is the stabiliser where a bound shows that it suffices.
    """
    users, items = tf.convert_to_tensor(users), tf.convert_to_tensor(items)
    log_q = tf.zeros_like(items[:, 0]) if log_q is None else tf.cast(log_q, items.dtype)
    mask = None if mask is None else tf.convert_to_tensor(mask)
    _check(users, items, log_q, mask, own)
    sharpness = 1.0 / tf.convert_to_tensor(temperature, users.dtype)
    counts = None if item_gradient is None else tf.cast(item_gradient, items.dtype)
    return _losses(users, items, sharpness, tf.stop_gradient(log_q), mask, counts, own)


def _losses(
    users: tf.Tensor,
    items: tf.Tensor,
    sharpness: tf.Tensor,
    log_q: tf.Tensor,
    mask: tf.Tensor | None,
    item_gradient: tf.Tensor | None,
    apart: tuple[tf.Tensor, tf.Tensor] | None,
) -> tf.Tensor:
    num_rows, width = tf.shape(users)[0], items.shape[1]
    own_vectors, own_log_q = (items[:num_rows], log_q[:num_rows]) if apart is None else apart

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def losses_of(
        users: tf.Tensor, items: tf.Tensor, own_items: tf.Tensor, sharpness: tf.Tensor
    ) -> tuple[tf.Tensor, object]:
        scaled = users * sharpness
        own = tf.reduce_sum(scaled * own_items, axis=1) - tf.stop_gradient(own_log_q)
        shift = _shift(scaled, items, log_q, mask, own)
        left, right = _factors(scaled, items, log_q, shift)
        with_ones = tf.concat([items, tf.ones_like(items[:, :1])], axis=1)

        def of_slab(begin: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            terms = tf.exp(tf.matmul(left[begin:end], right, transpose_b=True))
            if mask is not None:
                terms = tf.where(mask[begin:end], tf.zeros([], terms.dtype), terms)
            return tf.matmul(terms, with_ones), terms

        sums, terms = _by_slab(of_slab, items, num_rows, width + 1)
        # The own term where the mask leaves it out, or it is in no column: in the sum it counts all the same.
        left_out = tf.zeros_like(own) if apart is None else tf.exp(own - shift)
        if mask is not None and apart is None:
            left_out = tf.where(tf.linalg.diag_part(mask), tf.exp(own - shift), left_out)
        total = sums[:, width] + left_out

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
            # d loss_i / d l_ij = term_ij / total_i - [j = i]
            by_row = (upstream / total)[:, None]
            by_own = left_out[:, None] * by_row - upstream[:, None]
            to_scaled = by_row * sums[:, :width] + by_own * own_items
            to_items = _transposed_product(terms, by_row * scaled, items)
            if item_gradient is not None and apart is not None:
                to_items *= item_gradient[:, None]
            elif item_gradient is not None:
                # The own term of a row is no negative: in the sum it counts once, unlike the others.
                own_term = tf.where(left_out > 0, tf.zeros_like(own), tf.exp(own - shift))[:, None] * by_row * scaled
                own_rows = tf.pad(own_term, [[0, tf.shape(items)[0] - num_rows], [0, 0]])
                to_items = own_rows + item_gradient[:, None] * (to_items - own_rows)
            return to_scaled * sharpness, to_items, by_own * scaled, tf.reduce_sum(to_scaled * users)

        return tf.math.log(total) + shift - own, gradient

    return losses_of(users, items, own_vectors, sharpness)


def _shift(users: tf.Tensor, items: tf.Tensor, log_q: tf.Tensor, mask: tf.Tensor | None, own: tf.Tensor) -> tf.Tensor:
    """What is subtracted from a row's logits before exp: [B].

    The own logit, which needs no look at the others, as long as no logit can exceed it by too much:
    l_ij <= |u_i| max_j |v_j| - min_j log q_j. Otherwise the row's largest logit.
    """
    bound = tf.norm(users, axis=1) * tf.reduce_max(tf.norm(items, axis=1)) - tf.reduce_min(log_q)

    def largest() -> tf.Tensor:
        left, right = _factors(users, items, log_q, tf.zeros_like(own))

        def of_slab(begin: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = tf.matmul(left[begin:end], right, transpose_b=True)
            if mask is not None:
                logits = tf.where(mask[begin:end], logits.dtype.min, logits)
            return tf.reduce_max(logits, axis=1, keepdims=True), tf.zeros([0], logits.dtype)

        return tf.maximum(own, _by_slab(of_slab, items, tf.shape(users)[0], 1)[0][:, 0])

    return tf.cond(tf.reduce_all(bound - own <= LARGEST_EXPONENT), lambda: own, largest)


def _factors(users: tf.Tensor, items: tf.Tensor, log_q: tf.Tensor, shift: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """[B, D + 2] and [C, D + 2] whose product is <u_i, v_j> - log q_j - shift_i."""
    left = tf.concat([users, -tf.ones_like(users[:, :1]), -shift[:, None]], axis=1)
    return left, tf.concat([items, log_q[:, None], tf.ones_like(items[:, :1])], axis=1)


def _by_slab(of_slab: Slab, items: tf.Tensor, num_rows: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.TensorArray]:
    """First results [R, width] of all slabs of rows one below the other, [B, width], and the list of the second."""
    size = _slab_rows(items)
    num_slabs = (num_rows + size - 1) // size
    first, second = (
        tf.TensorArray(items.dtype, num_slabs, clear_after_read=False, infer_shape=False) for _ in range(2)
    )

    def step(number: tf.Tensor, *found: tf.TensorArray) -> tuple[tf.Tensor | tf.TensorArray, ...]:
        begin = number * size
        of_this = of_slab(begin, tf.minimum(begin + size, num_rows))
        return number + 1, *(array.write(number, part) for array, part in zip(found, of_this, strict=True))

    start = (0, first, second)
    _, first, second = tf.while_loop(lambda number, *_: number < num_slabs, step, start, parallel_iterations=1)
    return tf.ensure_shape(first.concat(), [None, width]), second


def _transposed_product(terms: tf.TensorArray, pulled: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """sum_i terms_ij pulled_i, slab by slab: terms [R, C] each, pulled [B, D] -> [C, D]."""
    size = _slab_rows(items)

    def step(number: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        begin = number * size
        part = tf.matmul(terms.read(number), pulled[begin : begin + size], transpose_a=True)
        return number + 1, total + tf.ensure_shape(part, items.shape)

    start = (0, tf.zeros_like(items))
    return tf.while_loop(lambda number, _: number < terms.size(), step, start, parallel_iterations=1)[1]


def _slab_rows(items: tf.Tensor) -> tf.Tensor:
    return tf.maximum(1, SLAB_CELLS // tf.shape(items)[0])


def _check(
    users: tf.Tensor,
    items: tf.Tensor,
    log_q: tf.Tensor,
    mask: tf.Tensor | None,
    own: tuple[tf.Tensor, tf.Tensor] | None,
) -> None:
    found = {"users": (users, [None, items.shape[-1]]), "items": (items, [None, users.shape[-1]])}
    found |= {"log_q": (log_q, items.shape[:1])}
    if mask is not None:
        found |= {"mask": (mask, [users.shape[0], items.shape[0]])}
    if own is not None:
        found |= {"own items": (own[0], users.shape), "their log_q": (own[1], users.shape[:1])}
    for name, (tensor, expected) in found.items():
        if not tensor.shape.is_compatible_with(expected):
            raise ValueError(
                f"{name} has shape {tensor.shape}, expected {tf.TensorShape(expected)} with users {users.shape} and "
                f"items {items.shape}"
            )
    num_rows, num_items = users.shape[0], items.shape[0]
    if own is None and num_rows is not None and num_items is not None and num_items < num_rows:
        raise ValueError(
            f"{num_items} items for {num_rows} users, expected at least as many: the own item of each user first"
        )
