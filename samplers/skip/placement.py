"""Which evaluations a forecast leaves out: a share for each step, and a credit that spends it.

Where the skips lie was chosen by measurement (benchmarks/skip.py).
"""

from __future__ import annotations

import math

from .schedule import RunSchedule

Shares = tuple[float, ...]  # one for each step of the schedule, from 0 to below 1

# Of every two evaluations one can be left out alone, between two that are made.
ALONE = 0.5
# Runs up to here were measured. Longer ones, if they are allowed, are made only where it takes them
# to leave out as many as were asked for.
MEASURED_RUN = 3
# Half a skip in advance, so that the first comes in the middle of its interval and the count rounds
# to the nearest.
FIRST_CREDIT = 0.5
MOST_CREDIT = 2.0


class Credit:
    """Every evaluation earns its step's share of one; a whole one is spent on leaving one out."""

    def __init__(self, shares: Shares):
        self.shares, self.sum = shares, FIRST_CREDIT

    def earn(self, step: int) -> None:
        self.sum = min(self.sum + self.shares[step], MOST_CREDIT)

    def covers(self, price: float) -> bool:
        return self.sum >= price - 1e-9  # it is a sum of rounded numbers

    def spend(self) -> None:
        self.sum -= 1


def steps_left_out(shares: Shares, longest_run: int) -> list[int]:
    """By a sampler that makes one evaluation in each step, where no forecast is too wrong."""
    credit, run, left_out = Credit(shares), 0, []
    for step, share in enumerate(shares):
        credit.earn(step)
        if share and run < longest_run and credit.covers(1.0):
            credit.spend()
            left_out.append(step)
            run += 1
        else:
            run = 0
    return left_out


def planned_shares(schedule: RunSchedule, to_skip: int, longest_run: int) -> Shares:
    """The shares of a run that leaves out so many evaluations, or as many as it can.

    A plan depends on nothing but the number of evaluations that it leaves out in the end: what is
    asked for beyond reach, and longer runs than it takes, change nothing.
    """
    planned, reached = (0.0,) * schedule.steps, 0
    for count in range(min(to_skip, most_skips(schedule, longest_run)), 0, -1):
        run = shortest_run(schedule, count, longest_run)
        shares = skip_shares(schedule, count, run)
        skips = len(steps_left_out(shares, run))
        if skips >= reached:
            planned, reached = shares, skips
        if skips == count:  # no smaller count leaves out as many
            break
    return planned


def shortest_run(schedule: RunSchedule, to_skip: int, longest_run: int) -> int:
    """The length of run that it takes to leave out so many, from MEASURED_RUN to `longest_run`."""
    runs = range(min(MEASURED_RUN, longest_run), longest_run)
    return next((run for run in runs if to_skip <= most_skips(schedule, run)), longest_run)


def most_skips(schedule: RunSchedule, longest_run: int) -> int:
    """Evaluations that can be left out at most, with runs of this length."""
    return math.floor(FIRST_CREDIT + len(open_steps(schedule)) * _most(longest_run))


def open_steps(schedule: RunSchedule) -> list[int]:
    """The steps that may be left out. On flow models the last but one is made: it is long, and only
    one evaluation is left to make good for it.
    """
    return [
        step
        for step in range(schedule.steps)
        if schedule.is_open_step(step) and not (schedule.is_flow and step == schedule.steps - 2)
    ]


def skip_shares(schedule: RunSchedule, to_skip: int, longest_run: int) -> Shares:
    """For each step, the share of its evaluations to leave out, so that so many are left out in the
    whole run, as far as runs allow.

    Where fewer than every other evaluation has to go, they are every other one of the last: an
    early error is carried on by all steps after it. Where more have to go, what goes beyond every
    other one comes from where it costs least: not early, where the picture is decided, nor at the
    very end. On noise-prediction models, whose last steps are short, even shares did better.
    """
    steps, most = open_steps(schedule), _most(longest_run)
    shares = [0.0] * schedule.steps
    if to_skip <= 0 or not steps:
        return tuple(shares)
    steps = steps[-math.ceil(to_skip / ALONE) :]
    even = min(to_skip / len(steps), most)
    of_each = (
        _raised_in_the_middle(len(steps), even, most)
        if schedule.is_flow and ALONE < even < most
        else [even] * len(steps)
    )
    for step, share in zip(steps, of_each):
        shares[step] = share
    return tuple(shares)


def _most(longest_run: int) -> float:
    """The largest share of evaluations that runs of this length leave out: all but the one between
    two runs.
    """
    return longest_run / (longest_run + 1)


def _raised_in_the_middle(count: int, mean: float, most: float) -> list[float]:
    """Shares of this mean from ALONE to `most`, the highest two thirds of the way."""
    places = [(index + 0.5) / count for index in range(count)]

    def shares(height: float) -> list[float]:
        return [min(ALONE + height * place * math.sqrt(1 - place), most) for place in places]

    low, high = 0.0, 2.0 * count  # at which every share is `most`
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(shares(middle)) < count * mean else (low, middle)
    return shares(high)
