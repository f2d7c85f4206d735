"""Measurements: pure functions over arrays. No files, no decoder, no state."""
