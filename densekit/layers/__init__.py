"""Blocks of networks: plain torch modules that know no host and no configuration."""
