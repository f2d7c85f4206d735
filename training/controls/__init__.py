"""What a video can be steered by besides text: measured on the frames of a clip, or said by a user, as a map over its latents."""
