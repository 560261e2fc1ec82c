"""What evens out the classes in the task loss, or in predictions, of any method: a value of the key ``balancer``."""
