"""Runs a command that kills itself in a fit: `python killed_fit_for_tests.py validation 20 train --config ...`.

It is killed after the given step of the fit, counted over all its epochs, before that step is saved. A fit is named by
how the path of its checkpoints ends.
"""

from __future__ import annotations

import os
import signal
import sys

from training.checkpoints import Checkpoints, Position


def main() -> None:
    name, step = sys.argv[1], int(sys.argv[2])
    sys.argv = ["twinspire", *sys.argv[3:]]
    after_step = Checkpoints.after_step

    def killed(checkpoints: Checkpoints, at: Position) -> None:
        if str(checkpoints._folder).endswith(name) and at.num_steps == step:
            os.kill(os.getpid(), signal.SIGKILL)
        after_step(checkpoints, at)

    Checkpoints.after_step = killed  # type: ignore[method-assign]
    from twinspire.cli import main as command

    command()


if __name__ == "__main__":
    main()
