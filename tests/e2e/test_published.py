"""Trained models as folders to publish, and weights by name: of the package, and of a Hub on loopback."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import TINY, changed, environment, run
from hub import Hub
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import atomica
from atomica import publish, spec
from atomica.jobs.train.spec import read_spec
from atomica.model import named
from atomica.runner import main
from atomica.spec import Issues
from atomica.testing import small_model

EVALUATE = """\
[run]
name = "again"
job = "evaluate"
out = "{out}"
[data]
source = "{data}"
split = "test"
[model]
weights = "{weights}"
[device]
kind = "cpu"
threads = 1
"""


@pytest.fixture(scope="module")
def trained(write_run):
    """A run, and one of two seeds."""
    path, one = write_run(TINY, {"epochs = 3": "epochs = 1"})
    assert main([str(path)]) == 0
    path, two = write_run(TINY, {"epochs = 3": "epochs = 1\nseeds = 2"})
    done = run(path)
    assert done.returncode == 0, done.stderr
    return {"one": one, "two": two}


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    for name, out in trained.items():
        assert main(["--export", str(out), str(folder / name), "--licence", "CC-BY-4.0"]) == 0
    return folder


@pytest.fixture
def hub(tmp_path):
    server = Hub(tmp_path / "hub")
    yield server
    server.close()


def test_what_is_published_can_be_used_and_names_no_path(trained, published, tiny_set):
    one = published / "one"
    texts = [path for path in published.rglob("*") if path.is_file()]
    for path in texts:
        content = path.read_bytes()
        for place in (trained["one"].parent, tiny_set.parent, published, Path.home()):
            assert str(place).encode() not in content, path
    found = json.loads((one / "evaluation.json").read_text())["heads"]["binary"]
    _, front, card = (one / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    ends = found["intervals"]["auroc"]
    assert f"| auroc | {found['metrics']['auroc']:.4g} | {ends['low']:.3g} to {ends['high']:.3g} |" in card
    assert "| training data | shards |" in card
    assert (
        json.loads((one / "versions.json").read_text())["trained"]["torch"] == torch.__version__.split("+")[0]
    )
    source = spec.load(one / "spec.toml", [f"data.train={tiny_set}"])
    issues = Issues(source)
    assert read_spec(source, issues) is not None, issues.found
    model = atomica.load(one, "cpu")
    weights = load_file(trained["one"] / "checkpoints" / "best" / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_what_a_run_went_on_from_is_published_with_it(trained, write_run, tmp_path):
    """The specs of both trainings; losses on validation rows; for a partner alone, too, if it is to be."""
    text = changed(TINY, {"epochs = 3": "epochs = 1", "atom_hidden = 8": 'init = "INIT"'})
    for line in ("block_hidden = 8\n", "edge_size = 4\n", "layers = 1\n"):
        text = text.replace(line, "", 1)
    best = trained["one"] / "checkpoints" / "best"
    path, second = write_run(text.replace("INIT", str(best)), {})
    assert main([str(path)]) == 0
    folder = tmp_path / "published"
    publish.export(
        str(second),
        str(folder),
        "CC0-1.0",
        name="word",
        alone=True,
        bases={"loss": 9.5},
        more="## More\n\nSo.",
    )
    own, before = (spec.load(folder / name).tree for name in ("spec.toml", "spec-1.toml"))
    assert own["model"]["init"] == f"outputs/{before['run']['name']}/checkpoints/best"
    assert "init" not in before["model"]
    for file in folder.iterdir():
        assert str(second.parent).encode() not in file.read_bytes(), file
        assert str(trained["one"].parent).encode() not in file.read_bytes(), file
    found = json.loads((folder / "validation.json").read_text())
    epoch = next(
        line
        for line in map(json.loads, (second / "metrics.jsonl").read_text().splitlines())
        if line["event"] == "epoch"
    )
    assert found["epoch"] in (0, 1)
    if found["epoch"] == 1:
        assert found["metrics"]["loss"] == epoch["valid_loss"]
    assert found["metrics"]["loss_base"] == 9.5
    card = (folder / "README.md").read_text()
    assert "atomica-run --verify word " in card
    assert "## More\n\nSo." in card
    assert "hf://" not in card
    assert json.loads((folder / "model.json").read_text())["inputs"]["view"] is None
    assert json.loads((best / "model.json").read_text())["inputs"]["view"] is not None
    assert main(["--verify", str(folder)]) == 0
    # What is not found, such as that of weights that were averaged, is named.
    publish.export(str(second), str(tmp_path / "more"), "CC0-1.0", before=[str(folder)])
    texts = [
        (place / name).read_text()
        for place in (folder, tmp_path / "more")
        for name in ("spec-1.toml", "spec.toml")
    ]
    assert [(tmp_path / "more" / f"spec-{number}.toml").read_text() for number in (1, 2, 3)] == [
        *texts[:2],
        texts[0],
    ]
    assert texts[3] == texts[1]


def test_the_hubs_own_library_reads_the_card(published):
    hub_library = pytest.importorskip("huggingface_hub")
    card = hub_library.ModelCard.load(published / "two" / "README.md")
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "atomica")
    assert "2 trainings" in card.text


@pytest.mark.parametrize(("name", "models"), [("one", "one model"), ("two", "2 members")])
def test_it_says_here_what_it_said_there(published, name, models, tmp_path, capsys):
    folder = tmp_path / name
    shutil.copytree(published / name, folder)
    assert main(["--verify", str(folder)]) == 0
    assert f"{models}, " in capsys.readouterr().out
    place = folder if name == "one" else folder / "members" / "seed1"
    weights = load_file(place / "model.safetensors")
    key = next(key for key in weights if key.startswith("encoder.") and weights[key].numel() > 8)
    weights[key] = weights[key] * 1.001
    save_file(weights, place / "model.safetensors")
    assert main(["--verify", str(folder)]) == 2
    assert "damaged model" in capsys.readouterr().err
    (place / "checksums.json").unlink()
    assert main(["--verify", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "NOT the same" in said
    assert float(re.search(r"largest difference (\S+)", said)[1]) > 1e-5
    (folder / "reference.json").unlink()
    assert main(["--verify", str(folder)]) == 2
    assert "has no reference.json" in capsys.readouterr().err


def test_nothing_is_overwritten_and_nothing_half_done_is_published(trained, published, tmp_path, capsys):
    one = str(trained["one"])
    assert main(["--export", one, str(published / "one"), "--licence", "MIT"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert main(["--export", one, str(tmp_path / "x"), "--licence", "free for all"]) == 2
    assert "is no SPDX identifier" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--export", one, str(tmp_path / "x")])
    assert "--licence" in capsys.readouterr().err
    begun = tmp_path / "begun"
    shutil.copytree(one, begun)
    state = begun / "checkpoints" / "last" / "state.json"
    state.write_text(state.read_text().replace('"finished": true', '"finished": false'))
    assert main(["--export", str(begun), str(tmp_path / "x"), "--licence", "MIT"]) == 2
    assert "its training has not ended" in capsys.readouterr().err
    assert main(["--export", str(tmp_path), str(tmp_path / "x"), "--licence", "MIT"]) == 2
    assert "is no folder of a training" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_members_are_weights_of_every_job(published, tiny_set, tmp_path, capsys):
    """An ensemble evaluates as one, and one of its members is where a training starts."""
    path, out = tmp_path / "spec.toml", tmp_path / "out"
    path.write_text(EVALUATE.format(out=out, data=tiny_set, weights=published / "two"))
    assert main([str(path)]) == 0, capsys.readouterr().err
    assert len(json.loads((out / "job.json").read_text())["weights"]) == 2
    with pytest.raises(atomica.AtomicaError, match=r"did you mean .*members/seed0\?"):
        atomica.load(published / "two")


def test_weights_of_the_hub(published, trained, tiny_set, hub, tmp_path):
    """A job and a training name them; what they stood for is kept; later nothing is asked, nor fetched."""
    commit = hub.push("lab/two", published / "two")
    first = hub.push("lab/one", published / "one")
    path, out = tmp_path / "spec.toml", tmp_path / "out"
    path.write_text(EVALUATE.format(out=out, data=tiny_set, weights="hf://lab/two"))
    done = run(path, env=hub.env())
    assert done.returncode == 0, done.stderr
    fetched = {
        name.split(commit + "/")[-1] for method, name in hub.asked if method == "GET" and "/resolve/" in name
    }
    assert {Path(name).name for name in fetched} == {
        *("model.safetensors", "model.json", "checksums.json"),
        *("members.json", "reference.json", "reference.safetensors", "training_set.safetensors"),
    }
    resolved = spec.tomllib.loads((out / "spec.toml").read_text())
    assert resolved["model"]["weights"] == f"hf://lab/two@{commit}"
    sums = [
        json.loads((published / "two" / "members" / seed / "checksums.json").read_text())["model.safetensors"]
        for seed in ("seed0", "seed1")
    ]
    assert json.loads((out / "job.json").read_text())["weights"] == sums

    # the branch moves on: what is pinned stays, and is not even asked for
    hub.push("lab/two", published / "one")
    hub.asked.clear()
    done = run(out / "spec.toml", "--set", f"run.out={tmp_path / 'second'}", env=hub.env())
    assert done.returncode == 0, done.stderr
    assert hub.asked == []
    assert (tmp_path / "second" / "predictions.csv").read_text() == (out / "predictions.csv").read_text()
    done = run(path, "--resume", env=hub.env())
    assert done.returncode == 2
    assert f"model.weights: 'hf://lab/two@{commit}' then, 'hf://lab/two@" in done.stderr
    done = run("--verify", f"hf://lab/two@{commit}", env=hub.env(HF_HUB_OFFLINE="1"))
    assert done.returncode == 0, done.stderr
    assert "2 members, 12 values of 3 complexes" in done.stdout

    text = changed(TINY, {"epochs = 3": "epochs = 1", "atom_hidden = 8": 'init = "hf://lab/one"'})
    for line in ("block_hidden = 8\n", "edge_size = 4\n", "layers = 1\n"):
        text = text.replace(line, "", 1)
    tuned = tmp_path / "tuned"
    (tmp_path / "tune.toml").write_text(text.format(out=tuned, data=tiny_set))
    done = run(tmp_path / "tune.toml", env=hub.env())
    assert done.returncode == 0, done.stderr
    sha256 = json.loads((published / "one" / "checksums.json").read_text())["model.safetensors"]
    assert f"hf://lab/one@{first}, SHA-256 {sha256}" in (tuned / "log.txt").read_text()
    assert f'init = "hf://lab/one@{first}"' in (tuned / "spec.toml").read_text()


NAMES = """
import json, sys
import atomica
said = {}
for name in sys.argv[1:]:
    try:
        said[name] = sum(value.numel() for value in atomica.load(name, "cpu").parameters())
    except atomica.AtomicaError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


def ask(env, *names):
    done = subprocess.run(
        [sys.executable, "-c", NAMES, *names],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_released_weights_of_the_original_on_the_hub(hub, models, tmp_path):
    """As they were released: NAME_weights.pt with NAME_config.json beside it, several pairs in a repository."""
    with safe_open(models / "encoder_global.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        weights = {key[2:]: file.get_tensor(key) for key in file.keys() if key.startswith("w.")}  # noqa: SIM118
    for name in ("first", "second"):
        folder = tmp_path / "released" / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / f"{name}_config.json").write_text(json.dumps(config))
        torch.save(weights, folder / f"{name}_weights.pt")
    torch.save(weights, folder / "lone.pt")
    hub.push("lab/released", tmp_path / "released")
    place = "hf://lab/released/checkpoints"
    names = [
        f"{place}/first",
        f"{place}/second/second_weights.pt",
        f"{place}/second/lone.pt",
        f"{place}/second",
    ]
    first, second, lone, several = ask(hub.env(), *names).values()
    assert first == second == several
    assert first == sum(value.numel() for value in atomica.load(folder.parent / "first", "cpu").parameters())
    assert "its settings are not beside it as lone_config.json" in lone


def test_what_the_hub_does_not_have(hub, tmp_path):
    """Each answer says what is wrong; nothing pickled is fetched; offline, the cache is all there is."""
    good, nested, pickled, strange = (tmp_path / name for name in ("good", "nested", "pickled", "strange"))
    model = small_model()
    model.save(good)
    model.save(nested / "a" / "b")
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'echo no'\ntR.")
    (pickled / "model.pt").write_bytes(b"cos\nsystem\n(S'echo no'\ntR.")
    strange.mkdir()
    outside = {"members": {"seed0": {"state": "done", "weights": "../../../secret"}}}
    (strange / "members.json").write_text(json.dumps(outside))
    commits = {
        folder.name: hub.push(f"lab/{folder.name}", folder) for folder in (good, nested, pickled, strange)
    }
    hub.push("lab/closed", good)
    hub.gated.add("lab/closed")
    expected = {
        "hf://lab/good": None,
        "hf://lab/nested/a/b": None,
        f"hf://lab/nested@{commits['nested']}/a/b": None,
        "hf://lab/nested": "holds no model.safetensors with model.json.*there are: a/b/model.json",
        "hf://lab/nested/c": "has no such file or folder",
        "hf://lab/none": "no such repository, or it is private",
        "hf://lab/good@v2": "the repository has no revision 'v2'",
        "hf://lab/closed": "asks for permission: accept its terms",
        "hf://lab/pickled": "pytorch_model.bin: pickled files are not read",
        "hf://lab/pickled/pytorch_model.bin": "is not read: it is neither a folder with",
        "hf://lab/good/model.safetensors": "name the folder that holds it",
        "hf://lab/strange": "the weights of seed0 must lie in its folder",
        "hf://lab": "is no weights of the Hugging Face Hub; write hf://ORG/NAME",
        "hf://lab/good/../x": "is no weights of the Hugging Face Hub",
    }
    said = ask(hub.env(), *expected)
    count = sum(value.numel() for value in model.parameters())
    for name, why in expected.items():
        assert said[name] == count if why is None else re.search(why, said[name]), (name, said[name])
    assert not any(
        "pytorch_model" in path for _, path in hub.asked if "pickled/resolve" in path and "HEAD" in path
    )

    hub.asked.clear()
    offline = ask(hub.env(HF_HUB_OFFLINE="1"), "hf://lab/good", "hf://lab/none")
    assert offline["hf://lab/good"] == count
    assert "HF_HUB_OFFLINE is set, so that nothing is fetched" in offline["hf://lab/none"]
    assert hub.asked == []
    hub.close()
    gone = ask(hub.env(), "hf://lab/good", f"hf://lab/good@{commits['good']}")
    assert re.search(f"cannot be fetched.*HF_HUB_OFFLINE=1 .*{commits['good']}", gone["hf://lab/good"])
    assert gone[f"hf://lab/good@{commits['good']}"] == count


def test_the_hubs_library_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    named._library.cache_clear()
    with pytest.raises(atomica.AtomicaError, match=r"pip install 'atomica-dgl\[hub\]'"):
        atomica.load("hf://lab/name")


def test_weights_of_the_package(tmp_path, monkeypatch, tiny_set):
    """A word names a folder of atomica/weights from anywhere; `./word` is a folder here."""
    monkeypatch.setattr(named, "PACKAGE", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(atomica.AtomicaError, match="come with Atomica; there are: none in this version"):
        atomica.load("base")
    model = small_model()
    model.save(tmp_path / "weights" / "base")
    assert len(atomica.load("base", "cpu").state_dict()) == len(model.state_dict())
    with pytest.raises(atomica.AtomicaError, match=r"bas: no such file or folder.*there are: base"):
        atomica.load("bas")
    with pytest.raises(atomica.AtomicaError, match="base: no such file or folder"):
        atomica.load("./base")
    small_model(layers=1).save(tmp_path / "base")
    assert atomica.load("./base", "cpu").config.layers == 1
    out = tmp_path / "out"
    text = EVALUATE.replace('job = "evaluate"', 'job = "embed"')
    (tmp_path / "spec.toml").write_text(text.format(out=out, data=tiny_set, weights="base"))
    assert main(["spec.toml"]) == 0
    assert 'weights = "base"' in (out / "spec.toml").read_text()


def test_base_is_what_its_card_says(capsys):
    """Small, free, without a path of the machine that made it, better than knowing nothing, the same here as there."""
    assert "base" in named.packaged()
    folder = named.locate("base")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    for path in files:
        if path.suffix != ".safetensors":
            assert not re.search(r"(?<![\w:/.~)])(/[a-z]+){2}|~/", path.read_text()), path
    _, front, card = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc0-1.0"
    listed = json.loads((folder / "data.json").read_text())
    for kind in ("splits", "kinds"):
        assert sum(listed[kind].values()) == listed["interfaces"]
    sources = listed["sources"].values()
    assert sum(one["interfaces"] for one in sources) == listed["interfaces"]
    assert len({word for one in sources for word in one["pdb_ids"].split()}) == listed["entries"]
    assert f"{listed['interfaces']:,} interfaces" in card
    metrics = json.loads((folder / "validation.json").read_text())["metrics"]
    bases = {key: value for key, value in metrics.items() if key.endswith("_base")}
    assert len(bases) == 11
    for key, value in bases.items():
        found = metrics[key.removesuffix("_base")]
        assert found > value if re.search("accuracy|au(ro|pr)c", key) else found < value, key
    assert main(["--verify", "base"]) == 0
    assert "the same as where it was exported" in capsys.readouterr().out


def test_base_takes_whole_complexes_and_lone_partners():
    rows = atomica.open_dataset("demo://pockets")[:3]
    whole, alone = (
        atomica.embed(rows, "base", representation="z_graph", input=view).complex
        for view in ("complex", "segment0")
    )
    assert whole.shape == alone.shape
    assert (abs(whole - alone).max(axis=1) > 1e-3).all()


def test_the_doctor_says_what_works(capsys):
    assert main(["--doctor"]) in (0, 1)  # memory and disk are whatever they are
    said = capsys.readouterr().out
    for line in (
        r"python +3\.",
        r"packages +torch \S+, dgl 2\.1\.0",
        r"extension +loads, _prep",
        r"dgl +2\.1\.0, message passing works",
        r"kernel +rust on cpu: works, within \S+ of",
        r"kernel +torch on cpu: works",
        r"memory +\S+ GiB free",
        r"disk +\S+ GiB free in",
    ):
        assert re.search(rf"^{line}", said, flags=re.M), (line, said)


@pytest.mark.parametrize(
    ("break_it", "finding", "remedy"),
    [
        ("import sys; sys.modules['dgl'] = None", "dgl +FAILED: ImportError", "pip install dgl==2.1.0"),
        (
            "import atomica.nn.kernels.rust as k; f = k.forward; k.forward = lambda given: f(given).roll(1, 0)",
            "kernel +FAILED: ArithmeticError: rust on cpu: differs by",
            'use device.kernel = "torch"',
        ),
    ],
)
def test_the_doctor_finds_what_is_broken(break_it, finding, remedy):
    code = f"{break_it}\nfrom atomica.runner import main\nraise SystemExit(main(['--doctor']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert re.search(finding, done.stdout), done.stdout
    assert remedy in done.stdout.partition("wrong:")[2]
