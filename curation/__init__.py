"""Raw video to tables: find sources, decode each once, cut it into shots and clips, measure them, and store the result."""
