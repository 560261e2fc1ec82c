"""Many runs from one file: methods, data, families and seeds; resumed, shared and tuned by one rule."""
