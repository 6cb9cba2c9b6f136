"""Conformance suite for optimizers that orthonormalise: is the update of each layer the right matrix?

    pytest tests/conformance                              all installed, failures of others expected
    pytest tests/conformance --optimizer torch            one, its results as they are
    pytest tests/conformance --optimizer mine.py:ADAPTER  your own: a few lines, see `adapter`

Every test sets gradients by hand, takes a step, and compares the step with the singular value
decomposition, in float64, of the matrices that the layer's type says the gradient holds (`layers`).
Nothing here comes from the optimizers under test.
"""
