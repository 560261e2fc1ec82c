"""Federated fine-tuning methods: what there is in ``registry``, what one is in ``base``, one file for each."""
