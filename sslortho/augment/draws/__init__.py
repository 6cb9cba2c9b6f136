"""Random draws of views: counter-based random numbers, and the parameters made of them.

Nothing here depends on a renderer: all renderers are given the same draws.
"""
