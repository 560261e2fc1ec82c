"""A Flower app with a model of its own on the strategy and the mathematics of FedPuReL."""
