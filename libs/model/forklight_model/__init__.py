"""The hybrid mixture-of-experts model: configuration, weights, log-probabilities, caches and generation."""
