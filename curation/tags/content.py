"""Tags of the dimension content that the scan measures."""

from collections import Counter

from curation.clips import Clip
from curation.signals.sound import SLOT_S, shares
from curation.tags.summary import Values
from schemas.records import VideoRecord


def tags(clip: Clip, video: VideoRecord) -> Values:
    """Content tags of a clip by name."""
    colors = Counter(measures.color.dominant for measures in clip.measures)
    return {"content_dominant_color": colors.most_common(1)[0][0] if colors else None} | _sound_tags(clip)


def _sound_tags(clip: Clip) -> Values:
    sound, start_s, end_s = clip.scan.sound, clip.record.start_s, clip.record.end_s
    if sound is None or end_s <= start_s:
        return {}
    slots = sound.slots.between(start_s, end_s)
    found = shares(slots, end_s - start_s)
    return {
        "content_sound_share": min(1.0, len(slots.time_s) * SLOT_S / (end_s - start_s)),
        "content_speech_share": found.speech if found else None,
        "content_music_share": found.music if found else None,
        "content_silence_share": found.silence if found else None,
        "content_loudness": found.loudness_db if found else None,
    }
