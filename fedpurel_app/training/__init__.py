"""Local training and evaluation: one loop for every algorithm and every family. Knows nothing of Flower."""
