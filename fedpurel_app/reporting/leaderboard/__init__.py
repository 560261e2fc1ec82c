"""From a sweep's folder to the tables of a paper."""
