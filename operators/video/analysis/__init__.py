"""One decode of a whole video: measures, shots and the proxy."""
