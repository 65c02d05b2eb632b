"""One Markdown file per prompt: front matter (role, output schema, sampling) and a Jinja body. No code."""
