"""How far log q by the streaming estimate of frequency is from the truth, by step, at the defaults or another rate."""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

from training.config import StreamingConfig
from training.negatives.sampling_bias import StreamingFrequency

STEPS = (10, 50, 100, 200, 360, 1500)
Floats = npt.NDArray[np.float64]


def rmse(found: Floats, truth: Floats, weights: Floats | None = None) -> float:
    """Of logarithms, in nats."""
    return float(np.sqrt(np.average(np.log(found / truth) ** 2, weights=weights)))


def main() -> None:
    """Prints a line for each of some steps."""
    defaults = StreamingConfig()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=2000, help="drawn by Zipf's law")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=defaults.rate)
    asked = parser.parse_args()
    ids = np.arange(asked.items)
    shares = 1 / (1 + ids) / (1 / (1 + ids)).sum()
    settings = defaults.model_dump() | {"rate": asked.rate}
    frequency, rng = StreamingFrequency(ids, **settings), np.random.default_rng(0)
    print(settings)
    print(f"{'step':>5}{'draws of the top item':>24}{'RMSE over items':>18}{'weighted by draws':>19}")
    for step in range(1, max(STEPS) + 1):
        frequency.update(np.repeat(ids, rng.multinomial(asked.batch_size, shares)))
        if step in STEPS:
            found = frequency.shares(ids)
            seen = found > 0
            plain = rmse(found[seen], shares[seen])
            weighted = rmse(found[seen], shares[seen], shares[seen])
            print(f"{step:>5}{asked.batch_size * found[0]:>24.1f}{plain:>18.3f}{weighted:>19.3f}")
    presence = 1 - (1 - shares) ** asked.batch_size
    truth = asked.batch_size * shares
    print(f"truth{truth[0]:>24.1f}")
    print(f"share of batches{'':>13}{rmse(presence, truth):>18.3f}{rmse(presence, truth, shares):>19.3f}")


if __name__ == "__main__":
    main()
