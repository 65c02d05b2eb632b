"""Sources of a build - a folder, a manifest, or Shot2Story's annotations - read as `Source` rows."""
