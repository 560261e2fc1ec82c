"""Where images, features and labels come from."""
