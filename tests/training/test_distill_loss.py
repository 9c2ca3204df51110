"""The loss of the distillation stage, against TRL's function and against what must hold for any divergence."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from cotkit.training import distill_loss
from cotkit.training.distill_loss import ChunkedLoss, Objective

KINDS = [Objective("forward"), Objective("reverse"), Objective("jsd", 0.5), Objective("jsd", 0.1)]
IDS = ["forward", "reverse", "jsd 0.5", "jsd 0.1"]


def scores(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chunked(objective: Objective, chunk: int) -> ChunkedLoss:
    loss = ChunkedLoss(objective, vocabulary=1)
    loss.chunk = chunk
    return loss


@pytest.fixture(scope="module")
def trl() -> Any:
    from trl import GKDTrainer

    return GKDTrainer.generalized_jsd_loss


@pytest.mark.slow  # TRL takes seconds to import
@pytest.mark.parametrize("objective", KINDS, ids=IDS)
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_the_divergence_is_that_of_trl(objective: Objective, temperature: float, trl: Any):
    """On rows of equal length, where TRL's is right. Its beta 0 is the forward direction and 1 the reverse one."""
    student, teacher = scores(4, 6, 50), scores(4, 6, 50, seed=1)
    beta = {"forward": 0, "reverse": 1}.get(objective.kl, objective.jsd_beta)
    expected = trl(student, teacher, torch.zeros(4, 6), beta, temperature)
    ours = Objective(objective.kl, objective.jsd_beta, temperature=temperature).divergence(student, teacher).mean()
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("objective", KINDS, ids=IDS)
def test_a_teacher_that_is_the_student_teaches_nothing(objective: Objective):
    hidden, head = scores(9, 8).requires_grad_(), torch.nn.Linear(8, 50)
    with torch.no_grad():
        teacher = head(hidden)
    loss, divergence = chunked(objective, 4)(hidden, head, torch.zeros(9, dtype=torch.long), lambda part: teacher[part])
    assert loss.item() == divergence.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert hidden.grad.abs().max() < 1e-6
    assert head.weight.grad.abs().max() < 1e-6


def test_a_teacher_that_is_certain_gives_cross_entropy():
    student, targets = scores(9, 50), torch.arange(9)
    certain = torch.full((9, 50), -1e4).index_put((torch.arange(9), targets), torch.tensor(0.0))
    assert Objective().divergence(student, certain).sum().item() == pytest.approx(
        cross_entropy(student, targets, reduction="sum").item(), rel=1e-6
    )


def test_entries_that_only_one_side_has_are_left_out_and_both_sides_are_renormalised():
    student, teacher = scores(9, 50), scores(9, 60, seed=1)
    shared = Objective("reverse", shared_ids=40).divergence(student, teacher)
    assert torch.equal(shared, Objective("reverse").divergence(student[:, :40], teacher[:, :40]))
    other = Objective("reverse", shared_ids=40).divergence(student.index_fill(1, torch.tensor([41]), 99.0), teacher)
    assert torch.equal(shared, other)


@pytest.mark.parametrize("objective", KINDS, ids=IDS)
def test_clipping_bounds_what_one_entry_adds(objective: Objective):
    student, teacher = scores(9, 50), scores(9, 50, seed=1)
    clipped = Objective(objective.kl, objective.jsd_beta, kl_clip=0.01)
    values = clipped.divergence(student, teacher)
    assert (values <= 50 * 0.01).all()
    assert (values < objective.divergence(student, teacher)).all()
    assert torch.equal(
        Objective(objective.kl, objective.jsd_beta, kl_clip=1e9).divergence(student, teacher),
        objective.divergence(student, teacher),
    )


@pytest.mark.parametrize("chunk", [1, 2, 5, 11, 64])
@pytest.mark.parametrize("kd_weight", [1.0, 0.3, 0.0])
def test_chunks_change_neither_loss_nor_gradients(chunk: int, kd_weight: float):
    """Against the same formula on all tokens at once, differentiated by torch: states and head are both trained."""
    objective = Objective("jsd", 0.3, kl_clip=0.5, kd_weight=kd_weight)
    head, targets, teacher = torch.nn.Linear(8, 50), torch.arange(11), scores(11, 50, seed=1)
    hidden = scores(11, 8, seed=2).requires_grad_()
    states = hidden * 1.0  # the loss is one step of a longer graph
    plain = kd_weight * objective.divergence(head(states), teacher).sum()
    plain = plain + (1 - kd_weight) * cross_entropy(head(states), targets, reduction="sum")
    inputs = [hidden, head.weight, head.bias]
    expected = torch.autograd.grad(plain / 7, inputs)
    loss, _ = chunked(objective, chunk)(hidden * 1.0, head, targets, lambda part: teacher[part])
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for ours, theirs in zip(torch.autograd.grad(loss / 7, inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_frozen_head_and_no_token_at_all_are_fine():
    head = torch.nn.Linear(8, 50).requires_grad_(False)
    hidden = scores(0, 8).requires_grad_()
    loss, _ = chunked(Objective(), 4)(hidden, head, torch.zeros(0, dtype=torch.long), lambda part: scores(0, 50))
    loss.backward()
    assert loss.item() == 0


def test_without_a_teacher_and_without_gradients_it_is_cross_entropy():
    hidden, head, targets = scores(9, 8), torch.nn.Linear(8, 50), torch.arange(9)
    with torch.no_grad():
        loss, divergence = chunked(Objective(kd_weight=1.0), 4)(hidden, head, targets, None)
    assert loss.item() == pytest.approx(cross_entropy(head(hidden), targets, reduction="sum").item(), rel=1e-6)
    assert divergence.item() == 0


def test_out_of_memory_halves_the_chunk_until_it_fits(caplog: pytest.LogCaptureFixture):
    head, targets, teacher = torch.nn.Linear(8, 50), torch.arange(11), scores(11, 50, seed=1)
    hidden = scores(11, 8, seed=2).requires_grad_()

    def small_memory(part: slice) -> torch.Tensor:
        if part.stop - part.start > 3:
            raise torch.OutOfMemoryError("no room")
        return teacher[part]

    loss = chunked(Objective(), 16)
    value, _ = loss(hidden, head, targets, small_memory)
    assert loss.chunk == 2
    assert re.findall(r"for (\d+) tokens", caplog.text) == ["8", "4", "2"]
    assert value.item() == pytest.approx(Objective().divergence(head(hidden), teacher).sum().item(), rel=1e-6)

    def no_memory(part: slice) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        loss(hidden, head, targets, no_memory)


def test_the_chunk_of_a_large_vocabulary_is_small():
    assert ChunkedLoss(Objective(), 151_936).chunk == distill_loss.CHUNK_ENTRIES // 151_936 > 100
