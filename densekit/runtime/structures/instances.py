"""The objects of one image: named fields of equal length, indexed together."""

import itertools
from collections.abc import Sequence
from typing import Any, NoReturn

import torch


class Instances:
    """N objects of one image, each field holding one entry per object.

    Fields are set and read as attributes::

        instances = Instances((height, width), gt_boxes=boxes)
        instances.gt_classes = classes          # must have as many entries as gt_boxes
        confident = detections[detections.scores > 0.9]

    Names that start with an underscore are ordinary private attributes.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        """Makes a container.

        Args:
            image_size: (height, width) of the image.
            kwargs: The first fields.
        """
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width)."""
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        # Reached only where normal lookup failed; unpickling asks before `_fields` exists.
        fields = self.__dict__.get("_fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"Instances has no field {name!r}; it has {sorted(fields)}.")

    def set(self, name: str, value: Any) -> None:
        """Sets a field.

        Raises:
            ValueError: ``value`` has another length than the fields that exist.
        """
        if self._fields and len(value) != len(self):
            raise ValueError(f"field {name!r} has {len(value)} entries, but these Instances hold {len(self)} objects.")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get(self, name: str) -> Any:
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Returns the dict of fields itself: changing it changes the object."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Applies ``to`` to every field that has it."""
        moved = {k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()}
        return Instances(self._image_size, **moved)

    def __getitem__(self, item: Any) -> "Instances":
        """Selects objects by an integer (giving Instances of one object), a slice, an index or a bool vector."""
        if isinstance(item, int) and not isinstance(item, bool):
            if not -len(self) <= item < len(self):
                raise IndexError(f"there is no object {item} in Instances of {len(self)} objects.")
            # A slice keeps the leading dimension in every kind of field.
            item = slice(item, item + 1 or None)
        return Instances(self._image_size, **{k: v[item] for k, v in self._fields.items()})

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length; set a field first.")

    def __iter__(self) -> NoReturn:
        # Without it Python would iterate by integers and hand out Instances of one object, rarely what is meant.
        raise NotImplementedError("Instances cannot be iterated over; index them, or iterate over a field.")

    @staticmethod
    def cat(instance_lists: Sequence["Instances"]) -> "Instances":
        """Joins the objects of several Instances of one image.

        Args:
            instance_lists: At least one; a single one is returned as it is. All have the fields of the first.

        Raises:
            ValueError: None given, different image sizes, or a field that cannot be joined.
        """
        if not instance_lists:
            raise ValueError("Instances.cat needs at least one Instances.")
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        sizes = {tuple(instances.image_size) for instances in instance_lists}
        if len(sizes) > 1:
            raise ValueError(f"Instances.cat joins objects of one image; got image sizes {sorted(sizes)}.")
        return Instances(
            first.image_size,
            **{name: _cat_field(name, [i.get(name) for i in instance_lists]) for name in first.get_fields()},
        )

    def __repr__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        count = len(self) if self._fields else 0
        return f"Instances(num_instances={count}, image_height={height}, image_width={width}, fields=[{fields}])"


def _cat_field(name: str, values: list[Any]) -> Any:
    kind = type(values[0])
    if issubclass(kind, torch.Tensor):
        return torch.cat(values, dim=0)
    if issubclass(kind, list):
        return list(itertools.chain.from_iterable(values))
    if hasattr(kind, "cat"):
        return kind.cat(values)
    raise ValueError(
        f"field {name!r} of type {kind.__name__} cannot be joined: it is no tensor, no list, has no cat()."
    )
