"""The rendered data set of the demo."""
