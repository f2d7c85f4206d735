"""Why wanted shares cannot be met, and what can: linear programs over the cells (HiGHS).

The elastic program lets each share miss its target and minimizes the sum of the misses. Where that is above 0, its dual is a
certificate by Farkas' lemma: the shares with a multiplier conflict. Leaving out one after the other that is not needed
(deletion filter, Chinneck and Dravnieks 1991) makes the conflict minimal.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, csr_matrix, hstack, identity, vstack

from training.balancing.raking import Problem, rake

TOLERANCE = 1e-8  # misses below are numerical noise of the programs
_SCALE = 1e3  # of the rows, so that cells of one clip in 10 M are not taken for zeros
_MANY = 20_000  # cells, over which the needed repeats may be 0.1 % too high, as the program is slow near its limit
_MAX_FILTER = 60  # a larger conflict is given as the dual found it


@dataclass(frozen=True)
class Certificate:
    """`conflict` int [J] are shares that cannot be met together, none of them idle if `is_minimal`; where no caps would do, at any caps.

    `needed_max_repeats` is the least with which all shares can be met, to 0.1 % where cells are many, None where no number helps;
    so is `needed_max_source_repeats`. `nearest` float64 [K] are attainable shares, of least sum of differences from the wanted ones
    up to the rounding that makes them attainable as written.
    """

    conflict: np.ndarray
    is_minimal: bool
    needed_max_repeats: float | None
    needed_max_source_repeats: float | None
    nearest: np.ndarray


@dataclass(frozen=True)
class Elastic:
    """`miss` is the least sum of differences; `repeats` [C] reach it; `multipliers` [K]; how `miss` changes with either cap."""

    miss: float
    repeats: np.ndarray
    multipliers: np.ndarray
    per_repeat: float
    per_source_repeat: float


def find_certificate(problem: Problem, round_shares: Callable[[np.ndarray], np.ndarray]) -> Certificate | None:
    """The certificate, or None where the shares can be met. `round_shares` turns shares [K] into those that a user would write."""
    elastic = solve_elastic(problem)
    if elastic.miss <= TOLERANCE:
        return None
    needed = _needed(problem, elastic, "max_repeats", lambda found: found.per_repeat)
    sources = None if problem.sources is None else _needed(problem, elastic, "max_source_repeats", lambda found: found.per_source_repeat)
    blamed = problem, elastic
    if needed is None and sources is None:
        # Some share may be beyond the caps as well; what is to be told is what no caps would mend.
        free = replace(problem, max_repeats=np.inf, sources=None, max_source_repeats=None)
        if (unheld := solve_elastic(free)).miss > TOLERANCE:
            blamed = free, unheld
    return Certificate(*_conflict(*blamed), needed, sources, _nearest(problem, elastic, round_shares))


def solve_elastic(problem: Problem) -> Elastic:
    """The elastic program. It always has a solution: the natural distribution keeps both caps."""
    num_cells, num_shares = problem.member.shape
    scaled = _SCALE * problem.natural
    member = csr_matrix(problem.member.T.multiply(scaled[None, :]))
    slack = identity(num_shares)
    total = hstack([csr_matrix(scaled[None, :]), csr_matrix((1, 2 * num_shares))])
    equal = vstack([hstack([member, slack, -slack]), total], format="csr")
    per_source, source_caps = None, None
    if problem.sources is not None:
        names, source = np.unique(problem.sources, return_inverse=True)
        held = coo_matrix((scaled, (source, np.arange(num_cells))), shape=(len(names), num_cells)).tocsr()
        natural = np.bincount(source, scaled)
        per_source, source_caps = (
            hstack([held, csr_matrix((len(names), 2 * num_shares))], format="csr"),
            problem.max_source_repeats * natural,
        )
    bounds = np.zeros((num_cells + 2 * num_shares, 2))
    bounds[:num_cells, 1], bounds[num_cells:, 1] = problem.max_repeats, np.inf
    cost = np.concatenate([np.zeros(num_cells), np.ones(2 * num_shares)])
    wanted = _SCALE * np.append(problem.shares, 1.0)
    found = linprog(cost, A_ub=per_source, b_ub=source_caps, A_eq=equal, b_eq=wanted, bounds=bounds, method="highs-ds")
    if found.x is None:
        raise ArithmeticError(f"the program of the nearest shares was not solved: {found.message}")
    per_source_repeat = 0.0 if source_caps is None else float(found.ineqlin.marginals @ natural) / _SCALE
    return Elastic(
        found.fun / _SCALE,
        found.x[:num_cells],
        found.eqlin.marginals[:-1],
        float(found.upper.marginals[:num_cells].sum()) / _SCALE,
        per_source_repeat,
    )


def _conflict(problem: Problem, elastic: Elastic) -> tuple[np.ndarray, bool]:
    kept = np.flatnonzero(np.abs(elastic.multipliers) > 1e-7)
    if not kept.size or solve_elastic(_only(problem, kept)).miss <= TOLERANCE:  # lost in rounding
        kept = np.arange(len(problem.shares))
    if len(kept) > _MAX_FILTER:
        return kept, False
    for index in kept.tolist():
        fewer = kept[kept != index]
        if fewer.size and solve_elastic(_only(problem, fewer)).miss > TOLERANCE:
            kept = fewer
    return kept, True


def _only(problem: Problem, kept: np.ndarray) -> Problem:
    """The problem of some shares only, in which cells that count alike are one."""
    member = problem.member[:, kept]
    keys = np.zeros((problem.member.shape[0], 1 + len(kept)), np.int32)
    keys[:, 1:] = member.toarray()
    if problem.sources is not None:
        keys[:, 0] = problem.sources
    uniques, cell = np.unique(keys, axis=0, return_inverse=True)
    natural = np.bincount(cell.ravel(), problem.natural)
    sources = None if problem.sources is None else uniques[:, 0]
    return replace(problem, natural=natural, member=csr_matrix(uniques[:, 1:].astype(float)), shares=problem.shares[kept], sources=sources)


def _needed(problem: Problem, elastic: Elastic, cap: str, slope: Callable[[Elastic], float]) -> float | None:
    """The least cap with which nothing misses, by Newton's method: the miss is a convex piecewise linear function of the cap."""
    needed = getattr(problem, cap)
    for _ in range(100):
        if elastic.miss <= TOLERANCE:
            return needed
        if slope(elastic) >= -1e-13:
            return None
        needed -= elastic.miss / slope(elastic)
        if cap == "max_repeats":
            needed = max(needed, _least_repeats(problem))
        if len(problem.natural) > _MANY:
            enough = replace(problem, **{cap: 1.001 * needed})
            if rake(enough).residual < 1e-9:
                return 1.001 * needed
        elastic = solve_elastic(replace(problem, **{cap: needed}))
    return None


def _least_repeats(problem: Problem) -> float:
    """What each share alone, and its complement, would need."""
    natural = problem.member.T @ problem.natural
    pairs = [(problem.shares, natural), (1 - problem.shares, 1 - natural)]
    return max(float(np.max(share[amount > 1e-12] / amount[amount > 1e-12], initial=1.0)) for share, amount in pairs)


def _nearest(problem: Problem, elastic: Elastic, round_shares: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Shares that are met when written down: as near as they can be, a trifle toward the natural ones where rounding needs the room."""
    nearest, natural = (problem.member.T @ (problem.natural * repeats) for repeats in (elastic.repeats, np.ones(len(problem.natural))))
    for part in (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1):
        shares = round_shares((1 - part) * nearest + part * natural)
        if rake(replace(problem, shares=shares)).residual < 1e-9:
            return shares
    return natural
