"""Secrets are read from variables and private files, refused in clear, and taken out of messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artefacts import secrets
from artefacts.config import ConfigError


@pytest.fixture(autouse=True)
def none_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "CACHE_FILE"):
        monkeypatch.delenv(name, raising=False)


def private_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "cache.txt"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_secret_is_a_variable_or_what_a_private_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secrets.find("CACHE") is None
    monkeypatch.setenv("CACHE_FILE", str(private_file(tmp_path, " two words \n")))
    assert secrets.find("CACHE") == " two words "
    monkeypatch.delenv("CACHE_FILE")
    monkeypatch.setenv("CACHE", "hunter2")
    assert secrets.resolved({"a": ["x${CACHE}y", 3], "b": "$CACHE"}) == {"a": ["xhunter2y", 3], "b": "$CACHE"}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    monkeypatch.setenv("CACHE_FILE", str(private_file(tmp_path, "hunter2", mode)))
    with pytest.raises(ConfigError, match=rf"which CACHE_FILE names, has mode {mode:o}, expected 600.*chmod"):
        secrets.find("CACHE")


def test_what_is_not_set_empty_missing_or_given_twice_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"names \$\{CACHE\}, and .* CACHE and CACHE_FILE are not set; set CACHE to"):
        secrets.resolved("localhost,password=${CACHE}")
    monkeypatch.setenv("CACHE", "")
    with pytest.raises(ConfigError, match="CACHE and CACHE_FILE give an empty text"):
        secrets.resolved("${CACHE}")
    monkeypatch.setenv("CACHE_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="CACHE and CACHE_FILE are both set"):
        secrets.find("CACHE")
    monkeypatch.delenv("CACHE")
    with pytest.raises(ConfigError, match="none, which CACHE_FILE names, cannot be read as text"):
        secrets.find("CACHE")


@pytest.mark.parametrize("password", ["hunter2", "007", "1e5", "true", 'a,b=c"d\\', "ünïcode", "${HOME}"])
def test_a_connection_string_keeps_each_character_of_a_password(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE", password)
    text = secrets.resolved_connection("cache:6379,db=2,password=${CACHE}")
    node, db, given = text.split(",")
    assert (node, db) == ("cache:6379", "db=2")
    # As Feast reads it.
    assert json.loads(given.split("=", 1)[1]) == password


IN_CLEAR = [
    "cache:6379,password=hunter2",
    "cache:6379,ssl=true,PASSWORD = hunter2,db=1",
    "cache:6379,password=${CACHE}2",
    "redis://:hunter2@cache:6379",
    "postgresql://me:hunter2@host/db",
    {"type": "remote", "password": "hunter2"},
    {"type": "remote", "private_key_passphrase": 12345},
    {"type": "remote", "aws_secret_access_key": "hunter2"},
    {"type": "remote", "url": "http://me:hunter2@host"},
    ["--job_endpoint=embed", "--s3_secret_access_key=hunter2"],
    ["--api-key=hunter2"],
]


@pytest.mark.parametrize("value", IN_CLEAR)
def test_a_secret_in_clear_is_refused_and_not_quoted(value: object) -> None:
    with pytest.raises(ValueError, match=r"^offline.* holds a secret in clear, .*\$\{NAME\}") as caught:
        secrets.check_none_in_clear(value, key="offline")
    assert "hunter2" not in str(caught.value)
    assert "12345" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "localhost:6379",
        "cache:6379,password=${CACHE},username=me",
        "redis://:${CACHE}@cache:6379",
        {"type": "remote", "host": "a", "port": 8815, "password": "${CACHE}", "key_column": "user"},
        ["--job_endpoint=embed:8099", "--environment_type=LOOPBACK", "--spark_master_url=spark://master:7077"],
    ],
)
def test_names_of_secrets_and_other_values_pass(value: object) -> None:
    secrets.check_none_in_clear(value, key="offline")


def test_messages_lose_what_was_read_and_what_is_named_like_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE", 'q"7')
    secrets.find("CACHE")
    assert secrets.redacted('login q"7 and {"a": "q\\"7"}') == 'login (hidden) and {"a": "(hidden)"}'
    assert secrets.redacted("--set 'x=cache,password=hunter2,db=1'") == "--set 'x=cache,password=(hidden),db=1'"
    assert secrets.redacted("redis://me:hunter2@cache") == "redis://me:(hidden)@cache"
    plain = "cache:6379,password=${CACHE}: 3 of 12 rows, see https://host:80/a"
    assert secrets.redacted(plain) == plain
