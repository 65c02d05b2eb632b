"""What is heard in a video: requests transcripts, and divides speech among clips."""
