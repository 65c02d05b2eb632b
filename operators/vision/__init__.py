"""Measurements on video frames that need no captioning model, and the sentences that report them."""
