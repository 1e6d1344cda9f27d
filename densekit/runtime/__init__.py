"""The built-in host: Detectron2's interfaces in pure Python over torch, torchvision.ops, fvcore and yacs.

Same config keys and defaults, same class, registry and parameter names, same numbers for the same weights. Code outside
this package reaches it through the seam only.
"""
