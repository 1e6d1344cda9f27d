"""Predictions on pictures without annotations: what to read, the loop, tiles, and a journal that survives a kill.

A package of its own beside ``engine``, which trains and evaluates on registered data: nothing there needs it.
"""
