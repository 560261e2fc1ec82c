"""Weights of the demo CLIP, as text: Flower's app bundles and its Hub carry no binary files."""
