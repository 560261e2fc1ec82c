"""Data sets, the long-tail profile, and how a data set is dealt out to sites. Knows nothing of Flower or of models."""
