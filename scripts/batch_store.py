"""What became of a batch's jobs, on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from batch_jobs import Job


class StoreError(RuntimeError):
    """The output folder cannot be written to: no job can be kept, whatever the servers do."""


class Keeper(Protocol):
    """Where a file that a job made is kept, under a name of our own."""

    def write_bytes(self, name: str, data: bytes) -> None: ...


@dataclass(frozen=True)
class Result:
    """What became of a job."""

    id: str
    workflow: str
    text: str
    seed: int
    server: str
    # The server's own, from start to end; None where it answered from its cache.
    seconds: float | None = None
    is_first: bool = False  # of its workflow on its server, which loads the model
    evaluations: float | None = None
    sampling_seconds: float | None = None
    files: tuple[str, ...] = ()  # in the output folder
    error: str = ""  # empty for success
    restarts: int = 0  # how often the server was away during the job and came back


@dataclass(frozen=True)
class Store:
    """The output folder: results/<job>.json and what the jobs made, under names of our own."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def read(self, job: Job) -> Result | None:
        """What is known of a job. A file that was cut short counts as nothing."""
        path = self.results / f"{job.id}.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return Result(**{**data, "files": tuple(data["files"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, result: Result) -> None:
        self.write_bytes(f"{result.id}.json", json.dumps(asdict(result), indent=1).encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """In one step: a broken-off run leaves no half of it under this name. Raises StoreError."""
        partial = self.results / f"{name}.partial"
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(self.results / name)
        except OSError as error:
            raise StoreError(
                f"{self.results} cannot be written to: {error.strerror or error}"
            ) from error

    def is_done(self, job: Job) -> bool:
        """Whether the job succeeded and what it made is still there."""
        result = self.read(job)
        return (
            result is not None
            and not result.error
            and all((self.results / Path(name).name).is_file() for name in result.files)
        )
