"""What `--list` and `--schema` say of a spec, against the specs there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from atomica import spec
from atomica.catalogue import listing, schema
from atomica.data.noise import NoiseConfig
from atomica.errors import SpecError
from atomica.heads import available, head_class
from atomica.nn import encoders
from atomica.nn.encoding import EmbeddingConfig
from atomica.nn.equivariant import EncoderConfig
from atomica.nn.invariant import InvariantConfig
from atomica.runner import main
from atomica.spec import tomllib
from atomica.train.checkpoint import CheckpointConfig
from atomica.train.config import TrainConfig
from atomica.train.schedule import TAKES, ScheduleConfig

ROOT = Path(__file__).parents[2]
SPECS = [*sorted((ROOT / "runs").glob("*.toml")), *(ROOT / "tests").rglob("*/ranking.toml")]
GOOD = '[run]\nname = "a"\n[data]\ntrain = "d"\n[[head]]\nkind = "binary"\n'


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator.check_schema(schema())
    return jsonschema.Draft7Validator(schema())


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_fits_the_schema(validator, path):
    tree = tomllib.loads(path.read_text())
    if path.stem == "ranking" and "ranking" not in available():  # its head comes from another package
        assert not validator.is_valid(tree)
        tree["head"] = [{"kind": "regression"}]
    assert [error.message for error in validator.iter_errors(tree)] == []


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (GOOD, True),
        (GOOD.replace('name = "a"', ""), False),
        (GOOD.replace('[data]\ntrain = "d"', ""), False),
        ('base = "b.toml"\n[train]\nepochs = 3', True),
        ('base = "b.toml"\nunset = ["train.rates"]\n[train]\nepochs = -1', False),
        (GOOD + "[train]\nepoch = 3", False),
        (GOOD + '[train]\nepochs = "3"', False),
        (GOOD + '[train]\noptimizer = "sgd"', False),
        (GOOD + "[train]\nrates.encoder.atoms = 1e-4\nbetas = [0.9, 0.99]", True),
        (GOOD + "[train]\nbetas = [0.9, 1.0]", False),
        (GOOD + '[train.schedule]\nkind = "onecycle"\nrise = 0.4', True),
        (GOOD + "[train.schedule]\nrise = 1.0", False),
        (GOOD.replace("binary", "binry"), False),
        (GOOD.replace("binary", "multiclass"), False),
        (GOOD.replace("binary", "multiclass") + 'classes = ["a", "b"]', True),
        (GOOD.replace("binary", "multiclass") + 'classes = ["a", "a"]', False),
        (GOOD + 'positive = ""', False),
        (GOOD + "[model.embeddings]\nsizes = [8, 9]", True),
        (GOOD + "[model.embeddings]\nsizes = [8, 9, 10]", False),
        (GOOD + '[model]\nkind = "invariant"\nattention_heads = 2', True),
        (GOOD + '[model]\nkind = "invariant"\nattention_heads = 3', False),
        (GOOD + '[model]\nkind = "invariant"\nreference_quirks = true', False),
        (GOOD + '[model]\nkind = "equivariant"\nreference_quirks = true', True),
        (GOOD + '[model]\nkind = "invarant"', False),
        (GOOD + "hiden = 3", False),
        (GOOD.replace("binary", "denoise") + 'label = "x"', False),
        (GOOD.replace('"d"', '["d", "e"]') + '[log.wandb]\nmode = "offline"', True),
        (GOOD + "[sweep.keys]\nrun.seed = [1, 2]", True),
        (GOOD + "[sweeps.keys]\nrun.seed = [1, 2]", False),
        (GOOD.replace("[data]", 'job = "nothing"\n[data]'), False),
    ],
)
def test_the_schema_says_what_the_reader_says(validator, text, valid):
    assert validator.is_valid(tomllib.loads(text)) is valid


SECTIONS = [EncoderConfig, EmbeddingConfig, NoiseConfig, TrainConfig, CheckpointConfig, ScheduleConfig]
SECTIONS += [head_class(kind).Config for kind in available()] + [InvariantConfig]
BEYOND = {"minimum": -1, "exclusiveMinimum": 0, "maximum": 1, "exclusiveMaximum": 0, "multipleOf": 1}
"""What must be added to a limit to be beyond it."""


@pytest.mark.parametrize("cls", SECTIONS, ids=lambda cls: cls.__name__)
def test_limits_of_the_schema_are_those_of_the_reader(cls, tmp_path):
    for key, node in spec.schema(cls)["properties"].items():
        given = [(word, node[word] + step, node) for word, step in BEYOND.items() if word in node]
        items = node.get("items", {})
        given += [(word, items[word] + step, node) for word, step in BEYOND.items() if word in items]
        for word, wrong, whole in given:
            value = wrong if whole["type"] != "array" else [wrong, wrong]
            source = tmp_path / "spec.toml"
            source.write_text(f"[table]\n{key} = {spec.show(value)}\n")
            issues = spec.Issues(spec.load(source))
            spec.read(cls, issues.source, ("table",), issues)
            assert any(f"table.{key} = " in str(issue) for issue in issues.found), (key, word, value)


@pytest.mark.parametrize("cls", [EncoderConfig, EmbeddingConfig, *SECTIONS[6:]], ids=lambda cls: cls.__name__)
def test_what_is_made_in_python_has_the_same_limits(cls):
    schema = spec.schema(cls)
    needed = {"classes": ["a", "b"]} if "classes" in schema["required"] else {}
    for key, node in schema["properties"].items():
        for word, step in BEYOND.items():
            if word in node:
                with pytest.raises(SpecError, match=f"^{key} = .*: must be "):
                    cls(**needed, **{key: node[word] + step})


def test_lists_name_everything(capsys):
    assert main(["--list"]) == 0
    text = capsys.readouterr().out
    assert text == listing() + "\n"
    for name in (
        *available(),
        *encoders.available(),
        *TAKES,
        "adamw",
        "balanced",
        "modality",
        "tpe",
        "hyperband",
        "train",
        "embed",
    ):
        assert re.search(rf"^  {name}: \S", text, flags=re.MULTILINE), name
    cosine = text[text.index("  cosine: ") : text.index("  exponential: ")]
    assert re.findall(r"^      (\w+) \(", cosine, flags=re.MULTILINE) == ["warmup_steps", *TAKES["cosine"]]
    assert max(map(len, text.splitlines())) <= 120


def test_the_schema_is_printed(capsys):
    assert main(["--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
    with pytest.raises(SystemExit):
        main([])
    assert "required: SPEC.toml" in capsys.readouterr().err
