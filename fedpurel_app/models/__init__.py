"""The frozen CLIP and the parameter-efficient modules that are trained on top of it."""
