"""The command `search`: items that have typed words, for a user or for all."""

from __future__ import annotations

from typing import Annotated

import typer

from artefacts.config import pick
from artefacts.files import json_text
from twinspire.job import (
    DEFAULT_CONFIG,
    DEFAULT_RUNS,
    AsJson,
    ConfigPath,
    ListLength,
    Overrides,
    Runs,
    check_secrets,
    errors,
    settle,
    use_one_thread,
)


def search(
    query: Annotated[
        str, typer.Argument(metavar="TEXT", help="Words; misspelled ones are looked for in the catalogue's.")
    ],
    user: Annotated[
        str | None, typer.Option("--user", "-u", help="User id; the two towers re-order what is found.")
    ] = None,
    k: ListLength = 10,
    as_json: AsJson = False,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Find items by words, in the published bundle; it needs a sparse index (`sparse: {}`)."""
    use_one_thread()
    with errors():
        settings, paths = settle(config, set_, None, runs)
        check_secrets(settings)
        from serving.config import ServeSections
        from serving.open import open_recommender
        from twinspire.show import print_found

        found = open_recommender(pick(ServeSections, settings), paths).search(query, k=k, user_id=user)
        if as_json:
            from dataclasses import asdict

            typer.echo(json_text(asdict(found), indent=2))
        else:
            print_found(found)
