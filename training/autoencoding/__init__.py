"""The parts of the autoencoder beside its network: tiles, further losses, published weights, previews."""
