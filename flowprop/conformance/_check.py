"""What a check is, and what it reports."""

import abc
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from .._types import PRNGKey, Real, check_key, check_shape, checked


class Report(NamedTuple):
    """What a check found: one number, and where it had to lie.

    - `claim`: the name of the check, which says what should be so.
    - `measured`: the number, NaN if the subject raised an error.
    - `least`, `most`: where the number lies if the claim holds.
    - `what`: what was measured, or the error.
    """

    claim: str
    measured: float
    least: float
    most: float
    what: str

    @property
    def passed(self) -> bool:
        """Whether the claim holds: a NaN never does."""
        return self.least <= self.measured <= self.most

    @property
    def allowed(self) -> str:
        """Where the number had to lie, in words."""
        if self.least == self.most:
            return f"= {self.least:.4g}"
        if self.most == math.inf:
            return f">= {self.least:.4g}"
        return f"<= {self.most:.4g}" if self.least == 0 else f"{self.least:.4g} to {self.most:.4g}"


@dataclass(frozen=True)
class AbstractCheck(abc.ABC):
    """A claim about the few callables that it was given. Its name is the claim.

    A check of your own is a frozen dataclass with fields for what it looks at, and `measure`, which ends with
    `return self.report(...)`.
    """

    @abc.abstractmethod
    def measure(self, *, key: PRNGKey) -> Report:
        """Try the claim, with random numbers from `key`. An error that the subject raises may pass through."""

    def report(self, what: str, measured: Real | np.generic, *, least: Real = 0, most: Real = math.inf) -> Report:
        """This check's report: the claim holds if `measured` lies between `least` and `most`."""
        return Report(type(self).__name__, float(measured), float(least), float(most), what)


@checked
def run(checks: Iterable[AbstractCheck], *, key: PRNGKey) -> list[Report]:
    """Try all checks. An error that the subject raises is a claim that does not hold.

    **Arguments:**

    - `checks`: the checks.
    - `key`: for points, noise and labels. Each check has a key of its own.

    **Returns:** a report for each check, in their order.
    """
    check_key("key", key)
    return [_measure(check, jax.random.fold_in(key, i)) for i, check in enumerate(checks)]


@checked
def table(reports: Iterable[Report]) -> str:
    """Reports as lines of text, one each: the verdict, the claim, the number, where it had to lie, what it is."""
    rows = [
        ("ok" if r.passed else "FAIL", r.claim, f"{r.measured:.3g}", r.allowed, r.what.split("\n")[0]) for r in reports
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


@checked
def assert_conforms(checks: Iterable[AbstractCheck], *, key: PRNGKey) -> None:
    """Try all checks, for use in a test. Arguments as of [`flowprop.conformance.run`][].

    **Raises:** `AssertionError` with the table of the claims that do not hold.
    """
    failed = [report for report in run(checks, key=key) if not report.passed]
    if failed:
        raise AssertionError(f"{len(failed)} claims do not hold:\n{table(failed)}")


def as_points(name: str, points: object, shape: tuple[int | None, ...]) -> np.ndarray:
    """What a subject returned, in double precision; a shape that would only broadcast is refused."""
    array = np.asarray(points, float)
    check_shape(name, array, shape, "as many as were asked for")
    return array


def _measure(check: AbstractCheck, key: PRNGKey) -> Report:
    try:
        return check.measure(key=key)
    except Exception as error:  # whatever a subject raises is what it did
        return check.report(f"{type(error).__name__}: {error}", math.nan, most=0)
