"""The interaction score as redefined in 2026, read on the ligand's side, against what the original computes."""

import numpy as np
import pytest
import torch
from cases import Fixture
from safetensors import safe_open

from atomica.errors import DataError
from atomica.jobs.score import ligand_of, scored_blocks, scores
from atomica.testing import as_record


@pytest.fixture(scope="module")
def case(models):
    """The model, the complexes of the batch as records, and the numbers."""
    base = Fixture(models, "encoder_global")
    records = []
    for index in range(4):
        own = {name: value.numpy() for name, value in base.single(index).items()}
        del own["lengths"]
        records.append(as_record(**own))
    with safe_open(models / "score_encoder_global.safetensors", "pt") as file:
        numbers = {key: file.get_tensor(key).numpy() for key in file.keys()}  # noqa: SIM118 - not a mapping
    return base.model(), records, numbers


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("batch_blocks", [1, 2048])
def test_scores_of_the_ligand_side(case, index, batch_blocks, threads):
    torch.set_num_threads(1)
    model, records, numbers = case
    ligand = ligand_of(records[index])
    assert ligand == int(numbers[f"single.{index}.ligand_segment"])
    blocks, values = scores(model, records[index], ligand=ligand, batch_blocks=batch_blocks)
    assert blocks.tolist() == numbers[f"single.{index}.block_idx"].tolist()
    np.testing.assert_allclose(values, numbers[f"single.{index}.score"], atol=2e-6, rtol=0)


def test_two_proteins_have_no_ligand_side_of_themselves(case):
    record = case[1][3]
    with pytest.raises(DataError, match=r"both partners have amino acids; score\.ligand says which"):
        ligand_of(record)
    assert set(record.segment_ids[scored_blocks(record, 1)].tolist()) == {0}
