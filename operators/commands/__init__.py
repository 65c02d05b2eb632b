"""Groups of commands of `lvr`, which `operators.cli` combines."""
