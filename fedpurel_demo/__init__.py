"""Weights of the demo CLIP. A package of its own, because Flower's app bundles carry no binary files."""
