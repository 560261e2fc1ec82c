"""Beyond the paper: variants of FedPuReL that are off by default, one file each."""
