"""The interface of a check, its report, and the functions that run checks."""

import abc
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from .._types import PRNGKey, Real, check_key, check_shape, checked


class Report(NamedTuple):
    """The result of one check: a number, and the range in which it must lie.

    **Arguments:**

    - `claim`: the name of the check, which states what must be true.
    - `measured`: the measured number. It is NaN if the subject raised an error.
    - `least`: the smallest number for which the claim holds.
    - `most`: the largest number for which the claim holds.
    - `what`: what the check measured, with its unit, or the error that the subject raised.

    ```python
    import flowprop as fp

    report = fp.conformance.Report("ErrorIsSmall", 3.0, 0.0, 2.0, "largest error")
    print(report.passed, report.allowed)  # False <= 2
    ```
    """

    claim: str
    measured: float
    least: float
    most: float
    what: str

    @property
    def passed(self) -> bool:
        """`True` if `measured` lies between `least` and `most`. A NaN does not pass."""
        return self.least <= self.measured <= self.most

    @property
    def allowed(self) -> str:
        """The allowed range as text, such as `<= 2`, `>= 0.6`, `= 7` or `2 to 3`."""
        if self.least == self.most:
            return f"= {self.least:.4g}"
        if self.most == math.inf:
            return f">= {self.least:.4g}"
        return f"<= {self.most:.4g}" if self.least == 0 else f"{self.least:.4g} to {self.most:.4g}"


@dataclass(frozen=True)
class AbstractCheck(abc.ABC):
    """The interface of a check. The name of the class is the claim that it tests.

    To write your own check, derive a frozen dataclass. Its fields hold the callables under test and the settings. Its
    method `measure` ends with `return self.report(...)`.

    ```python
    from dataclasses import dataclass
    from typing import Any

    import flowprop as fp
    import jax
    import numpy as np


    @dataclass(frozen=True)
    class ValuesAreFinite(fp.conformance.AbstractCheck):
        function: Any

        def measure(self, *, key):
            values = np.asarray(self.function(jax.random.normal(key, (100,))))
            num_bad = np.sum(~np.isfinite(values))
            return self.report("values that are not finite", num_bad, most=0)


    reports = fp.conformance.run([ValuesAreFinite(np.exp)], key=jax.random.key(0))
    print(reports[0].passed)  # True
    ```
    """

    @abc.abstractmethod
    def measure(self, *, key: PRNGKey) -> Report:
        """Measure the number that decides whether the claim holds.

        **Arguments:**

        - `key`: a typed key, for random points, noise and labels.

        **Returns:** the [`flowprop.conformance.Report`][].

        **Raises:** any error that the subject raises. [`flowprop.conformance.run`][] turns it into a failed report.
        """

    def report(self, what: str, measured: Real | np.generic, *, least: Real = 0, most: Real = math.inf) -> Report:
        """Make the report of this check. The claim holds if `measured` lies between `least` and `most`.

        **Arguments:**

        - `what`: what was measured, with its unit.
        - `measured`: the number.
        - `least`: the smallest allowed number. By default 0.
        - `most`: the largest allowed number. By default infinity.

        **Returns:** the [`flowprop.conformance.Report`][], with the name of this class as its claim.
        """
        return Report(type(self).__name__, float(measured), float(least), float(most), what)


@checked
def run(checks: Iterable[AbstractCheck], *, key: PRNGKey) -> list[Report]:
    """Run all checks and return their reports. If the subject raises an error, the check has failed.

    **Arguments:**

    - `checks`: the checks.
    - `key`: a typed key, for random points, noise and labels. Each check gets its own key, derived from this one.

    **Returns:** a list with one [`flowprop.conformance.Report`][] for each check, in the order of `checks`.

    **Raises:** `TypeError` if `key` is not one typed key.

    ```python
    import flowprop as fp
    import jax

    rising = fp.conformance.ScheduleRises(lambda t: 14 * t - 4)
    falling = fp.conformance.ScheduleRises(lambda t: 4 - 14 * t)
    reports = fp.conformance.run([rising, falling], key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """
    check_key("key", key)
    return [_measure(check, jax.random.fold_in(key, i)) for i, check in enumerate(checks)]


@checked
def table(reports: Iterable[Report]) -> str:
    """Format reports as a text table with one line for each report.

    The columns are: `ok` or `FAIL`, the claim, the measured number, the allowed range, and what was measured.

    **Arguments:**

    - `reports`: the reports, from [`flowprop.conformance.run`][].

    **Returns:** the table. It is an empty string if there are no reports.

    ```python
    import flowprop as fp

    report = fp.conformance.Report("ScheduleRises", 0.0, 0.0, 1e-4, "fall")
    print(fp.conformance.table([report]))  # ok  ScheduleRises  0  <= 0.0001  fall
    ```
    """
    rows = [
        ("ok" if r.passed else "FAIL", r.claim, f"{r.measured:.3g}", r.allowed, r.what.split("\n")[0]) for r in reports
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


@checked
def assert_conforms(checks: Iterable[AbstractCheck], *, key: PRNGKey) -> None:
    """Run all checks and raise an error if one of them fails. Use it in a test.

    **Arguments:**

    - `checks`: the checks.
    - `key`: a typed key, for random points, noise and labels. Each check gets its own key, derived from this one.

    **Raises:** `AssertionError` with a table of the failed checks; `TypeError` if `key` is not one typed key.

    ```python
    import flowprop as fp
    import jax


    def test_my_schedule():
        rises = fp.conformance.ScheduleRises(lambda t: 14 * t - 4)
        fp.conformance.assert_conforms([rises], key=jax.random.key(0))


    test_my_schedule()
    ```
    """
    failed = [report for report in run(checks, key=key) if not report.passed]
    if failed:
        raise AssertionError(f"{len(failed)} checks failed:\n{table(failed)}")


def as_points(name: str, points: object, shape: tuple[int | None, ...]) -> np.ndarray:
    """The result of a subject in double precision. A shape that fits only by broadcasting is refused."""
    array = np.asarray(points, float)
    check_shape(name, array, shape, "return one result for each input")
    return array


def _measure(check: AbstractCheck, key: PRNGKey) -> Report:
    try:
        return check.measure(key=key)
    except Exception as error:  # any error of the subject is a failed check
        return check.report(f"{type(error).__name__}: {error}", math.nan, most=0)
