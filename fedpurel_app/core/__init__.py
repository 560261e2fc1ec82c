"""What every other part may import: no models, no Flower, no settings of a run."""
