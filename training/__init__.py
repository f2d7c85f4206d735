"""Training from a manifest: balance, sampling, decoding, 3D autoencoder, DiT and generation. No Spark, no Dask."""
