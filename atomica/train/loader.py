"""A split of the data, ready to be trained on: its rows with targets, their batches, the noise they get."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atomica import keys
from atomica.data import graph as graphs
from atomica.data import noise
from atomica.data.features import BlockFeatures
from atomica.data.inputs import GraphInputs
from atomica.data.labels import BlockTargets, ComplexVectors, known_of
from atomica.data.noise import NoiseConfig
from atomica.data.record import Record
from atomica.data.sampling import (
    Rows,
    Sampling,
    epoch_order,
    occurrences,
    plan_batches,
    prefetch,
    within_memory,
)
from atomica.data.transfer import moved
from atomica.model.model import Model
from atomica.train.sums import Sums, count_batch

__all__ = ["FIXED", "Batch", "Draws", "Split"]


FIXED = 2**32 - 1
"""The epoch that noise of validation and test complexes is drawn for, so that it does not change between epochs."""

BLOCKS = 1
"""Tells the random numbers that leave out blocks from those of noise."""


Draws = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """What one step needs: the tensors of the graphs, the targets of each head, and the ids for messages.

    graph, targets: on the model's device. known: for each head with labels, a bool [G] that is False where a complex
    has none for it; rows: the same for losses, see `Model.labelled`. counts: of its losses, see `Model.counts`.
    unperturbed: number of complexes that were to be perturbed, but have no segment that could be; None without such
    noise. on_blocks: heads with labels of blocks.
    """

    ids: tuple[str, ...]
    blocks: int
    graph: GraphInputs
    targets: Mapping[str, Any]
    known: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    counts: Mapping[str, Mapping[str, float]]
    unperturbed: int | None = None
    on_blocks: Collection[str] = ()

    @property
    def labelled(self) -> dict[str, float]:
        """For each head with labels, of how many complexes, or blocks, its loss is the mean."""
        complexes = {name: int(known.sum()) for name, known in self.known.items()}
        return {**complexes, **{name: self.counts[name][""] for name in self.on_blocks}}


@dataclass(frozen=True)
class Split:
    """Rows of one split of the data with their targets, ready to be batched.

    targets: head name → tensor whose first dimension follows `rows`, for heads that learn from labels; known:
    the same heads → bool [N]. seed: of order and noise. sampling, epoch_complexes: how a training epoch is
    drawn. clusters [N]: the cluster of relatives of each, if known. noise: what is done to the complexes, if anything;
    max_blocks: what larger ones are cropped to. features: external features of blocks, for a model that reads them;
    vectors: of complexes, for heads that do. block_targets: labels of blocks, by head. keep_blocks, keep_whole: how
    blocks of complexes are left out at random.
    """

    rows: Rows
    targets: Mapping[str, Tensor]
    known: Mapping[str, Tensor]
    input: str
    graph_options: Mapping[str, Any]
    batch_blocks: int
    seed: int = 0
    loader_threads: int = 0
    sampling: Sampling | None = None
    clusters: Sequence[str] | None = None
    epoch_complexes: int = 0
    noise: NoiseConfig | None = None
    max_blocks: int | None = None
    features: BlockFeatures | None = None
    vectors: ComplexVectors | None = None
    block_targets: Mapping[str, BlockTargets] = field(default_factory=dict)
    keep_blocks: float = 1.0
    keep_whole: float = 0.0

    @property
    def weights(self) -> Tensor | None:
        """How often each complex comes in an epoch, up to a factor [N]; None: all alike."""
        return None if self.sampling is None else torch.from_numpy(self.sampling.weights)

    def truth(self, head: str) -> tuple[Tensor, Tensor]:
        """Targets of a head with labels, and where they are known: of complexes [N], or of all their blocks [B]."""
        if head in self.block_targets:
            values = self.block_targets[head].values
            return values, known_of(values)
        return self.targets[head], self.known[head]

    def known_targets(self) -> dict[str, Tensor]:
        """The targets that are known, by head."""
        each = {name: self.truth(name) for name in (*self.targets, *self.block_targets)}
        return {name: target[known] for name, (target, known) in each.items()}

    def plan(self, positions: Draws | None = None) -> list[Draws]:
        """Batches that hold every row, or some, once and in order."""
        order = np.arange(len(self.rows)) if positions is None else positions
        return plan_batches(order, self.rows.blocks, self.batch_blocks)

    def epoch_plan(self, epoch: int) -> list[Draws]:
        """Batches of one training epoch, as draws: position in `rows` + number of rows × how often it came before."""
        order = epoch_order(
            len(self.rows), seed=self.seed, epoch=epoch, sampling=self.sampling, length=self.epoch_complexes
        )
        plan = plan_batches(order, self.rows.blocks, self.batch_blocks)
        draws = order + len(self.rows) * occurrences(order)
        return np.split(draws, np.cumsum([len(batch) for batch in plan])[:-1])

    def blocks_each(self, draws: Draws) -> Draws:
        """Blocks that the model sees of each complex of a batch."""
        return self.rows.blocks[draws % len(self.rows)]

    def blocks_of(self, draws: Draws) -> int:
        """Blocks that the model sees in a batch."""
        return int(self.blocks_each(draws).sum())

    def ids_of(self, draws: Draws) -> list[str]:
        """Names of the complexes of a batch."""
        ids = self.rows.dataset.ids
        return [ids[row] for row in self.rows.rows[draws % len(self.rows)]]

    def add(self, sums: Sums, draws: Draws, terms: Mapping[str, float], unperturbed: int | None) -> None:
        """Count the loss terms of a batch that may have been shared between ranks."""
        index = torch.from_numpy(draws % len(self.rows))
        labelled: dict[str, float] = {name: int(known[index].sum()) for name, known in self.known.items()}
        for name, labels in self.block_targets.items():  # blocks that were left out are counted, too
            own = labels.values[torch.from_numpy(labels.rows(index.numpy()))]
            labelled[name] = int(known_of(own).sum())
        count_batch(sums, len(draws), labelled, unperturbed, terms)

    def load(self, draws: Draws, model: Model, epoch: int = FIXED) -> Batch:
        """Read and join the complexes of one batch, perturb them, and move them to the model's device.

        A step finds all in it that must be known of the data, such as the order of edges, and need not ask the device.
        epoch: what the noise depends on beside the seed and the complex.
        """
        positions, times = draws % len(self.rows), draws // len(self.rows)
        dataset, rows = self.rows.dataset, self.rows.rows[positions]
        index = torch.from_numpy(positions)
        targets: dict[str, Any] = {name: target[index] for name, target in self.targets.items()}
        unperturbed = None
        records = [dataset[row] for row in rows]
        seen = [record.view(self.input) for record in records]
        kept = np.arange(sum(len(record.block_types) for record in seen))
        if self.keep_blocks < 1:
            seen, kept = self._sampled(seen, noise.seeds(self.seed, epoch, rows + times * len(dataset)))
        made = None
        if self.noise is None and self.max_blocks is None:
            graph = graphs.batch(seen, **self.graph_options)
        else:
            seeds = noise.seeds(self.seed, epoch, rows + times * len(dataset))
            graph, made = graphs.perturbed(
                seen,
                self.noise or noise.NoiseConfig(),
                seeds,
                max_blocks=self.max_blocks,
                **self.graph_options,
            )
            if made.perturbation is not None:
                unperturbed = int(made.unperturbed.sum())
            found = {
                "perturbation": made.perturbation,
                "masks": made.mask_labels,
                "absent": made.absent,
                "touching": made.touching,
            }
            for name in model.heads:
                source = model.head(name).targets
                if source in found:
                    targets[name] = found[source]
        if self.features is not None:
            frames = model.config.embeddings.frames
            for name, values in zip(frames, self.features.rows(records, self.input), strict=True):
                values = values[kept if made is None else kept[made.kept_blocks]]
                if made is not None:
                    values[made.masked] = 0.0  # they would tell what is hidden
                graph.nodes[keys.BLOCK].data[name] = torch.from_numpy(values)
        kept = kept if made is None else kept[made.kept_blocks]
        for name, labels in self.block_targets.items():
            targets[name] = labels.values[torch.from_numpy(labels.rows(positions)[kept])]
        if self.vectors is not None:
            each = graph.batch_num_nodes(keys.BLOCK)
            own = torch.from_numpy(self.vectors.rows([record.id for record in records]))
            graph.nodes[keys.BLOCK].data["vector"] = own.repeat_interleave(each, dim=0)
        known = {name: known[index] for name, known in self.known.items()}
        prepared = model.prepare(graph, targets).planned()
        device = next(model.parameters()).device
        return Batch(
            ids=tuple(record.id for record in records),
            blocks=self.blocks_of(draws),
            graph=prepared.to(device),
            targets=moved(targets, device),
            known=known,
            rows=model.labelled(known),
            counts=model.counts(prepared, targets, known),
            unperturbed=unperturbed,
            on_blocks=tuple(self.block_targets),
        )

    def _sampled(
        self, seen: Sequence[Record], seeds: npt.NDArray[np.uint64]
    ) -> tuple[list[Record], npt.NDArray[np.int64]]:
        """Complexes with some of their blocks, and which these are of all, counted over all complexes."""
        found, kept, first = [], [], 0
        for record, seed in zip(seen, seeds.tolist(), strict=True):
            generator = np.random.default_rng([seed, BLOCKS])
            share = 1.0 if generator.random() < self.keep_whole else self.keep_blocks
            one, own = (
                (record, np.ones(len(record.block_types), bool))
                if share == 1
                else record.sampled(share, generator)
            )
            found.append(one)
            kept.append(first + np.flatnonzero(own))
            first += len(own)
        return found, np.concatenate(kept)

    def batches(
        self, jobs: Iterable[tuple[Sequence[Draws], int]], model: Model
    ) -> Generator[list[Batch], None, None]:
        """What `load` makes of shares of batches with their epoch, the next ones prepared by other threads."""
        return prefetch(
            jobs,
            lambda job: [self.load(draws, model, job[1]) for draws in job[0]],
            threads=self.loader_threads,
        )

    def each(
        self, plan: Sequence[Draws], model: Model, work: Callable[[Draws, Batch], T]
    ) -> Generator[list[T], None, None]:
        """What `work` makes of each batch of a plan: one result, or where memory runs out those of its parts."""
        with closing(self.batches((([draws], FIXED) for draws in plan), model)) as batches:
            for draws, loaded in zip(plan, batches, strict=True):

                def part(rows: Draws, loaded: list[Batch] = loaded) -> T:
                    return work(rows, loaded.pop() if loaded else self.load(rows, model))

                yield [found for _, found in within_memory(draws, part)]
