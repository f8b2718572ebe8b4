"""Published weights: versions, their manifests and their probes."""
