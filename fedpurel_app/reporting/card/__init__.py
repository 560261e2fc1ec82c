"""The card of a model: what a finished run says of it, as Markdown."""
