"""Callbacks for the trainers of other libraries; each module needs its library and is imported by name."""

__all__: list[str] = []
