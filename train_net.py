#!/usr/bin/env python3
"""Trains and evaluates any system of densekit; ``python train_net.py --help`` shows how."""

from densekit.cli.train import main

if __name__ == "__main__":
    main()
