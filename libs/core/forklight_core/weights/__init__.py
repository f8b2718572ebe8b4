"""Published weights as bytes on a disk or in a store: manifests, changes, reading and proof. No torch."""
