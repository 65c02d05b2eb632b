"""From shots to clip files: planning, cutting without loss, and reading back."""
