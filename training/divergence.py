"""How far shares are from the planned ones, and how far chance alone would put them. Pure, on float64 arrays [V].

Chance is that of samples drawn one by one, each for itself. Those of an epoch are drawn without replacement and deviate
less, so what is given here is an upper bound.
"""

import numpy as np
from scipy.special import betainc, rel_entr

_LN_2 = np.log(2.0)


def js_bits(shares: np.ndarray, planned: np.ndarray) -> float:
    """Jensen-Shannon divergence (Lin 1991) of two distributions: 0 where they are equal, 1 where they share no value."""
    return float(np.clip(_terms(shares, planned).sum(), 0.0, 1.0))


def label_js_bits(shares: np.ndarray, planned: np.ndarray) -> float:
    """For labels that overlap, whose shares do not sum to 1: the mean over the labels of the divergence of carrying it or not."""
    apart = _terms(shares, planned) + _terms(1 - shares, 1 - planned)
    return float(np.clip(apart, 0.0, 1.0).mean())


def expected_js_bits(planned: np.ndarray, variances: np.ndarray, num_samples: float) -> float:
    """What `js_bits` is in the mean of `num_samples` random samples; `variances` are those of the shares of one sample.

    To second order, the divergence of shares p + d from p is sum(d^2 / p) / (8 ln 2) bits. The mean of d^2 is variance / n, for
    clips p (1 - p) / n, which gives (V - 1) / (8 n ln 2): 8 n ln 2 times the divergence is then chi-square with V - 1 degrees
    of freedom. A value much rarer than 1 / n adds p bits instead, which bounds its term.
    """
    each = np.minimum(_over(variances, planned) / (8 * num_samples * _LN_2), planned)
    return float(min(each.sum(), 1.0))


def expected_label_js_bits(planned: np.ndarray, variances: np.ndarray, num_samples: float) -> float:
    """The same of `label_js_bits`: the mean of d^2 / (p (1 - p)) / (8 ln 2)."""
    each = _over(variances, planned * (1 - planned)) / (8 * num_samples * _LN_2)
    return float(np.minimum(each, np.minimum(planned, 1 - planned)).mean())


def chance_of(shares: np.ndarray, planned: np.ndarray, variances: np.ndarray, num_samples: float) -> np.ndarray:
    """How probable shares so far from the planned ones are by chance: both tails of a binomial (Clopper & Pearson 1934), in [0, 1].

    Exact for clips, also for values of which few or none are expected, where the divergence is far from chi-square. Where
    samples differ in size, they count as the number of equal ones that would vary as much.
    """
    count = num_samples * _over(planned * (1 - planned), variances)
    seen = np.clip(shares, 0, 1) * count
    fewer = np.where(seen < count, betainc(np.maximum(count - seen, 1e-300), seen + 1, 1 - planned), 1.0)
    more = np.where(seen > 0, betainc(np.maximum(seen, 1e-300), count - seen + 1, planned), 1.0)
    certain = np.isclose(shares, planned, rtol=0, atol=1e-9).astype(np.float64)  # all samples, or none, are planned to be of the value
    return np.where(variances > 0, np.minimum(2 * np.minimum(fewer, more), 1.0), certain)


def _terms(shares: np.ndarray, planned: np.ndarray) -> np.ndarray:
    shares, planned = np.clip(shares, 0, 1), np.clip(planned, 0, 1)
    middle = (shares + planned) / 2
    return (rel_entr(shares, middle) + rel_entr(planned, middle)) / (2 * _LN_2)


def _over(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    return np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
