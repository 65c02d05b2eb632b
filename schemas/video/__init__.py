"""How a video is opened, timed and shown: everything that the pipeline and the trainer must do alike.

A model is measured and trained on the same frames only if both choose the same stream, count the same times and
convert to the same colours. `import schemas` does not import this package, because it needs PyAV and OpenCV.
"""
