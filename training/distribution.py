"""How do several processes fit one model? Each takes its share of the rows of every batch, and all take the same step.

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

import tensorflow as tf

from training.dataset import MASK, Batch
from training.replicas import share_of
from training.trainer import TrainStep, graph_of

Distribute = Literal["none", "multi_worker"]


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

    def wait(self) -> None:
        """Returns when all processes have come here: those still at work take one that has ended for a broken one."""
        arrive = tf.function(lambda: self._strategy.run(lambda: tf.constant(1)))
        self._strategy.reduce(tf.distribute.ReduceOp.SUM, arrive(), axis=None)


@cache
def workers() -> Workers:
    """The processes that TF_CONFIG names; called before TensorFlow computes anything, and the same from then on.

    Raises:
        ValueError: The variable is not set, or wrong.
    """
    cluster = read_cluster()
    if cluster is None:
        raise ValueError(f"{VARIABLE} is not set, which tells a process whom it fits with; set it, such as {EXAMPLE}")
    return Workers(cluster)


PROCESSES: Mapping[Distribute, Callable[[], Processes]] = {"none": Alone, "multi_worker": workers}


def _signature(share: Batch) -> dict[str, tf.TensorSpec]:
    """Of shares of any size: were one traced again in some processes only, all would wait for each other for ever."""
    return {
        name: tf.TensorSpec([None, None] if name == MASK else [None, *values.shape[1:]], values.dtype, name=name)
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
            f"{VARIABLE} says that this is {job} {index}, of {len(addresses)} addresses of that job; expected an index "
            "below their number, from 0"
        )
    num_chiefs = len(jobs.get("chief", []))
    return Cluster(index if job == "chief" else num_chiefs + index, num_chiefs + len(jobs.get("worker", [])))
