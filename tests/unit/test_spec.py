"""The spec reader: what it accepts, and that every error names file, line, key, value and remedy."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from atomica import spec
from atomica.errors import SpecError
from atomica.spec import Problems, setting


@dataclass(frozen=True)
class Inner:
    kind: str = setting("flat", "shape", choices=("flat", "round"))
    size: int = setting(1, "size", low=0)


@dataclass(frozen=True)
class Outer:
    name: str = setting(doc="name of it")
    rate: float = setting(0.5, "rate", above=0, high=1)
    count: int = setting(3, "count", low=1)
    on: bool = setting(True, "switch")
    maybe: str | None = setting(None, "optional")
    parts: tuple[int, ...] = setting((), "several", low=0)
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self):
        Problems.check((self.count == 13, "count", "brings bad luck; take 12"))


@dataclass(frozen=True)
class Free:
    rates: Mapping[str, float] = setting({}, "several by name", above=0)


def reading(tmp_path, text, overrides=(), cls=Outer, section=("outer",)):
    path = tmp_path / "spec.toml"
    path.write_text(text)
    source = spec.load(path, overrides)
    issues = spec.Issues(source)
    value = spec.read(cls, source, section, issues, elsewhere={"lost": "found"})
    issues.raise_any()
    return value


def test_reads_every_type_and_fills_defaults(tmp_path):
    text = '[outer]\nname = "n"\nrate = 1\nparts = [1, 2]\n[outer.inner]\nkind = "round"\n'
    assert reading(tmp_path, text) == Outer(name="n", rate=1.0, parts=(1, 2), inner=Inner(kind="round"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rat = 1", "spec.toml:3: outer.rat = 1: unknown key; did you mean outer.rate?"),
        (
            "zzz = 1",
            "spec.toml:3: outer.zzz = 1: unknown key; remove it, or use one of the keys of [outer]: name,",
        ),
        ("lost = 1", "spec.toml:3: outer.lost = 1: unknown key in [outer]; it belongs to [found]"),
        ('count = "3"', 'outer.count = "3": expected a whole number, got text; write it without quotes'),
        ("count = 3.0", "outer.count = 3.0: expected a whole number, got a number; write 3"),
        ("count = true", "outer.count = true: expected a whole number, got true/false"),
        ("count = 0", "outer.count = 0: must be at least 1"),
        ("count = 13", "outer.count = 13: brings bad luck; take 12"),
        ("rate = 0", "outer.rate = 0: must be more than 0, at most 1"),
        ("rate = inf", "outer.rate = inf: must be finite"),
        ("rate = 2020-01-01", "outer.rate = 2020-01-01: expected a number, got a date or time"),
        ("on = 1", "outer.on = 1: expected true or false, got a whole number"),
        ("maybe = 3", 'outer.maybe = 3: expected text, got a whole number; write "3"'),
        ("parts = 3", "outer.parts = 3: expected a list, got a whole number"),
        ("parts = [1, -1]", "outer.parts = [1, -1]: must be at least 0"),
        ("inner = 3", "outer.inner = 3: expected a table, got a whole number"),
        (
            'inner.kind = "rond"',
            'outer.inner.kind = "rond": must be one of "flat", "round"; did you mean "round"?',
        ),
        ("inner = { siz = 3 }", "outer.inner.siz = 3: unknown key; did you mean outer.inner.size?"),
    ],
)
def test_each_mistake_is_named(tmp_path, line, message):
    with pytest.raises(SpecError) as caught:
        reading(tmp_path, f'[outer]\nname = "n"\n{line}\n')
    assert message in str(caught.value)
    assert "spec.toml:3: " in str(caught.value)


def test_required_key(tmp_path):
    with pytest.raises(SpecError, match=r"spec.toml:2: outer.name: this key is required \(name of it\)"):
        reading(tmp_path, "# nothing yet\n[outer]\n")


def test_all_mistakes_are_reported_together(tmp_path):
    with pytest.raises(SpecError) as caught:
        reading(tmp_path, "[outer]\nrate = 7\ncount = 0\nonn = true\n[outer.inner]\nsize = -1\n")
    text = str(caught.value)
    assert text.startswith("5 errors in ")
    for key in ("outer.onn", "outer.name", "outer.rate", "outer.count", "outer.inner.size"):
        assert key in text


def test_plain_errors_of_foreign_components_find_their_key(tmp_path):
    @dataclass(frozen=True)
    class Foreign:
        width: int = 1
        depth: int = 1

        def __post_init__(self):
            raise ValueError("width = 3: must be even; depth = 9: too deep" if self.width % 2 else "too much")

    file = tmp_path / "spec.toml"
    with pytest.raises(SpecError) as caught:
        reading(tmp_path, "[outer]\nwidth = 3\ndepth = 9\n", cls=Foreign)
    assert str(caught.value) == f"{file}:2: outer.width = 3: must be even; depth = 9: too deep"
    with pytest.raises(SpecError) as caught:
        reading(tmp_path, "[outer]\nwidth = 2\n", cls=Foreign)
    assert str(caught.value) == f"{file}:1: outer: too much"


@dataclass(frozen=True)
class Labels:
    yes: str = setting("1", "counts as yes")
    no: str = setting("0", "counts as no", choices={"0": "", "a; b": "", "no = 1: c": ""})

    def __post_init__(self):
        Problems.check(
            (self.yes == self.no, "yes", f"is {self.no!r}; no = {self.no}, too"),
            (len(self.yes) > 3, "no", f"is shorter than {self.yes!r}"),
            config=self,
        )


@pytest.mark.parametrize("text", ["a; b", "no = 1: c"])
def test_no_message_is_torn_by_what_it_holds(tmp_path, text):
    with pytest.raises(SpecError) as caught:
        reading(tmp_path, f'[outer]\nyes = "{text}"\nno = "{text}"\n', cls=Labels)
    file = tmp_path / "spec.toml"
    assert str(caught.value).splitlines() == [
        f"2 errors in {file}",
        f'  {file}:2: outer.yes = "{text}": is {text!r}; no = {text}, too',
        f'  {file}:3: outer.no = "{text}": is shorter than {text!r}',
    ]


def test_problems_of_a_section_made_in_python():
    with pytest.raises(Problems) as caught:
        Labels(yes="a; b", no="c; d")
    assert [key for key, _ in caught.value.problems] == ["no", "no"]
    assert str(caught.value).splitlines() == [
        'no = "c; d": must be one of "0", "a; b", "no = 1: c"',
        "no = \"c; d\": is shorter than 'a; b'",
    ]
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - as processes hand on errors
    assert (str(again), again.problems) == (str(caught.value), caught.value.problems)


def test_overrides(tmp_path):
    text = '[outer]\nname = "n"\n'
    given = [
        "outer.name=5",
        "outer.rate=0.25",
        "outer.inner.kind=round",
        "outer.maybe=two words",
        "outer.parts=[4]",
    ]
    value = reading(tmp_path, text, given)
    assert value == Outer(name="5", rate=0.25, maybe="two words", parts=(4,), inner=Inner(kind="round"))


def test_overrides_reach_into_lists_of_tables(tmp_path):
    text = "[[outer]]\nname = 'a'\n[[outer]]\nname = 'b'\n"
    assert reading(tmp_path, text, ["outer.1.name=c"], section=("outer", 1)).name == "c"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("outer.rate", "expected key.path=value"),
        ("outer..rate=1", "expected key.path=value"),
        ("outer.name.x=1", 'outer.name = "n" is a value and holds no key x'),
        ("list.7.name=1", "list has 1 elements; write list.0 to list.0"),
        ('outer.name="n', "the value is not valid TOML"),
    ],
)
def test_overrides_that_cannot_be_applied(tmp_path, override, message):
    with pytest.raises(SpecError) as caught:
        reading(tmp_path, '[outer]\nname = "n"\n[[list]]\n', [override])
    assert f"--set {override}" in str(caught.value)
    assert message in str(caught.value)


def test_a_wrong_override_is_named_as_such(tmp_path):
    with pytest.raises(
        SpecError, match=r"^--set outer.count=many: outer.count = \"many\": expected a whole number"
    ):
        reading(tmp_path, '[outer]\nname = "n"\n', ["outer.count=many"])


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(SpecError, match="no such spec file"):
        spec.load(tmp_path / "none.toml")
    with pytest.raises(SpecError, match="is a folder"):
        spec.load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(SpecError, match="is not UTF-8 text"):
        spec.load(tmp_path / "latin.toml")
    (tmp_path / "broken.toml").write_text("[run]\nname = \n")
    with pytest.raises(SpecError, match=r"broken.toml:2: not valid TOML, column 8"):
        spec.load(tmp_path / "broken.toml")


def derived(tmp_path, base, text):
    (tmp_path / "more").mkdir(exist_ok=True)
    (tmp_path / "base.toml").write_text(base)
    return reading(tmp_path / "more", 'base = "../base.toml"\n' + text)


BASE = '[outer]\nname = "n"\nrate = 0.25\nparts = [1, 2]\n[outer.inner]\nkind = "round"\nsize = 7\n'


def test_a_spec_derives_from_another(tmp_path):
    value = derived(tmp_path, BASE, "[outer]\ncount = 5\nparts = [3]\n[outer.inner]\nsize = 8\n")
    assert value == Outer(name="n", rate=0.25, count=5, parts=(3,), inner=Inner(kind="round", size=8))
    assert derived(tmp_path, BASE, "") == derived(tmp_path, BASE, "[outer]\n")
    value = derived(tmp_path, BASE, 'unset = ["outer.rate", "outer.inner"]')
    assert value == Outer(name="n", parts=(1, 2))
    # And that one from a third, with changes from the command line on top.
    (tmp_path / "third.toml").write_text('base = "more/spec.toml"\n[outer]\nname = "third"\n')
    source = spec.load(tmp_path / "third.toml", ["outer.rate=1.0"])
    assert source.tree["outer"] == {"name": "third", "rate": 1.0, "parts": [1, 2]}


def test_errors_name_the_file_of_a_derived_spec_that_holds_the_key(tmp_path):
    with pytest.raises(SpecError) as caught:
        derived(tmp_path, BASE.replace("0.25", "7"), "[outer]\ncount = 0\n[outer.inner]\nsizes = 3")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"3 errors in {tmp_path / 'more/spec.toml'}"
    for line in ("base.toml:3: outer.rate = 7", "spec.toml:3: outer.count", "spec.toml:5: outer.inner.sizes"):
        assert any(line in found for found in lines), line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "no.toml"', r'spec.toml:1: base = "no.toml": no such spec file'),
        ("base = 3", r"spec.toml:1: base = 3: expected text, the path of a spec, got a whole number"),
        ('base = "spec.toml"', r"spec.toml:1: base = .*would derive from itself"),
        ('base = "back.toml"', r'back.toml:1: base = "spec.toml": the spec would derive from itself'),
        ('base = "broken.toml"', r'spec.toml:1: base = "broken.toml": not valid TOML'),
        ("unset = []", r"spec.toml:1: unset: has no effect without base"),
        ('base = "base.toml"\nunset = "outer"', r'spec.toml:2: unset = "outer": expected a list of keys'),
        (
            'base = "base.toml"\nunset = ["outer.rat"]',
            r'spec.toml:2: unset "outer.rat": the base has no such key; did you mean outer.rate\?',
        ),
    ],
)
def test_derivations_that_cannot_be(tmp_path, text, message):
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "back.toml").write_text('base = "spec.toml"')
    (tmp_path / "broken.toml").write_text("[outer")
    with pytest.raises(SpecError, match=message):
        reading(tmp_path, text)
    with pytest.raises(SpecError, match="--set base=x.toml: a spec is derived in its file"):
        spec.load(tmp_path / "base.toml", ["base=x.toml"])


LINES = '''\
# a comment with [brackets] and "quotes"
top = 1

[run]          # line 4
name = "a # b"
"quoted.key" = 1
dotted . inner = """
[not.a.table]
x = 1 \\"""
"""
after = [
  1,  # one ]
  "two, ]",
  { deep = 3 },
]
inline = { a = 1, b = { c = [1] } }

[[head]]
kind = \'\'\'it\'s '\'\'\'\'
[head.sub]
x = 1
[[head]]
kind = 2020-01-01T00:00:00Z
'''


def test_lines_of_keys():
    found = spec.key_lines(LINES)
    expected = {
        ("top",): 2,
        ("run",): 4,
        ("run", "name"): 5,
        ("run", "quoted.key"): 6,
        ("run", "dotted", "inner"): 7,
        ("run", "after"): 11,
        ("run", "after", 1): 13,
        ("run", "after", 2, "deep"): 14,
        ("run", "inline", "a"): 16,
        ("run", "inline", "b", "c"): 16,
        ("head", 0): 18,
        ("head", 0, "kind"): 19,
        ("head", 0, "sub", "x"): 21,
        ("head", 1): 22,
        ("head", 1, "kind"): 23,
    }
    assert {path: found.get(path) for path in expected} == expected
    assert ("not", "a", "table") not in found
    assert ("run", "x") not in found


def test_every_key_of_a_text_has_a_line():
    def paths(node, here=()):
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            yield (*here, key)
            yield from paths(value, (*here, key))

    lines = spec.key_lines(LINES)
    assert set(paths(spec.tomllib.loads(LINES))) <= set(lines)


def test_dump_reads_back():
    value = Outer(name='quo"te\n\x7f é \\', rate=1e-5, parts=(1, 2), inner=Inner(size=4))
    text = spec.dump(
        [("outer", dataclasses.asdict(value)), ("[[head]]", {"kind": "a"}), ("[[head]]", {"kind": "b"})]
    )
    tree = spec.tomllib.loads(text)
    assert tree["head"] == [{"kind": "a"}, {"kind": "b"}]
    outer = tree["outer"]
    assert "maybe" not in outer
    assert Outer(**{**outer, "parts": tuple(outer["parts"]), "inner": Inner(**outer["inner"])}) == value


def test_a_table_with_keys_of_the_users_choice(tmp_path):
    text = '[free]\n[free.rates]\nwhole = 1\nof.it = 0.5\n"of.that" = 0.25\n'
    value = reading(tmp_path, text, ["free.rates.more=2"], cls=Free, section=("free",))
    assert value.rates == {"whole": 1.0, "of.it": 0.5, "of.that": 0.25, "more": 2.0}
    again = spec.dump([("free", dataclasses.asdict(value))])
    assert reading(tmp_path, again, cls=Free, section=("free",)) == value
    assert reading(tmp_path, "", cls=Free, section=("free",)) == Free()
    assert "rates" not in spec.dump([("free", dataclasses.asdict(Free()))])
    (row,) = spec.describe(Free)
    assert (row.type, row.default, row.limits) == ("table of number", "empty", "more than 0")
    for wrong, message in (("rates = 1", "expected a table"), ("rates.a = -1", "must be more than 0")):
        with pytest.raises(SpecError, match=message):
            reading(tmp_path, f"[free]\n{wrong}", cls=Free, section=("free",))
    with pytest.raises(SpecError, match="expected a number, got text"):
        reading(tmp_path, '[free]\nrates.a = "b"', cls=Free, section=("free",))


def test_describe_lists_defaults_limits_and_meaning():
    rows = {row.key: row for row in spec.describe(Outer, "outer")}
    assert rows["outer.name"].default == "required"
    assert rows["outer.rate"].limits == "more than 0, at most 1"
    assert rows["outer.inner.kind"].default == '"flat"'
    assert rows["outer.maybe"].default == "absent"
    assert all(row.doc for row in rows.values())


def test_every_setting_of_the_package_is_described():
    from atomica.jobs.train.spec import settings

    rows = settings()
    assert len({row.key for row in rows if not row.key.startswith("head")}) > 30
    assert [row.key for row in rows if not row.doc] == []
