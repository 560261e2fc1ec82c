"""Run folders: written every round, read by ``show``, ``compare``, ``plot`` and the live view. Knows no Flower."""
