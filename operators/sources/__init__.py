"""What a user points at - a folder, a manifest, Shot2Story's annotations - as `Source` rows."""
