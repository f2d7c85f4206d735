"""What draws the eye in one picture, on a map of at most 64 x 64 cells."""

from dataclasses import dataclass

import cv2
import numpy as np

_SIDE = 64
_SPREAD = 2.5  # cells; Hou and Zhang smooth their map of 64 cells with about as much
_FLAT = 2.0  # standard deviation of a Lab channel, in levels, below which it holds nothing but coding noise
_BORDER = 0.08  # share of the shorter side that counts as background
_BORDER_NOISE = 16.0  # variance of a Lab channel added to that of the background, in levels squared


@dataclass(frozen=True, slots=True)
class Saliency:
    """Maps float32 [h, w], each of sum 1, the longer side 64 cells; squared, as the eye goes to the strongest places."""

    residual: np.ndarray  # spectral residual: where the picture breaks its own pattern
    subject: np.ndarray  # the same, filled by how little the color is that of the border
    lab: np.ndarray  # the picture they were made from, float32 [h, w, 3]


def saliency(lab: np.ndarray) -> Saliency | None:
    """Saliency of a picture uint8 [H, W, 3] in CIE Lab; None for a picture without anything in it."""
    height, width = lab.shape[:2]
    scale = _SIDE / max(height, width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    cells = cv2.resize(lab, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    parts = [residual for channel in cv2.split(cells) if (residual := spectral_residual(channel)) is not None]
    if not parts:
        return None
    residual = cv2.GaussianBlur(sum(parts[1:], parts[0]), (0, 0), _SPREAD)
    subject = np.sqrt(residual) * border_contrast(cells)
    return Saliency(_shares(residual), _shares(subject), cells)


def _shares(strength: np.ndarray) -> np.ndarray:
    power = np.square(strength / strength.max())
    return power / power.sum()


def spectral_residual(channel: np.ndarray) -> np.ndarray | None:
    """Saliency of one channel float32 [h, w], in sum its variance, so that channels can be added; None where it is flat.

    Hou and Zhang, "Saliency detection: a spectral residual approach" (CVPR 2007), equations 5 to 8, without the last smoothing.
    """
    centered = channel - channel.mean()
    variance = float((centered * centered).mean())
    if variance < _FLAT**2:
        return None
    spectrum = cv2.dft(centered, flags=cv2.DFT_COMPLEX_OUTPUT)
    # Not cv2.magnitude, whose last bit depends on where in memory its input lies.
    amplitude = np.sqrt(_energy(spectrum)) + np.float32(1e-2)
    log = cv2.log(amplitude)
    weight = cv2.exp(log - cv2.blur(log, (3, 3))) / amplitude  # the residual's amplitude in place of the picture's; phase as it is
    back = cv2.dft(spectrum * weight[..., None], flags=cv2.DFT_INVERSE | cv2.DFT_SCALE)
    energy = _energy(back)
    return energy * np.float32(variance / float(energy.sum()))


def _energy(waves: np.ndarray) -> np.ndarray:
    """Squared size of complex numbers [h, w, 2]: [h, w]."""
    real, imaginary = waves[..., 0], waves[..., 1]
    return np.asarray(real * real + imaginary * imaginary)


def border_contrast(cells: np.ndarray) -> np.ndarray:
    """How far each cell's color is from those along the border, in their standard deviations. float32 [h, w, 3] -> [h, w].

    The border as a sample of the background: Wei et al., "Geodesic saliency using background priors" (ECCV 2012).
    """
    smooth = cv2.GaussianBlur(cells, (0, 0), 1.0)
    height, width = cells.shape[:2]
    rim = max(1, round(_BORDER * min(height, width)))
    sides = smooth[:rim], smooth[-rim:], smooth[rim:-rim, :rim], smooth[rim:-rim, -rim:]
    border = np.ascontiguousarray(np.concatenate([side.reshape(-1, 3) for side in sides]).T, np.float64)
    means = border.mean(axis=1)
    border -= means[:, None]
    covariance = (border[:, None] * border).sum(axis=2) / (border.shape[1] - 1) + _BORDER_NOISE * np.eye(3)
    # Whitened by the Cholesky factor, the Mahalanobis distance is a plain length. By hand: that of a linear algebra library has
    # other last bits on another machine.
    factor = np.zeros((3, 3))
    squares = np.zeros((height, width), np.float32)
    white: list[np.ndarray] = []
    for row, (plane, mean) in enumerate(zip(cv2.split(smooth), means, strict=True)):
        rest = plane - np.float32(mean)
        for column in range(row):
            factor[row, column] = (covariance[row, column] - (factor[row] * factor[column]).sum()) / factor[column, column]
            rest -= np.float32(factor[row, column]) * white[column]
        factor[row, row] = np.sqrt(covariance[row, row] - np.square(factor[row]).sum())
        white.append(rest / np.float32(factor[row, row]))
        squares += white[row] * white[row]
    return np.sqrt(squares)
