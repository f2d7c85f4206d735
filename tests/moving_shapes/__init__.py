"""A small world of moving shapes: clips with everything about them known, and measurements of frames that know nothing of it."""
