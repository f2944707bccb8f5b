"""What a run with evaluations left out did, in numbers."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Tally:
    """The counts of one run. Filled while it goes on."""

    asked: int = 0  # evaluations that the sampler asked for
    made: int = 0
    steps_skipped: list[int] = field(default_factory=list)
    # For each real evaluation that a forecast could be checked against: how far off one step on the
    # forecast would have put the latent, relative to the latent.
    errors: list[float] = field(default_factory=list)
    vetoes: int = 0  # evaluations made because the last forecast was too wrong
    changes: int = 0  # times that what was remembered said nothing of what came next
    history_bytes: int = 0  # the most remembered at once, by the method too
    # (seconds, left out) of each evaluation, taken when the device had finished all before.
    starts: list[tuple[float, bool]] = field(default_factory=list)
    refusal: str | None = None  # why the whole run passes through, if it does

    @property
    def skipped(self) -> int:
        return self.asked - self.made

    @property
    def estimated_speedup(self) -> float:
        return self.asked / self.made if self.made else 1.0

    @property
    def measured_speedup(self) -> float | None:
        """Time this run would have taken with every evaluation made / the time it took."""
        spans = [
            (after - before, left_out)
            for (before, left_out), (after, _) in zip(self.starts, self.starts[1:])
        ]
        made = [seconds for seconds, left_out in spans if not left_out]
        if not made or len(made) == len(spans):
            return None
        usual = statistics.median(made)
        left_out = statistics.median(seconds for seconds, left_out in spans if left_out)
        return usual * self.asked / (usual * self.made + left_out * self.skipped)
