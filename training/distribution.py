"""Fits by several processes: each takes its share of the rows of every batch, and all take the same step.

    loss = 1/W sum_w loss_w,   loss_w = sum_{rows i of w} r_i l_i / (1/W sum_{all rows} r_i)

The softmax of a row is over the candidates of the whole batch, whose vectors are gathered from the processes that
compute them. So the loss and the step are those of one process with the whole batch, but for rounding. Gradients are
summed over the processes; of a table, the rows that each has touched are gathered, and its other rows are not sent.

Shape letters: W processes.

Source: Radford et al. (CLIP), ICML 2021, section 2.5, for a softmax over candidates that others compute.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np
import tensorflow as tf
import tf_keras

from training.data.batches import ITEM_PREFIX, LOG_Q, MASK, PRIVATE_LOG_Q, TEACHER, USER_PREFIX, WEIGHT, Batch

Distribute = Literal["none", "multi_worker"]
TrainStep = Callable[[Batch], dict[str, tf.Tensor]]
Tensors = dict[str, tf.Tensor]


def graph_of(train_step: TrainStep) -> TrainStep:
    """A step of one process alone, as TensorFlow's graph."""
    step: TrainStep = tf.function(train_step, reduce_retracing=True)
    return step


class Processes(Protocol):
    """Those that fit one model, as one of them sees them."""

    def scope(self) -> AbstractContextManager[object]:
        """In which the model and its optimiser are made, so that all have the same."""
        ...

    def shares(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """What this one takes of each batch; all make the same batches."""
        ...

    def graph_of(self, train_step: TrainStep) -> TrainStep:
        """A step that all take at once, each with its share; its loss is that of the whole batch."""
        ...

    def of_chief(self, value: float) -> float:
        """What the chief gives, for all of them: the others' own is not read."""
        ...


class Alone:
    """One process, which takes whole batches."""

    def scope(self) -> AbstractContextManager[object]:
        """None is needed."""
        return nullcontext()

    def shares(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches."""
        return batches

    def graph_of(self, train_step: TrainStep) -> TrainStep:
        """The step."""
        return graph_of(train_step)

    def of_chief(self, value: float) -> float:
        """The value."""
        return value


class Workers:
    """Processes that talk over the network; each has all variables.

    Args:
        cluster: Which of them this is.

    Raises:
        ValueError: A process sees more than one GPU.
    """

    def __init__(self, cluster: Cluster) -> None:
        """Waits until all have started."""
        self.cluster = cluster
        on_sigterm = signal.getsignal(signal.SIGTERM)
        self._strategy = tf.distribute.MultiWorkerMirroredStrategy()
        # TensorFlow takes the signal for a notice of pre-emption, and the process would live on.
        signal.signal(signal.SIGTERM, on_sigterm)
        num_devices = self._strategy.num_replicas_in_sync
        if num_devices != cluster.size:
            raise ValueError(
                f"{cluster.size} processes have {num_devices} devices, expected one each; start one for each GPU "
                "and show it that GPU alone (CUDA_VISIBLE_DEVICES)"
            )

    def scope(self) -> AbstractContextManager[object]:
        """That of the strategy."""
        scope: AbstractContextManager[object] = self._strategy.scope()
        return scope

    def shares(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """This process's rows of each batch."""
        return (share_of(batch, number=self.cluster.number, size=self.cluster.size) for batch in batches)

    def graph_of(self, train_step: TrainStep) -> TrainStep:
        """A step that all processes take at once."""
        steps: list[TrainStep] = []

        def together(share: Batch) -> dict[str, tf.Tensor]:
            found = self._strategy.run(train_step, args=(share,))
            return {"loss": self._strategy.reduce(tf.distribute.ReduceOp.SUM, found["loss"], axis=None)}

        def step(share: Batch) -> dict[str, tf.Tensor]:
            if not steps:
                steps.append(tf.function(together, input_signature=[_signature(share)]))
            return steps[0](share)

        return step

    def of_chief(self, value: float) -> float:
        """The chief's value; returns when all processes have asked for it."""
        own = value if self.cluster.is_chief else 0.0
        arrive = tf.function(lambda: self._strategy.run(lambda: tf.constant(own, tf.float64)))
        return float(self._strategy.reduce(tf.distribute.ReduceOp.SUM, arrive(), axis=None))

    def wait(self) -> None:
        """Returns when all processes have come here: those still at work take one that has ended for a broken one."""
        self.of_chief(1.0)


@cache
def workers() -> Workers:
    """The processes that TF_CONFIG names; called before TensorFlow computes anything, and the same from then on.

    Raises:
        ValueError: The variable is not set, or wrong.
    """
    cluster = read_cluster()
    if cluster is None:
        raise ValueError(f"{VARIABLE} is not set, which names the processes of a fit; set it, such as {EXAMPLE}")
    return Workers(cluster)


PROCESSES: Mapping[Distribute, Callable[[], Processes]] = {"none": Alone, "multi_worker": workers}


def _signature(share: Batch) -> dict[str, tf.TensorSpec]:
    """Of shares of any size: were one traced again in some processes only, all would wait for each other for ever."""
    return {
        name: tf.TensorSpec(
            [None, None] if name in (MASK, TEACHER) else [None, *values.shape[1:]], values.dtype, name=name
        )
        for name, values in share.items()
    }


VARIABLE = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
"""What the first of two processes is given."""


@dataclass(frozen=True)
class Cluster:
    """Processes that fit together, one on each machine or GPU.

    Attributes:
        number: Of this process, from 0: the chief, which writes what is made.
        size: How many there are.
    """

    number: int
    size: int

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what is made."""
        return self.number == 0


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """The cluster that TF_CONFIG describes: a chief or none, and workers, the first of which is the chief without one.

    Args:
        environment: The environment variables.

    Returns:
        None where the variable is not set.

    Raises:
        ValueError: It is no such description.
    """
    text = environment.get(VARIABLE)
    if not text:
        return None
    try:
        described: dict[str, Any] = json.loads(text)
        jobs = {str(name): list(addresses) for name, addresses in described["cluster"].items()}
        job, index = str(described["task"]["type"]), int(described["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{VARIABLE} is {text!r}, expected a cluster and a task such as {EXAMPLE}") from None
    if unknown := sorted({*jobs, job} - {"chief", "worker"}):
        raise ValueError(f"{VARIABLE} names the job {unknown[0]!r}, expected chief and worker alone: {EXAMPLE}")
    addresses = jobs.get(job, [])
    if not 0 <= index < len(addresses):
        raise ValueError(
            f"{VARIABLE} makes this process {job} {index}, of {len(addresses)} addresses of that job; expected an "
            "index below their number, from 0"
        )
    num_chiefs = len(jobs.get("chief", []))
    return Cluster(index if job == "chief" else num_chiefs + index, num_chiefs + len(jobs.get("worker", [])))


def mean_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """The mean of what each process has: [] -> []."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)


def share_of_mean(value: tf.Tensor) -> tf.Tensor:
    """What a process adds to the mean over processes: value / W, [] -> []."""
    num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return value if num_replicas == 1 else value / num_replicas


def item_parts(tower: tf_keras.Model, inputs: Tensors, batch: Mapping[str, tf.Tensor], *, training: bool) -> Tensors:
    """What the item tower makes of the candidates of a batch; of a share of one, with the other processes.

    Each computes the vectors of its own columns and gets those of the others, to which the gradients of all processes
    flow back.

    Args:
        tower: Parts of the item tower.
        inputs: [C + b H, ...] its inputs.
        batch: Where they are from.
        training: Whether the tower is being fitted.

    Returns:
        [C + b H, ...] each, in the order of the inputs.
    """
    if ORDER not in batch:
        parts: Tensors = tower(inputs, training=training)
        return parts
    # Copied: TensorFlow gathers only what was made on a device, and these are arguments.
    columns, order = tf.identity(batch[COLUMNS]), tf.identity(batch[ORDER])
    num_own, num_shared = tf.shape(columns)[0], tf.shape(order)[0]
    places = tf.math.invert_permutation(order)
    private = tf.range(num_shared, tf.shape(next(iter(inputs.values())))[0])
    taken = tf.concat([tf.gather(places, columns), private], axis=0)
    found = tower({name: tf.gather(values, taken) for name, values in inputs.items()}, training=training)
    shared = _Gathering(columns, order)
    return {name: tf.concat([shared(part[:num_own]), part[num_own:]], axis=0) for name, part in sorted(found.items())}


class _Gathering:
    """Brings together what the processes have of the columns of a batch.

    TensorFlow's own gradient of a gathering takes no sparse one, and relies on the processes' order.

    Args:
        columns: [c] int32, the columns that this process has.
        order: [C] int32, the columns in the order in which they are wanted.
    """

    def __init__(self, columns: tf.Tensor, order: tf.Tensor) -> None:
        """Tells the processes' columns."""
        self._context = tf.distribute.get_replica_context()
        arrived = self._context.all_gather(columns, axis=0)
        self._source = tf.gather(tf.math.invert_permutation(arrived), order)
        self._by_column = tf.math.invert_permutation(order)
        self._columns = columns

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """[c, ...] -> [C, ...]; the gradient is the sum of the processes', of the own columns."""

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def gathered(values: tf.Tensor) -> tuple[tf.Tensor, object]:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                by_column = tf.gather(tf.convert_to_tensor(upstream), self._by_column)
                total = self._context.all_reduce(tf.distribute.ReduceOp.SUM, by_column)
                return tf.gather(total, self._columns)

            return tf.gather(self._context.all_gather(values, axis=0), self._source), gradient

        return gathered(values)


ORDER, COLUMNS = "order", "columns"


def share_of(batch: Batch, *, number: int, size: int) -> Batch:
    """The share of a batch that a process takes, in the form of a batch.

    Args:
        batch: As `training.data.batches.batches` makes it, without a queue.
        number: Of the process, from 0.
        size: W.

    Returns:
        Its b rows, as near to B / W as can be; all C candidates, those of its own rows first, then those of the other
        rows, then the uniform ones; the private negatives of its rows. `mask` and, where there is one, `teacher`
        [b, C + H] and `log_q` [C] follow. Beside
        them `order` [C] int32, where in the whole batch each candidate is, and `columns` [c] int32, those whose vectors
        this process computes, as numbered in the whole batch.

    Raises:
        ValueError: There are fewer rows than processes, or columns of a queue.
    """
    num_rows = len(batch[WEIGHT])
    num_private = batch[PRIVATE_LOG_Q].shape[1] if PRIVATE_LOG_Q in batch else 0
    num_items = len(next(values for name, values in batch.items() if name.startswith(ITEM_PREFIX)))
    num_shared = num_items - num_rows * num_private
    num_columns = batch[MASK].shape[1]
    if num_rows < size:
        raise ValueError(
            f"a batch of {num_rows} rows for {size} processes, expected one for each; raise training.shuffle_days, so "
            "that more examples are shuffled together, or start fewer processes"
        )
    if num_columns != num_shared + num_private:
        raise ValueError(
            f"the mask has {num_columns} columns, expected {num_shared} of shared and {num_private} of private "
            "candidates: a queue cannot be shared out; set training.negatives.queue_size: 0"
        )
    rows = np.array_split(np.arange(num_rows), size)[number]
    uniform = np.array_split(np.arange(num_rows, num_shared), size)[number]
    order = np.concatenate([rows, np.setdiff1d(np.arange(num_shared), rows)])
    private = num_shared + (rows[:, None] * num_private + np.arange(num_private)).ravel()
    columns = np.concatenate([order, np.arange(num_shared, num_columns)])
    share: Batch = {
        **{name: batch[name][rows][:, columns] for name in (MASK, TEACHER) if name in batch},
        LOG_Q: batch[LOG_Q][order],
        WEIGHT: batch[WEIGHT][rows],
        ORDER: order.astype(np.int32),
        COLUMNS: np.concatenate([rows, uniform]).astype(np.int32),
    }
    if PRIVATE_LOG_Q in batch:
        share[PRIVATE_LOG_Q] = batch[PRIVATE_LOG_Q][rows]
    for name, values in batch.items():
        if name.startswith(USER_PREFIX):
            share[name] = values[rows]
        elif name.startswith(ITEM_PREFIX):
            share[name] = values[np.concatenate([order, private])]
    return share
