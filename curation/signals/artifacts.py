"""What went wrong with one picture on its way: smeared, enlarged, ringing or banded. Read off a few of its rows and columns.

A line of pixels falls into monotone runs: one run from a local extremum to the next is one edge, however soft. Width, spread and
overshoot of edges are statistics of these runs, so they are found once.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

CLEAR = 32
"""Levels from end to end of an edge that counts."""
_PIXELS = 40_000
_BESIDE = 3  # runs on either side of an edge that tell whether it is a lone one
_AT_LEAST = 40  # edges that statistics need
_STRONG = 48  # levels of an edge from which its overshoot is told from texture
_OVER_OWN, _OVER_OTHERS = 1.25, 2.0  # how many times higher a lone edge is than what swings back beside it, and the runs beyond
_EVEN_SPREAD = 0.2  # deviation of edge widths over their mean in an evenly soft picture
_SEGMENT = 32
_ROUNDING = 1 / 12  # power of rounding to whole levels: below it no spectrum can be seen
_BASE, _PROMISED = 3, 4  # lines of a segment's spectrum that are taken as given; the first of those looked at
_PLATEAU = 6  # pixels
_BAND_STEP = 32  # levels
_WINDOW = np.hanning(_SEGMENT + 2)[1:-1].astype(np.float32)
_WINDOW /= np.sqrt((_WINDOW**2).sum())  # noise of variance 1 then has power 1


@dataclass(frozen=True)
class Lines:
    """Evenly spaced rows and columns of a picture's luma, 40,000 pixels in all or the whole picture: uint8 [n, W] and [m, H]."""

    rows: np.ndarray
    columns: np.ndarray

    @cached_property
    def values(self) -> np.ndarray:
        """All lines end to end, int16 [K]."""
        return np.concatenate([self.rows.ravel(), self.columns.ravel()]).astype(np.int16)

    @cached_property
    def steps(self) -> np.ndarray:
        """Signed difference of each pixel to the next on its line, 0 at the end of a line: int16 [K]."""
        steps = np.zeros_like(self.values)
        np.subtract(self.values[1:], self.values[:-1], out=steps[:-1])
        steps[self.rows.shape[1] - 1 : self.rows.size : self.rows.shape[1]] = 0
        steps[self.rows.size + self.columns.shape[1] - 1 :: self.columns.shape[1]] = 0
        return steps

    @cached_property
    def sizes(self) -> np.ndarray:
        """`steps` without their signs."""
        return np.abs(self.steps)

    @property
    def row_steps(self) -> np.ndarray:
        """|difference| of each pixel of the rows to the next, the last one 0: int16 [n, W]."""
        return self.sizes[: self.rows.size].reshape(self.rows.shape)

    @property
    def column_steps(self) -> np.ndarray:
        """The same along the columns: int16 [m, H]."""
        return self.sizes[self.rows.size :].reshape(self.columns.shape)

    @cached_property
    def edges(self) -> "Edges":
        """All monotone runs of the lines, but for what lies before the first turn and after the last."""
        rising, falling = self.steps > 0, self.steps < 0
        turns = np.flatnonzero((rising[1:] != rising[:-1]) | (falling[1:] != falling[:-1])) + 1
        ends = self.values[turns]
        rise, length = np.abs(np.diff(ends)), np.diff(turns)
        rise[self.steps[turns[:-1]] == 0] = 0  # a plateau, or from the end of a line to the next one
        clear = np.flatnonzero(rise >= CLEAR)
        spans = np.stack([turns[clear], turns[clear + 1]], axis=1).ravel()
        steepest = np.maximum.reduceat(self.sizes, spans)[::2] if len(clear) else np.zeros(0, np.int16)
        return Edges(rise, length, clear, steepest)


@dataclass(frozen=True, slots=True)
class Edges:
    """Monotone runs of pixels in order, each from one local extremum to the next; plateaus are runs that rise by 0."""

    rise: np.ndarray  # [K] levels from end to end, without sign
    length: np.ndarray  # [K] pixels
    clear: np.ndarray  # [C] numbers of the runs that rise by `CLEAR` levels and more
    steepest: np.ndarray  # [C] largest step in each of those, levels


def lines(luma: np.ndarray) -> Lines:
    """Rows and columns of luma uint8 [H, W]."""
    height, width = luma.shape
    number = max(8, _PIXELS // (height + width))
    rows, columns = (np.linspace(0, side - 1, min(number, side) + 2).astype(int)[1:-1] for side in luma.shape)
    return Lines(luma[rows], np.ascontiguousarray(luma[:, columns].T))


def edge_widths(edges: Edges) -> np.ndarray | None:
    """Widths of clear edges in pixels: rise over steepest step, 1 for a perfectly sharp one. None for fewer than 40 edges.

    Marziliano et al., "A no-reference perceptual blur metric" (ICIP 2002), measure from extremum to extremum; dividing by
    the slope instead keeps long faint tails from counting.
    """
    widths = edges.rise[edges.clear] / edges.steepest
    return widths if len(widths) >= _AT_LEAST else None


def smear(widths: np.ndarray) -> float:
    """By how much edge widths spread beyond what evenly soft pictures show, in pixels. A proxy for motion blur.

    What moves, or lies along the direction in which the camera moves, stays sharp beside what is smeared; blur by the lens or
    by scaling widens all edges alike.
    """
    return float(np.sqrt(max(widths.var() - (_EVEN_SPREAD * widths.mean()) ** 2, 0.0)))


def ringing(edges: Edges) -> float | None:
    """Overshoot beside lone edges: height over that of the edge, times its width in pixels. None for fewer than 20 lone edges.

    An edge rings where the picture swings back right behind it; Marziliano et al., "Perceptual blur and ringing metrics"
    (Signal Processing: Image Communication 2004), measure the same against the original.
    """
    rise = edges.rise.astype(np.float32)
    inside = (edges.clear >= _BESIDE) & (edges.clear < len(rise) - _BESIDE)
    clear = edges.clear[inside & (rise[edges.clear] >= _STRONG)]
    own = np.maximum(rise[clear - 1], rise[clear + 1])
    others = np.max([rise[clear + sign * shift] for shift in range(2, _BESIDE + 1) for sign in (-1, 1)], axis=0)
    lone = clear[rise[clear] >= np.maximum(_OVER_OWN * own, _OVER_OTHERS * others)]
    if len(lone) < _AT_LEAST // 2:
        return None
    back, on = (rise[lone + shift] * edges.length[lone + shift] / rise[lone] for shift in (-1, 1))
    return float((back + on).mean() / 2)


def banding(edges: Edges) -> float:
    """Share of all change along lines that comes in single steps of up to 32 levels between plateaus of six pixels and more. 0-1.

    After the idea of Tandon et al., "CAMBI: contrast-aware multiscale banding index" (PCS 2021).
    """
    change = edges.rise.sum(dtype=np.int64)
    if not change:
        return 0.0
    plateau = (edges.rise == 0) & (edges.length >= _PLATEAU)
    bands = plateau[:-2] & plateau[2:] & (edges.length[1:-1] == 1) & (edges.rise[1:-1] <= _BAND_STEP)
    return float(edges.rise[1:-1][bands].sum(dtype=np.int64) / change)


def upscale(both: Lines, noise: float) -> float | None:
    """How much of the fine detail that the coarse detail promises is missing, 0-1. None where it promises too little to tell.

    The power of a line across sharp edges falls with the square of frequency, that across texture less steeply. What falls short of such
    a continuation of the lowest frequencies is summed on a log scale, as a share of what could fall short before rounding hides it.
    A blurred picture is as short of detail as an enlarged one. `noise`: its standard deviation in levels, which is taken off.
    """
    shares = [share for one in (both.rows, both.columns) if (share := _shortfall(one, noise)) is not None]
    return float(np.mean(shares)) if shares else None


def _shortfall(rows: np.ndarray, noise: float) -> float | None:
    segments = rows.shape[1] // _SEGMENT
    if not segments:
        return None
    parts = rows[:, : segments * _SEGMENT].reshape(-1, _SEGMENT).astype(np.float32)
    parts = (parts - cv2.reduce(parts, 1, cv2.REDUCE_AVG)) * _WINDOW
    waves = cv2.dft(parts, flags=cv2.DFT_ROWS)  # of each row 0, cos 1, sin 1, cos 2, sin 2, ...; NumPy's is slower
    squares = cv2.reduce(cv2.multiply(waves, waves), 0, cv2.REDUCE_AVG).ravel()
    power = squares[1:-1:2] + squares[2:-1:2]
    frequency = np.arange(1, len(power) + 1)
    promised = (power[:_BASE] * frequency[:_BASE] ** 2).mean() / frequency**2
    told = (frequency >= _PROMISED) & (promised > 4 * _ROUNDING)
    if np.count_nonzero(told) < 4:
        return None
    found = np.clip(power - noise**2, _ROUNDING, promised)
    return float(np.log(promised[told] / found[told]).sum() / np.log(promised[told] / _ROUNDING).sum())
