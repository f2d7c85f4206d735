"""The taggers that come with Reelmill, one module per model or source. Each implements `labeling.tagger.Tagger`."""
