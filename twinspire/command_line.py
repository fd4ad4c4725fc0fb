"""What do all commands share? Flags that mean the same everywhere, and errors told in one line.

Exit codes: 0 done; 1 a step failed, its message says why; 2 the command line or the configuration is wrong; 4 another
run is at work on the same runs.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="YAML file of a dataset.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key, such as training.epochs=3; may be repeated.")
]
AsOf = Annotated[
    dt.datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="Everything before this day is known (overrides the file)."),
]
Runs = Annotated[Path, typer.Option(help="Folder of all runs.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again even if nothing has changed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
Now = Annotated[
    dt.datetime | None, typer.Option(help="Moment of the run, UTC; events after it are set aside. Default: the clock.")
]
DEFAULT_CONFIG = Path("configs/complete_journey.yaml")
DEFAULT_RUNS = Path("runs")
BUSY = 4


def moment(now: dt.datetime | None) -> dt.datetime:
    """The moment of a run, UTC: as told, or the clock's."""
    return now.replace(tzinfo=dt.UTC) if now else dt.datetime.now(dt.UTC)


@contextmanager
def errors() -> Iterator[None]:
    """Turns errors that are about the input into one message and an exit code; anything else is a defect and raises."""
    from artefacts.console import exhausted
    from artefacts.locks import BusyError
    from twinspire.load_config import ConfigError

    try:
        yield
    except ConfigError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    except BusyError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(BUSY) from None
    except (ValueError, OSError, ArithmeticError, ImportError) as error:
        _fail(error)
    except Exception as error:
        # What stores raise has no common ancestor with the others: an unreachable or broken one is not a defect.
        if type(error).__module__.partition(".")[0] not in ("feast", "redis", "sqlite3") and exhausted(error) is None:
            raise
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    from artefacts.console import ExhaustedError, exhausted

    said = None if isinstance(error, ExhaustedError) else exhausted(error)
    typer.secho(f"error: {f'{said}, and run again' if said else error}", err=True, fg="red")
    raise typer.Exit(1) from None
