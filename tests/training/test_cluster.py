"""What TF_CONFIG describes, and which descriptions are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from training.distribution import EXAMPLE, Cluster, read_cluster

TWO = ["10.0.0.1:2222", "10.0.0.2:2222"]


def described(cluster: dict[str, list[str]], job: str, index: object) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})}


def test_without_the_variable_there_is_no_cluster() -> None:
    assert read_cluster({}) is None
    assert read_cluster({"TF_CONFIG": ""}) is None


def test_the_example_in_messages_is_the_first_of_two() -> None:
    assert read_cluster({"TF_CONFIG": EXAMPLE}) == Cluster(0, 2)


@pytest.mark.parametrize(
    ("cluster", "job", "index", "expected", "is_chief"),
    [
        ({"worker": TWO}, "worker", 0, Cluster(0, 2), True),
        ({"worker": TWO}, "worker", 1, Cluster(1, 2), False),
        ({"worker": TWO}, "worker", "1", Cluster(1, 2), False),
        ({"chief": TWO[:1], "worker": TWO[1:]}, "chief", 0, Cluster(0, 2), True),
        ({"chief": TWO[:1], "worker": TWO[1:]}, "worker", 0, Cluster(1, 2), False),
        ({"worker": TWO[:1]}, "worker", 0, Cluster(0, 1), True),
    ],
)
def test_the_first_process_is_the_chief(
    cluster: dict[str, list[str]], job: str, index: object, expected: Cluster, is_chief: bool
) -> None:
    found = read_cluster(described(cluster, job, index))
    assert found == expected
    assert expected.is_chief == is_chief


@pytest.mark.parametrize(
    "environment",
    [
        {"TF_CONFIG": "worker 0"},
        {"TF_CONFIG": "[]"},
        {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'},
        {"TF_CONFIG": '{"cluster": ["a:1"], "task": {"type": "worker", "index": 0}}'},
        described({"worker": TWO}, "worker", "first"),
    ],
)
def test_an_invalid_description_is_refused_with_an_example(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected a cluster and a task such as") as caught:
        read_cluster(environment)
    assert environment["TF_CONFIG"] in str(caught.value)
    assert EXAMPLE in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"worker": TWO, "ps": TWO}, "worker", 0), "names the job 'ps', expected chief and worker alone"),
        (({"worker": TWO}, "evaluator", 0), "names the job 'evaluator', expected chief and worker alone"),
        (({"worker": TWO}, "worker", 2), "this process worker 2, of 2 addresses of that job; expected an index below"),
        (({"worker": TWO}, "chief", 0), "this process chief 0, of 0 addresses of that job"),
    ],
)
def test_a_process_outside_of_the_cluster_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match="TF_CONFIG") as caught:
        read_cluster(described(*arguments))
    assert message in str(caught.value)
