"""The nearest orthonormal matrix, by the method that fits."""
