"""The cache of latents and text features: content-addressed shards, what fills them, and the frozen text encoder."""
