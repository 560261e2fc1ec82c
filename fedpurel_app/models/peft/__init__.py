"""Parameter-efficient families: what they are in ``registry``, each in a file of its own."""
