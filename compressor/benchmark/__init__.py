"""Running artifacts side by side under meters."""
