"""Terminal tables, Markdown and HTML pages of a comparison."""
