"""Shape annotations of tensors: jaxtyping's where it is installed, the bare tensor types where it is not.

`secateur.reduction` takes its annotations from here, so that torch is all it needs. The annotations change
nothing when the code runs; tests check them.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Bool", "Float", "Int", "Shaped"]

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Int, Shaped
    except ImportError:

        class _AnyShape:
            """Read `Float[Tensor, "rows columns"]` as `Tensor`."""

            def __class_getitem__(cls, annotation: tuple[Any, str]) -> Any:
                return annotation[0]

        Bool = Float = Int = Shaped = _AnyShape
