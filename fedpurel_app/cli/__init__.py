"""The ``fedpurel`` command."""
