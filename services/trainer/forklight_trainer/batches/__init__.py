"""From a leased batch to packs: the nouns, reading, packing, replayed experts."""
