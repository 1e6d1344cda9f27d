"""One painter per kind of object; each is a frozen description that paints itself on a canvas."""
