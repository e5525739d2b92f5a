"""Our objects in other processes: forked after the thread pool was used, spawned, pickled, trained by others."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import environment, run_script
from torch.utils.data import DataLoader, Dataset

import atomica
from atomica.data import graph, noise

METHODS = ("fork", "spawn", "forkserver")
NOISE = noise.NoiseConfig(rotation_sigma=0.5, translation_sigma=1.0, torsion_sigma=0.5)


def small():
    torch.manual_seed(3)
    config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1, k_neighbors=12)
    return atomica.Model(config).eval()  # more neighbours than are stored


def everything(model, data, folder):
    """What needs threads of ours: nearest neighbours, a convolution, noise, a build; as plain numbers."""
    with torch.no_grad():
        encoded = model.encode(data.graphs(range(3), k_neighbors=model.config.k_neighbors)).graph
    made, _ = graph.perturbed(data[:2], NOISE, noise.seeds(0, 0, np.arange(2)))
    code = atomica._prep.run(["build-graphs", str(data.folder.parent / "index.csv"), "--out", str(folder)])
    found = atomica.embed(data, model)
    return encoded.sum().item(), made.nodes["atom"].data["x"].sum().item(), code, float(found.complex.sum())


class Perturbed(Dataset):
    """Perturbed complexes, made in the workers."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return 6

    def __getitem__(self, row):
        made, _ = graph.perturbed(self.data[row : row + 2], NOISE, noise.seeds(0, 0, np.arange(2)))
        return made


def _work(queue, model, data, folder):
    queue.put(everything(model, data, folder))


def in_process(method, *arguments, seconds=200):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_work, args=(queue, *arguments))
    process.start()
    try:
        return queue.get(timeout=seconds)
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_other_processes_do_all_the_work(tiny_set, tmp_path, method, threads):
    """A forked process waited for ever for threads that only its parent has."""
    data, model = atomica.open_dataset(tiny_set), small()
    torch.set_num_threads(threads)
    here = everything(model, data, tmp_path / "here")
    assert in_process(method, model, data, tmp_path / "there") == pytest.approx(here, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_workers_of_a_loader_perturb_and_read(tiny_set, method):
    data = atomica.open_dataset(tiny_set)
    here = [made.nodes["atom"].data["x"] for made in map(Perturbed(data).__getitem__, range(6))]
    options = {"batch_size": None, "num_workers": 2, "multiprocessing_context": method, "timeout": 200}
    for made, x in zip(DataLoader(Perturbed(data), **options), here, strict=True):
        assert torch.equal(made.nodes["atom"].data["x"], x)
    records = next(iter(DataLoader(data, **{**options, "batch_size": 4, "collate_fn": list})))
    assert [record.id for record in records] == data.ids[:4]


def _of_job(data, row):
    return data[row].id, data.graphs([row]).num_nodes("atom")


def test_joblib_and_pools(tiny_set):
    joblib = pytest.importorskip("joblib")
    data = atomica.open_dataset(tiny_set)
    here = [_of_job(data, row) for row in range(4)]
    work = (joblib.delayed(_of_job)(data, row) for row in range(4))
    assert joblib.Parallel(n_jobs=2)(work) == here
    for method in METHODS:
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.starmap_async(_of_job, [(data, row) for row in range(4)]).get(200) == here


# ------------------------------------------------------------------------------------------------ pickles and copies


def again(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


def test_what_is_pickled_or_copied_is_the_same(tiny_set):
    data, model = atomica.open_dataset(tiny_set), small()
    both = atomica.data.dataset.Mixture([data, data])
    data.column("label")  # fills what it keeps
    for make in (again, copy.deepcopy, copy.copy):
        assert make(data).fingerprint == data.fingerprint
        assert make(data)[7].id == data[7].id
        assert make(both).ids == both.ids
        record = make(data[7])
        assert list(record.atom_names) == list(data[7].atom_names)
        assert np.array_equal(record.positions, data[7].positions)
        assert record.origin == data.origin
        with torch.no_grad():
            right = model.encode(data.graphs([7])).graph
            assert torch.equal(make(model).encode(make(data.graphs([7]))).graph, right)


def test_a_pickled_record_costs_its_own_size(tiny_set):
    """Arrow would write the texts of the whole shard."""
    for record in (
        atomica.open_dataset(tiny_set)[3],
        atomica.open_dataset("demo://pockets")[3].view("segment0"),
    ):
        values = [getattr(record, name) for name in record.__dataclass_fields__]
        numbers = sum(getattr(value, "nbytes", 0) for value in values)
        texts = sum(
            len(text) + 8
            for value in values
            if isinstance(value, atomica.data.record.Texts)
            for text in value
        )
        assert len(pickle.dumps(record)) < numbers + texts + 8000


def test_dgl_can_be_imported_after_the_package(tmp_path):
    code = "import atomica, dgl, os, sys; print('torch' in sys.modules, os.path.exists(os.path.expanduser('~/.dgl')))"
    env = environment(HOME=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.split() == ["True", "False"], done.stderr


# ---------------------------------------------------------------------------------------------------- other trainers

COMMON = """\
import sys, torch, atomica, torch.distributed as dist
from atomica.heads.regression import RegressionConfig, RegressionHead
torch.set_num_threads(1)
data = atomica.open_dataset("demo://pockets")
torch.manual_seed(0)
config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1)
model = atomica.Model(config, {"regression": RegressionHead(RegressionConfig(), config)})
"""

BY_HAND = (
    COMMON
    + """\
import os
def train():
    rank = dist.get_rank()
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), 1e-2)
    for step in range(3):
        loss = ddp(data.graphs([2 * step + rank]))["regression"].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    whole = torch.cat([weight.flatten() for weight in model.parameters()])
    every = [torch.empty_like(whole) for _ in range(2)]
    dist.all_gather(every, whole.detach())
    if rank == 0:
        print("same", torch.equal(*every), whole.detach().abs().sum().item())
dist.init_process_group("gloo")
train()  # what is wrapped is let go of here, and with it the group
dist.destroy_process_group()
names = [open(f"/proc/self/task/{thread}/comm").read() for thread in os.listdir("/proc/self/task")]
assert not any("gloo" in name for name in names), names
"""
)


def test_ddp_by_hand_trains(tmp_path):
    """The second step ended with "Expected to have finished reduction": not all weights take part in a loss."""
    done = run_script(BY_HAND, tmp_path)
    assert done.returncode == 0, done.stderr
    word, equal, total = done.stdout.split()
    assert (word, equal) == ("same", "True")
    alone = _steps_alone()
    assert float(total) == pytest.approx(alone, rel=1e-5)


def _steps_alone():
    """The sum of all weights' sizes after the same steps in one process."""
    scope: dict = {}
    exec(COMMON, scope)
    model, data = scope["model"], scope["data"]
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    for step in range(3):
        loss = model(data.graphs([2 * step, 2 * step + 1]))["regression"].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in model.parameters()]).abs().sum().item()


def test_weights_that_a_loss_does_not_reach_have_no_gradient():
    """Also in `forward`, so that an optimiser leaves them alone as before."""
    model = small()
    graphs = atomica.open_dataset("demo://pockets").graphs([0])
    scope: dict = {}
    exec(COMMON, scope)
    model = scope["model"]
    model(graphs)["regression"].sum().backward()
    one = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    model.outputs(graphs)["regression"].sum().backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is None) == (one[name] is None), name
        assert weight.grad is None or torch.equal(weight.grad, one[name]), name
    assert any(grad is None for grad in one.values())


LIGHTNING = (
    COMMON
    + """\
import lightning, warnings
from torch.utils.data import DataLoader
warnings.filterwarnings("ignore")

class Task(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = model

    def training_step(self, graph, index):
        return self.model(graph)["regression"].square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-2)

def join(records):
    return atomica.graph.batch(records)

loader = DataLoader(data[:8], batch_size=2, collate_fn=join)
trainer = lightning.Trainer(
    accelerator="cpu", devices=2, strategy=sys.argv[1], max_steps=3, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, default_root_dir=sys.argv[2],
)
trainer.fit(Task(), loader)
print("steps", trainer.global_step)
"""
)

ACCELERATE = (
    COMMON
    + """\
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
def train():
    ddp, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 1e-2))
    for step in range(3):
        loss = ddp(data.graphs([2 * step + accelerator.process_index]))["regression"].square().mean()
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
train()
print("steps", accelerator.num_processes)
accelerator.free_memory()  # what is wrapped is let go of, and with it the group, as by hand
accelerator.end_training()
"""
)


def test_lightning_trains_in_two_processes(tmp_path):
    pytest.importorskip("lightning")
    (tmp_path / "fit.py").write_text(LIGHTNING)
    words = [sys.executable, str(tmp_path / "fit.py"), "ddp", str(tmp_path)]
    done = subprocess.run(
        words, env=environment(), capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "steps 3" in done.stdout


def test_accelerate_trains_in_two_processes(tmp_path):
    pytest.importorskip("accelerate")
    done = run_script(ACCELERATE, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    # two processes write at once, and one may come between another's words
    assert (done.stdout.count("steps"), done.stdout.count("2")) == (2, 2)
