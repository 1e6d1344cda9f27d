"""Self-contained HTML pages: what is wrong with a data set, and what an evaluation is worth.

A page is one file that loads nothing: style, script, numbers and pictures are within it. Whatever comes from a data
set (class names, file names, messages) is escaped by the builder, and a content security policy forbids the network.
"""
