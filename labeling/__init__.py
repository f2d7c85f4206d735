"""What Reelmill says of clips beyond the scan: captions and model scores, and the queries and reports that read them all."""
