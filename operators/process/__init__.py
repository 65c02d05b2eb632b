"""Child processes: isolation with limits, supervision and scratch folders."""
