"""What each worker of a fleet did, and all of them together."""

from __future__ import annotations

from collections.abc import Sequence

from batch_store import Result

ALL = "all"


def table(results: Sequence[Result], price_per_hour: float) -> list[list[str]]:
    """Its head and lines, the last of all workers. Failed jobs are counted apart.

    Seconds are the servers' own; a job that was answered from a cache has none.
    """
    head = ["worker", "jobs", "failed", "seconds", "seconds each", "evaluations"]
    workers = sorted({result.server for result in results}, key=by_number)
    lines = [
        line([r for r in results if r.server == name], name, price_per_hour) for name in workers
    ]
    return [head + ["price"] * bool(price_per_hour), *lines, line(results, ALL, price_per_hour)]


def line(results: Sequence[Result], name: str, price_per_hour: float) -> list[str]:
    done = [result for result in results if not result.error]
    timed = [result.seconds for result in done if result.seconds is not None]
    evaluations = [result.evaluations for result in done if result.evaluations is not None]
    cells = [
        name,
        str(len(done)),
        str(len(results) - len(done)),
        f"{sum(timed):.1f}",
        f"{sum(timed) / len(timed):.2f}" if timed else "",
        f"{sum(evaluations):g}" if evaluations else "",
    ]
    return cells + [f"{sum(timed) * price_per_hour / 3600:.4g}"] * bool(price_per_hour)


def in_words(lines: Sequence[Sequence[str]]) -> str:
    """In columns, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths))
        ).rstrip()
        for cells in lines
    )


def by_number(name: str) -> tuple[int, str]:
    """ "worker 2" comes before "worker 10"."""
    number = name.removeprefix("worker ").split(" ")[0]
    return (int(number) if number.isdigit() else 0, name)
