"""Reading pickles of plain data without running what they say."""

from __future__ import annotations

import gzip
import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from atomica.errors import DataError

__all__ = ["items_of", "restricted_load"]


# ------------------------------------------------------------------------------------------------- unpickling


class _Dtype:
    """A type of numbers, in place of `numpy.dtype`, whose own state a file could make inconsistent."""

    def __init__(self, code: Any = "", *flags: Any) -> None:
        if not isinstance(code, str) or re.fullmatch(r"[<>=|]?[biuf][1248]", code) is None:
            raise pickle.UnpicklingError(f"arrays of type {code!r} are refused, only numbers are read")
        self.plain = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """The byte order; fields and subarrays are refused."""
        if any(part is not None for part in state[2:5]) or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("arrays of structures are refused, only numbers are read")
        self.plain = self.plain.newbyteorder(state[1])


class _Array:
    """An array of numbers, in place of `numpy.ndarray`; `np.asarray` makes one of it."""

    def __init__(self, *arguments: Any) -> None:
        self.values = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        """Shape, type, order of columns and bytes."""
        _, shape, dtype, fortran, content = state
        self.values = _from_buffer(content, dtype, shape, "F" if fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """The array itself."""
        return self.values if dtype is None else self.values.astype(dtype)


def _from_buffer(content: Any, dtype: Any, shape: Any, order: str = "C") -> npt.NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError("arrays of anything but numbers are refused")
    return np.frombuffer(content, dtype=dtype.plain).reshape(shape, order="F" if order == "F" else "C")


def _number(dtype: Any, content: Any) -> Any:
    return _from_buffer(content, dtype, (1,))[0].item()


def _latin_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is refused")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin_bytes,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    **{
        (f"numpy.{core}.{module}", name): made
        for core in ("core", "_core")
        for module, name, made in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _number),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
"""What a pickle may name → what it gets, made here: nothing of NumPy itself can be called by a file."""


class _Unpickler(pickle.Unpickler):
    """Finds what `_ALLOWED` lists, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse every name but those of plain data."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"it holds {module}.{name}, and only plain containers, numbers, texts and arrays of numbers are read"
            )
        return _ALLOWED[module, name]


def restricted_load(stream: BinaryIO, where: str) -> Any:
    """What a pickle holds, if that is plain data. Raises DataError naming what is refused; runs no code of the file."""
    try:
        return _Unpickler(stream).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError) as error:
        raise DataError(f"{where}: not read: {error}") from None
    except (AttributeError, ImportError, MemoryError, OverflowError, RecursionError, UnicodeError) as error:
        raise DataError(f"{where}: not a pickle of plain data ({type(error).__name__}: {error})") from None


def items_of(path: Path) -> Iterator[tuple[str, Any]]:
    """The items of a file and where each stands. Raises DataError if the file as a whole cannot be read.

    Lines of JSON are read one by one; one that is no JSON gives the DataError in place of an item.
    """
    name = path.name.lower()
    opened = gzip.open if name.endswith(".gz") else open
    try:
        with opened(path, "rb") as stream:
            if name.removesuffix(".gz").endswith((".pkl", ".pickle")):
                found = restricted_load(stream, str(path))  # type: ignore[arg-type]
                if not isinstance(found, list | tuple):
                    raise DataError(f"{path}: holds {type(found).__name__}, expected a list of complexes")
                yield from ((f"{path}: item {index}", item) for index, item in enumerate(found))
                return
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    yield where, json.loads(line)
                except ValueError as error:
                    yield where, DataError(f"{where}: not valid JSON: {error}")
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
