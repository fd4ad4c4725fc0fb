"""The server keeps to its own OpenAPI document, for valid and for invalid requests."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
    status_code_conformance,
)

HERE = Path(__file__).parent
NUM_EXAMPLES = 150
# A body that is too large is refused before anything else is known to be wrong with it.
REFUSED = ["400", "401", "404", "406", "413", "415", "422", "429"]
CONFIG = SchemathesisConfig.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSED}}})
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    positive_data_acceptance,
    negative_data_rejection,
]
OPERATIONS = [
    ("POST", "/v1/recommend"),
    ("POST", "/v1/similar-items"),
    ("POST", "/v1/search"),
    ("POST", "/v1/items"),
    ("GET", "/v1/users/{user_id}/embedding"),
    ("GET", "/v1/users/{user_id}/history"),
    ("GET", "/v1/bundle"),
    ("GET", "/v1/arms"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def address(written_words: Path, online_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("openapi")
    shutil.copytree(written_words, folder / written_words.name)
    (folder / "current").symlink_to(written_words.name)
    running: Callable[..., Any] = runpy.run_path(str(HERE / "test_workers.py"))["running"]
    with running(folder, online_file, 1) as server:
        yield server.address


@pytest.fixture(scope="module")
def document(address: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{address}/openapi.json", trust_env=False).json()
    return found


def test_every_operation_is_asked(document: dict[str, Any]) -> None:
    documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert documented == set(OPERATIONS)


def about_somebody(case: Any) -> Any:
    """The same for a user and an item that exist, whose ids are never drawn by chance."""
    if isinstance(case.body, dict):
        if "item_id" in case.body:
            case.body["item_id"] = "i0"
        elif case.body.get("user_id") is not None:
            case.body["user_id"] = "u1"
    elif case.path_parameters:
        case.path_parameters["user_id"] = "u1"
    return case


# Of the others nothing can be wrong: any text is a user's id.
@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (*operation, mode)
        for operation in OPERATIONS
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or operation[0] == "POST"
    ],
)
def test_answers_match_the_document(
    address: str, document: dict[str, Any], method: str, path: str, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_dict(document, config=CONFIG)[path][method]
    takes_something = method == "POST" or "{" in path
    cases = operation.as_strategy(generation_mode=mode)
    if mode is GenerationMode.POSITIVE:
        cases = cases | cases.map(about_somebody)

    @given(case=cases)
    @settings(
        max_examples=NUM_EXAMPLES if takes_something else 1,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        case.call_and_validate(base_url=address, checks=CHECKS)

    ask()
