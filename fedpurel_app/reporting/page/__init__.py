"""``fedpurel report``: one HTML file that shows a run or a sweep, without scripts and without a network."""
