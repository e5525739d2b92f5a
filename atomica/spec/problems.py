"""What is wrong with the settings of a section, as an exception that keeps one problem apart from another."""

from __future__ import annotations

from typing import Any

from atomica.errors import SpecError
from atomica.spec.settings import out_of_range
from atomica.spec.toml import show

__all__ = ["Problems"]


class Problems(SpecError, ValueError):
    """Several things at once that are wrong with a section: pairs of key and message.

    config: the section; its values are shown beside their keys.

    >>> print(Problems(("low", "must be below high"), ("step", "has no effect")))
    low: must be below high
    step: has no effect
    """

    def __init__(self, *problems: tuple[str, str], config: Any = None) -> None:
        super().__init__(*problems)
        self.problems = problems
        self.values = {key: show(getattr(config, key)) for key, _ in problems if hasattr(config, key)}

    def __str__(self) -> str:
        shown = {key: f"{key} = {value}" for key, value in self.values.items()}
        return "\n".join(f"{shown.get(key, key)}: {message}" for key, message in self.problems)

    @classmethod
    def check(cls, *problems: tuple[bool, str, str], config: Any = None) -> None:
        """Raise for every (is_wrong, key, message) whose first entry is true, and every value of `config` out of range.

        >>> Problems.check((1 > 2, "low", "must be below high"))
        """
        found = [] if config is None else out_of_range(config)
        found += [(key, message) for wrong, key, message in problems if wrong]
        if found:
            raise cls(*found, config=config)
