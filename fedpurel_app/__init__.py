"""FedPuReL for Flower: balanced federated fine-tuning of vision-language models, with private residual branches."""

__version__ = "0.1.0"
