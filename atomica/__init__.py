"""Representations of the interfaces where molecules meet.

The names below are loaded when first used, so that `import atomica` stays fast.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, get_type_hints

from atomica.data import door

if TYPE_CHECKING:
    from atomica import compat, graph, heads, testing
    from atomica.compat import load
    from atomica.data.dataset import Dataset, open_dataset
    from atomica.data.graph import graph_from_arrays, load_graphs, save_graphs
    from atomica.data.record import Record
    from atomica.errors import AtomicaError
    from atomica.fitting import Fitted, fit
    from atomica.jobs.embed import Embeddings, embed
    from atomica.jobs.predict import Predictions, predict
    from atomica.model.average import average
    from atomica.model.model import Losses, Model
    from atomica.nn.encoding import Encoding
    from atomica.nn.equivariant import EncoderConfig

__version__ = "0.1.0"

_HOMES = {
    "AtomicaError": "errors",
    "Dataset": "data.dataset",
    "Embeddings": "jobs.embed",
    "EncoderConfig": "nn.equivariant",
    "Encoding": "nn.encoding",
    "Fitted": "fitting",
    "Losses": "model.model",
    "Model": "model.model",
    "Predictions": "jobs.predict",
    "Record": "data.record",
    "average": "model.average",
    "embed": "jobs.embed",
    "fit": "fitting",
    "graph_from_arrays": "data.graph",
    "load": "compat",
    "load_graphs": "data.graph",
    "open_dataset": "data.dataset",
    "predict": "jobs.predict",
    "save_graphs": "data.graph",
}
_MODULES = {name: name for name in ("compat", "graph", "heads", "testing")} | {"noise": "data.noise"}

__all__ = [
    "AtomicaError",
    "Dataset",
    "Embeddings",
    "EncoderConfig",
    "Encoding",
    "Fitted",
    "Losses",
    "Model",
    "Predictions",
    "Record",
    "average",
    "compat",
    "embed",
    "fit",
    "graph",
    "graph_from_arrays",
    "heads",
    "load",
    "load_graphs",
    "open_dataset",
    "predict",
    "save_graphs",
    "testing",
]

door.install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"atomica.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"atomica.{_MODULES[name]}")
    raise AttributeError(f"module 'atomica' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


if os.environ.get("EAGER_IMPORT"):
    # As of scientific Python's lazy_loader: for tools that read what there is, such as pdoc, which does not find what
    # stands in the signatures of named tuples.
    globals().update({name: __getattr__(name) for name in __all__})
    for found in [globals()[name] for name in __all__ if hasattr(globals()[name], "_fields")]:
        found.__new__.__annotations__ = get_type_hints(found)
