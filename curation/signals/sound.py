"""Sound in slots of 30 ms: what each holds, and what a stretch of them is.

Slots are cut from 16 kHz mono; levels are in dB of full scale, a full-scale sine having -3 dB.
"""

from dataclasses import dataclass

import numpy as np

RATE = 16_000
SLOT = 480  # samples
SLOT_S = SLOT / RATE
FLOOR_DB = -96.0  # of 16-bit samples
_SILENT_DB = -50.0
_GATE_DB = -70.0  # the absolute gate of ITU-R BS.1770
_WINDOW = 67  # slots: about two seconds
_VOICED, _PAUSING, _SYLLABIC = 0.5, 0.2, 0.25  # least of what speech shows in such a window
_TONAL = 0.1  # spectral flatness that music stays below
_LEAST_SLOTS = 10
_LEAST_COVERED = 0.5
_BAND = slice(3, 256)  # of a 512-point spectrum: about 100 Hz and up
_BLEND_FAST, _BLEND_SLOW = 3, 13  # slots; their difference passes 2 to 8 Hz, where syllables are


@dataclass(frozen=True)
class Slots:
    """Arrays [M], one value per slot, in order of time."""

    time_s: np.ndarray  # float64, when it begins, from the first video frame
    level_db: np.ndarray  # float32, RMS
    crossings: np.ndarray  # float32, share of neighboring samples with different sign
    flatness: np.ndarray  # float32, spectral flatness: 1 for white noise, 0 for a tone
    is_voice: np.ndarray  # bool, by a voice activity detector

    def between(self, start_s: float, end_s: float) -> "Slots":
        """The slots that begin in a span of time."""
        part = slice(*np.searchsorted(self.time_s, [start_s, end_s]))
        return Slots(self.time_s[part], self.level_db[part], self.crossings[part], self.flatness[part], self.is_voice[part])


def measure(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Level, zero crossings and spectral flatness of slots of samples: int16 [M, 480] to three float32 [M].

    Zero crossings: Saunders, ICASSP 1996. Flatness: geometric over arithmetic mean of the power spectrum (Gray and Markel 1974).
    """
    values = samples.astype(np.float32) / 32768
    power = np.einsum("ms,ms->m", values, values) / SLOT
    level = 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))
    negative = samples < 0
    crossings = np.count_nonzero(negative[:, 1:] != negative[:, :-1], axis=1) / (SLOT - 1)
    spectrum = np.abs(np.fft.rfft(values * np.hanning(SLOT).astype(np.float32), 512, axis=1)[:, _BAND]) ** 2 + 1e-10
    flatness = np.exp(np.log(spectrum).mean(axis=1)) / spectrum.mean(axis=1)
    return level.astype(np.float32), crossings.astype(np.float32), flatness.astype(np.float32)


def _moving(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over a centered window of an odd width, shorter at both ends. [M] -> [M]"""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    index, half = np.arange(len(values)), width // 2
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low))


def syllabic(level_db: np.ndarray) -> np.ndarray:
    """Modulation of loudness at 2-8 Hz over two seconds around each slot, 0 for a steady sound. [M] -> [M]

    After Scheirer and Slaney, ICASSP 1997: speech has syllables, about four a second.
    """
    amplitude = 10 ** (level_db / 20)
    band = _moving(amplitude, _BLEND_FAST) - _moving(amplitude, _BLEND_SLOW)
    return np.asarray(np.sqrt(_moving(band**2, _WINDOW)) / np.maximum(_moving(amplitude, _WINDOW), 1e-6))


def low_energy(level_db: np.ndarray) -> np.ndarray:
    """Share of slots within two seconds that have less than half the mean amplitude there (Scheirer and Slaney 1997). [M] -> [M]"""
    amplitude = 10 ** (level_db / 20)
    return _moving(amplitude < 0.5 * _moving(amplitude, _WINDOW), _WINDOW)


@dataclass(frozen=True)
class SoundShares:
    """What a stretch of sound is, in shares of its slots; the rest is noise."""

    speech: float
    music: float
    silence: float
    loudness_db: float


def shares(slots: Slots, seconds: float) -> SoundShares | None:
    """What the slots of a stretch are; None where they are few or cover less than half of its `seconds`.

    A proxy by rules, without a model. Silence is below -50 dB. Speech is where, over two seconds, the voice activity detector agrees at
    least half of the time, loudness has pauses and changes as fast as syllables do. Music is sustained and tonal sound that
    is not speech; singing may pass for either, and a hum for music. Loudness is the RMS level of the slots above -70 dB, or of all
    where there are none, -96 dB being digital silence.
    """
    count = len(slots.time_s)
    if count < _LEAST_SLOTS or count * SLOT_S < _LEAST_COVERED * seconds:
        return None
    heard = slots.level_db >= _SILENT_DB
    pausing = low_energy(slots.level_db)
    voiced = _moving(slots.is_voice, _WINDOW) >= _VOICED
    speech = heard & voiced & (pausing >= _PAUSING) & (syllabic(slots.level_db) >= _SYLLABIC)
    tonal = _moving(np.where(heard, slots.flatness, 0), _WINDOW) / np.maximum(_moving(heard, _WINDOW), 1e-6) < _TONAL
    music = heard & ~speech & tonal & (pausing < _PAUSING)
    gated = slots.level_db > _GATE_DB
    loud = slots.level_db[gated] if gated.any() else slots.level_db
    return SoundShares(
        speech=float(speech.mean()),
        music=float(music.mean()),
        silence=float(1 - heard.mean()),
        loudness_db=float(np.clip(10 * np.log10(np.mean(10 ** (loud.astype(np.float64) / 10))), FLOOR_DB, 0)),
    )
