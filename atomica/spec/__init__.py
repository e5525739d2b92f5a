"""TOML to typed, frozen settings; every error with its file, line, key, value and remedy.

Nothing here knows a section by name. Each component owns a frozen dataclass whose fields are made with
`setting`, which keeps default, meaning and limits in one place; `read` fills such a dataclass from a table of
the spec. What a dataclass finds wrong with its own values it raises as `Problems`; all that is wrong with a spec is
gathered as `Issue`s and reported together.
"""

from atomica.spec.problems import Problems
from atomica.spec.read import Issue, Issues, read, unknown_key
from atomica.spec.settings import not_among, out_of_range, setting
from atomica.spec.source import DERIVING, Source, expanded, load
from atomica.spec.tables import Setting, describe, meanings, schema
from atomica.spec.toml import KeyPath, dump, key_lines, show, tomllib

__all__ = [
    "DERIVING",
    "Issue",
    "Issues",
    "KeyPath",
    "Problems",
    "Setting",
    "Source",
    "describe",
    "dump",
    "expanded",
    "key_lines",
    "load",
    "meanings",
    "not_among",
    "out_of_range",
    "read",
    "schema",
    "setting",
    "show",
    "tomllib",
    "unknown_key",
]
