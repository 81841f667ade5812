"""Whole training iterations against stock RLlib and against a plain PyTorch loop."""

from __future__ import annotations

from benchmarks.contenders import Batch, empathy, plain, stock
from benchmarks.measure import Row, Scale, benchmark, local_ray, one_thread, row, seconds

BATCHES: dict[Scale, list[tuple[Batch, int]]] = {
    "full": [(Batch(64, 50), 9), (Batch(128, 100), 5)],
    "tiny": [(Batch(4, 5), 1)],
}
"""Batches and how often each contender trains on them."""


@benchmark
def training(scale: Scale) -> list[Row]:
    """Cleanup, 4 agents with separate convolutional networks: env steps per second of whole iterations."""
    rows = []
    with one_thread(), local_ray():
        for batch, repeats in BATCHES[scale]:
            ours, theirs, loop = empathy(batch).build_algo(), stock(batch).build_algo(), plain(batch)
            times = seconds({"ours": ours.train, "stock": theirs.train, "plain": loop.iterate}, repeats, warm_up=2)
            ours.stop()
            theirs.stop()
            speed = {name: batch.env_steps / time for name, time in times.items()}
            rows += [
                row(f"training, {batch}: stock RLlib", speed["stock"], "env steps/s"),
                row(f"training, {batch}: plain PyTorch", speed["plain"], "env steps/s"),
                row(
                    f"training, {batch}: against stock RLlib",
                    speed["ours"],
                    "env steps/s",
                    speed["ours"] / speed["stock"],
                    at_least=10,
                ),
                row(
                    f"training, {batch}: against plain PyTorch",
                    speed["ours"],
                    "env steps/s",
                    speed["ours"] / speed["plain"],
                    at_least=0.8,
                ),
            ]
    return rows
