"""From a release to prepared rows: samples, packing, decoding and loading."""
