"""The sound of a video, measured in the pass over its packets: nothing but a few numbers per 30 ms is kept.

In: the packets of the first audio stream, as the demuxer comes upon them. Out: `Sound`. Damage stays here: what cannot be
decoded is counted and left out, and the pictures never notice.
"""

from array import array
from dataclasses import dataclass

import av
import av.error
import numpy as np
import webrtcvad  # type: ignore[import-untyped]
from av.audio.stream import AudioStream
from av.container import InputContainer

from curation.signals.sound import RATE, SLOT, SLOT_S, Slots, measure

# Packets are put by and decoded many at a time: between pictures, a decoder would find the processor's caches cold each time.
_BATCH, _BATCH_BYTES = 256, 1 << 20
_CHUNK_S = 0.5  # sound is resampled and measured this much at a time
_JUMP_S = 0.1  # a gap or step back in the timestamps from which sound is placed anew
_VOICE_STRICTNESS = 2  # of 0-3


@dataclass(frozen=True)
class Sound:
    """What a pass leaves of a video's sound."""

    slots: Slots
    errors: int  # packets that could not be decoded


class SoundMeter:
    """Measures an audio stream packet by packet."""

    def __init__(self, stream: AudioStream):
        self._stream, self._tick = stream, float(stream.time_base or 0)
        self._waiting: list[av.Packet[AudioStream]] = []
        self._waiting_bytes = 0
        self._fifo = av.AudioFifo()
        self._layout: tuple[str, str, int] | None = None
        self._resampler = av.AudioResampler("s16", "mono", RATE)
        self._vad = webrtcvad.Vad(_VOICE_STRICTNESS)
        self._rest = np.zeros(0, np.int16)
        self._start_s: float | None = None  # of `_rest`, by the container's clock
        self._end_s = 0.0  # of what has been decoded
        self._times, self._levels, self._crossings, self._flatness = array("d"), array("f"), array("f"), array("f")
        self._voices = bytearray()
        self.errors = 0

    @classmethod
    def of(cls, container: InputContainer) -> "SoundMeter | None":
        """A meter for the first audio stream; None where there is none, or none that can be decoded."""
        streams = container.streams.audio
        if not streams or streams[0].codec_context is None:
            return None
        context = streams[0].codec_context
        context.thread_count, context.thread_type = 1, "NONE"
        return cls(streams[0])

    def take(self, packet: "av.Packet[AudioStream]") -> None:
        """One packet of the stream, in order; an empty one ends it."""
        self._waiting.append(packet)
        self._waiting_bytes += packet.size
        if len(self._waiting) >= _BATCH or self._waiting_bytes >= _BATCH_BYTES:
            self._decode()

    def _decode(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for packet in waiting:
            try:
                for frame in self._stream.codec_context.decode(packet if packet.size else None):
                    self._add(frame)
            except (av.error.FFmpegError, ValueError):
                self.errors += 1

    def _add(self, frame: av.AudioFrame) -> None:
        if not (frame.samples and frame.sample_rate):
            return
        layout = (frame.format.name, frame.layout.name, frame.sample_rate)
        start_s = frame.pts * self._tick if frame.pts is not None and self._tick else self._end_s
        if layout != self._layout or abs(start_s - self._end_s) > _JUMP_S or self._start_s is None:
            self._flush()
            self._layout, self._resampler = layout, av.AudioResampler("s16", "mono", RATE)
            self._start_s = self._end_s = start_s
        self._end_s += frame.samples / frame.sample_rate
        frame.pts = None  # the queue wants none, or gapless ones
        self._fifo.write(frame)
        if self._fifo.samples >= _CHUNK_S * frame.sample_rate:
            self._measure(self._fifo.read())

    def _flush(self) -> None:
        """Measure what is queued; a part of a slot at its end is dropped."""
        if self._fifo.samples:
            self._measure(self._fifo.read())
        if self._layout is not None:
            self._measure(None)
        self._fifo, self._rest = av.AudioFifo(), np.zeros(0, np.int16)

    def _measure(self, queued: av.AudioFrame | None) -> None:
        parts = [frame.to_ndarray()[0] for frame in self._resampler.resample(queued)]
        samples = np.concatenate([self._rest, *parts])
        count = len(samples) // SLOT
        self._rest = samples[count * SLOT :]
        if not count or self._start_s is None:
            return
        slots = np.ascontiguousarray(samples[: count * SLOT].reshape(count, SLOT))
        level, crossings, flatness = measure(slots)
        self._times.extend(self._start_s + SLOT_S * np.arange(count))
        self._levels.extend(level)
        self._crossings.extend(crossings)
        self._flatness.extend(flatness)
        self._voices += bytes(self._vad.is_speech(slot.tobytes(), RATE) for slot in slots)
        self._start_s += count * SLOT_S

    def finish(self, origin_s: float) -> Sound:
        """All that was measured. `origin_s`: when the first video frame is shown, by the container's clock."""
        self._decode()
        try:
            self._flush()
        except (av.error.FFmpegError, ValueError):
            self.errors += 1
        time_s = np.array(self._times) - origin_s
        order = np.argsort(time_s, kind="stable")
        level, crossings, flatness = (np.array(part)[order] for part in (self._levels, self._crossings, self._flatness))
        voices = np.frombuffer(bytes(self._voices), np.uint8).astype(bool)
        return Sound(Slots(time_s[order], level, crossings, flatness, voices[order]), self.errors)
