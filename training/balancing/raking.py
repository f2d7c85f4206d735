"""Generalized raking (Deville and Sarndal 1992): the distribution nearest to the natural one that has the wanted shares.

Minimizes KL(q || natural) over cells under linear shares, a cap on the repeats of a cell and one on those of a source. By the
KKT conditions q = natural * min(max_repeats, exp(a . lam + nu)), with `a` the shares a cell counts toward and nu <= 0 below 0
only for sources held at their cap. lam minimizes the convex dual, by Newton's method; nu is found exactly for each lam.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

_MAX_STEPS = 400
_TOLERANCE = 2e-13  # of each share
_NEAR = 1e-11  # where the sums of many cells may round no better
_PATIENCE = 12  # steps without a gain, after which the shares are out of reach: at their very limit each step still gains
_GRID = 2.0**40  # lam is rounded to it, so that the last bits of a sum do not show in the plan


@dataclass(frozen=True)
class Problem:
    """`natural` float64 [C] > 0 sums to 1; `member` [C, K] is 1 where a cell counts toward a share; `shares` float64 [K].

    `sources` int [C] says whose a cell is, where max_source_repeats is given.
    """

    natural: np.ndarray
    member: csr_matrix
    shares: np.ndarray
    max_repeats: float
    sources: np.ndarray | None = None
    max_source_repeats: float | None = None


@dataclass(frozen=True)
class Raked:
    """`repeats` float64 [C] = q / natural; `residual` is the largest departure of a share; `is_held` bool [C]: its source is at its cap."""

    repeats: np.ndarray
    residual: float
    is_held: np.ndarray


@dataclass(frozen=True)
class _Point:
    """The dual at one lam: `gradient` [K + 1], cells above no cap (`free` bool [C]) and whose source is at its cap (`held` bool [C])."""

    value: float
    gradient: np.ndarray
    repeats: np.ndarray
    free: np.ndarray
    held: np.ndarray


def rake(problem: Problem) -> Raked:
    """Solve as far as it goes: `residual` tells whether the shares were met. No more cells than bits of int32."""
    support = _support(problem)
    natural, repeats = problem.natural[support], np.zeros(len(problem.natural))
    is_held = np.zeros(len(repeats), bool)
    if natural.size:
        columns = csr_matrix(np.ones((len(natural), 1)))
        member = csr_matrix(_hstack(problem.member[support], columns))
        shares = np.append(problem.shares, 1.0)
        sources = None if problem.sources is None else np.unique(problem.sources[support], return_inverse=True)
        caps = np.array([np.inf]) if sources is None else _source_caps(problem, sources[0])
        dual = _Dual(natural, member, shares, problem.max_repeats, None if sources is None else sources[1], caps)
        point = dual.solve()
        repeats[support], is_held[support] = point.repeats, point.held
    reached = problem.member.T @ (problem.natural * repeats)
    residual = np.abs(np.append(reached - problem.shares, problem.natural @ repeats - 1)).max()
    return Raked(repeats, float(residual), is_held)


def _hstack(left: csr_matrix, right: csr_matrix) -> csr_matrix:
    from scipy.sparse import hstack

    return hstack([left, right], format="csr")


def _support(problem: Problem) -> np.ndarray:
    """Cells that may be seen: none of a share of 0, all of a share of 1."""
    barred = problem.member @ (problem.shares == 0).astype(float) > 0
    must = problem.shares == 1
    return np.flatnonzero(~barred & (problem.member @ must.astype(float) >= must.sum() - 0.5))


def _source_caps(problem: Problem, sources: np.ndarray) -> np.ndarray:
    return problem.max_source_repeats * np.bincount(problem.sources, problem.natural)[sources]


class _Dual:
    """The dual function of the cells that may be seen, and its minimum."""

    def __init__(
        self, natural: np.ndarray, member: csr_matrix, shares: np.ndarray, cap: float, sources: np.ndarray | None, caps: np.ndarray
    ):
        self.natural, self.member, self.shares, self.log_cap = natural, member, shares, np.log(cap)
        self.member_t = member.T.tocsr()
        self.sources, self.caps = sources, caps

    def solve(self) -> _Point:
        lam = np.zeros(len(self.shares))
        point = best = self.at(lam)
        best_lam, stalled = lam, 0
        for _ in range(_MAX_STEPS):
            size = np.abs(point.gradient).max()
            if size < _TOLERANCE or stalled > (1 if size < _NEAR else _PATIENCE):
                break
            step = -self._solve_hessian(point)
            step *= min(1.0, 20 / max(np.abs(step).max(), 1e-300))
            lam, point = self._search(lam, point, step)
            smaller = np.abs(point.gradient).max() < 0.9 * np.abs(best.gradient).max()
            stalled = 0 if smaller else stalled + 1
            if np.abs(point.gradient).max() < np.abs(best.gradient).max():
                best, best_lam = point, lam
        return self.at(np.round(best_lam * _GRID) / _GRID)

    def _search(self, lam: np.ndarray, point: _Point, step: np.ndarray) -> tuple[np.ndarray, _Point]:
        """Halve the step until it lowers the dual enough (Armijo), or, where that is lost in rounding, the gradient."""
        slope = float(point.gradient @ step)
        for _ in range(40):
            new = self.at(lam + step)
            lower = new.value <= point.value + 1e-4 * slope
            if lower or (abs(slope) < 1e-10 and np.abs(new.gradient).max() < np.abs(point.gradient).max()):
                return lam + step, new
            step, slope = step / 2, slope / 2
        return lam, point

    def _solve_hessian(self, point: _Point) -> np.ndarray:
        weights = np.where(point.free, self.natural * point.repeats, 0.0)
        scaled = self.member.multiply(weights[:, None]).tocsr()
        hessian = (self.member_t @ scaled).toarray()
        if point.held.any():
            rows = np.flatnonzero(point.held)
            per_source = csr_matrix((np.ones(len(rows)), (self.sources[rows], rows)), shape=(len(self.caps), len(weights)))
            totals = per_source @ weights
            used = totals > 0
            sums = (per_source @ scaled)[used]
            hessian -= (sums.T @ sums.multiply(1 / totals[used][:, None])).toarray()
        # A ridge, as targets that each sum to 1 depend on one another and a capped cell has no curvature.
        floor = 1e-11 * max(hessian.diagonal().max(), 1e-12)
        hessian[np.diag_indices_from(hessian)] += floor + 1e-9 * hessian.diagonal()
        return np.linalg.solve(hessian, point.gradient)

    def at(self, lam: np.ndarray) -> _Point:
        exponents = self.member @ lam
        held = np.zeros(len(exponents), bool)
        value = -float(lam @ self.shares)
        if self.sources is not None:
            nu = self._source_terms(exponents)
            value -= float(nu @ self.caps)
            exponents = exponents + nu[self.sources]
            held = nu[self.sources] < 0
        free = exponents < self.log_cap
        repeats = np.exp(np.minimum(exponents, self.log_cap))
        value += float(self.natural @ (repeats * (1 + np.maximum(exponents - self.log_cap, 0))))
        gradient = self.member_t @ (self.natural * repeats) - self.shares
        return _Point(value, gradient, repeats, free, held)

    def _source_terms(self, exponents: np.ndarray) -> np.ndarray:
        """nu <= 0 [S], the largest that keep the sources under their caps.

        A source over its cap is scaled down as if no cell of it were capped, which is too far; cells that are above their own
        cap even so are fixed there, and the others share what is left. Each round fixes more, so there are few.
        """
        num, cap = len(self.caps), np.exp(self.log_cap)
        amounts = self.natural * np.exp(np.minimum(exponents, self.log_cap))
        over = np.bincount(self.sources, amounts, num) > self.caps * (1 + 1e-15)
        nu = np.zeros(num)
        rows = np.flatnonzero(over[self.sources])
        if not rows.size:
            return nu
        source, natural, exponent = self.sources[rows], self.natural[rows], exponents[rows]
        top = np.full(num, -np.inf)
        np.maximum.at(top, source, exponent)
        rising = natural * np.exp(exponent - top[source])
        fixed = np.zeros(len(rows), bool)
        while True:
            left = self.caps - cap * np.bincount(source[fixed], natural[fixed], num)
            rest = np.bincount(source[~fixed], rising[~fixed], num)
            usable = over & (rest > 0) & (left > 0)
            nu[usable] = np.log(left[usable] / rest[usable]) - top[usable]
            more = ~fixed & (exponent + nu[source] > self.log_cap)
            if not more.any():
                return np.minimum(nu, 0)
            fixed |= more
