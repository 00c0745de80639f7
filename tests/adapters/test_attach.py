"""What is adapted, how it starts, and that trials of a group know nothing of each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_bases import adapted, fill_randomly, load, logits, lora, saved, token_ids
from torch import Tensor
from transformers import GPTJConfig

from summarizer.adapters.attach import AdaptedModel, attach, describe, roles
from summarizer.adapters.lora import LoRA
from summarizer.data.batches import Batch
from summarizer.errors import ConfigError
from summarizer.models.blocks import recompute_blocks
from summarizer.models.meta_model import build_meta_model
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear, FrozenWeight


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("gptj", tmp_path_factory.mktemp("gptj"))


# ---- what is adapted --------------------------------------------------------------------------------------


def test_gptj_6b_has_the_known_number_of_trainable_parameters() -> None:
    """4,346,752 at dim 2 (MEASURED.md); on the meta device, where its weights take no memory."""
    meta = build_meta_model(GPTJConfig(), "int8")
    for weight in meta.weights.values():
        rows = weight.shape[0]
        weight.load(
            {
                "q": torch.empty(weight.shape, dtype=torch.int8, device="meta"),
                "scale": torch.empty(rows, 1, device="meta"),
            }
        )
    model = attach(meta.model, [lora(2)], [0])
    assert sum(parameter.numel() for parameter in model.parameters_of(0).values()) == 4_346_752
    text = describe(model, 0)
    assert "4,346,752 trainable parameters" in text
    assert text.startswith("adapted: 170 layers (wte, 28 k_proj, 28 v_proj, 28 q_proj, 28 out_proj, 28 fc_in")
    assert "0.07 % of the base's 6,050,882,784" in text


@pytest.mark.parametrize(
    ("targets", "exclude", "count"),
    [
        (["linear", "head", "embedding"], [], 14),
        (["linear"], [], 12),
        (["head"], [], 1),
        (["embedding"], [], 1),
        (["linear", "head"], ["*.mlp.*"], 9),
        (["linear"], ["transformer.h.0.*"], 6),
        (["linear"], ["transformer.h.0.attn.q_proj"], 11),
    ],
)
def test_targets_and_exclusions(targets: list[str], exclude: list[str], count: int, folder: Path) -> None:
    model = adapted(folder, [lora(2, targets=targets, exclude=exclude)])
    assert len(model.layers) == count
    assert sum(role in targets for role in roles(load(folder).model).values()) >= count
    fill_randomly(model, 0)
    assert not torch.equal(logits(model.model), logits(load(folder).model))


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"exclude": ["*.attention.*"]}, "adapter.exclude", "matches no layer"),
        ({"exclude": ["lm_heed"]}, "adapter.exclude", "did you mean 'lm_head'"),
        ({"exclude": ["*"]}, "adapter.targets", "no layer is left"),
    ],
)
def test_targets_that_match_nothing_are_refused(
    options: dict[str, list[str]], key: str, message: str, folder: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        adapted(folder, [lora(2, **options)])
    assert caught.value.issues[0].key == key


def test_a_role_that_the_model_cannot_offer_is_left_out(tmp_path: Path) -> None:
    model = load(saved("gemma3", tmp_path)).model
    model.not_adapted = {"model.embed_tokens": "its weight is read by itself"}
    with pytest.raises(ConfigError, match=r"no layer is left to adapt \(this model has: head, linear\)"):
        attach(model, [lora(targets=["embedding"])], [0])
    assert len(attach(model, [lora()], [0]).layers) == 15


def test_code_that_reads_an_adapted_layer_s_weight_is_refused(tmp_path: Path) -> None:
    """What it computes would be without the adapter; its type and place may be asked."""
    layer = adapted(saved("gpt2", tmp_path), [lora()]).layers["lm_head"]
    x = torch.ones(2, 32).to(layer.weight.device, layer.weight.dtype)
    assert layer.weight.shape == (96, 32)
    for read in (lambda: x @ layer.weight.T, lambda: torch.nn.functional.linear(x, layer.weight)):
        with pytest.raises(ConfigError, match="past the adapter; exclude"):
            read()


# ---- how it starts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gptj", "llama_tied", "gpt2", "opt"])
def test_a_fresh_adapter_changes_nothing(kind: str, tmp_path: Path) -> None:
    model = adapted(saved(kind, tmp_path), [lora(3, alpha=7.0)])
    assert torch.equal(logits(model.model), logits(load(tmp_path).model))


def distance(sample: Tensor, cumulative: Callable[[Tensor], Tensor]) -> float:
    """Kolmogorov-Smirnov's D times the root of n: above 1.95 once in a thousand samples."""
    ordered = sample.flatten().sort().values
    expected, n = cumulative(ordered), sample.numel()
    steps = torch.arange(n + 1) / n
    worst = torch.maximum((steps[1:] - expected).max(), (expected - steps[:-1]).max())
    return float(worst) * n**0.5


def test_draws_are_those_of_nn_linear_and_nn_embedding() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = lora(8).draw_linear(FrozenLinear(FrozenWeight("none", (30, 400)), bias=False), generator)
    embedding = lora(8).draw_embedding(FrozenEmbedding(FrozenWeight("none", (400, 30))), generator)
    bound = 400**-0.5

    def uniform(x: Tensor) -> Tensor:
        return (x + bound) / (2 * bound)

    torch.manual_seed(0)
    for own, theirs, cumulative in (
        (linear["a"], torch.nn.Linear(400, 8).weight, uniform),
        (embedding["a"], torch.nn.Embedding(400, 8).weight, torch.distributions.Normal(0, 1).cdf),
    ):
        assert own.shape == (8, 400)
        assert distance(own, cumulative) < 1.95
        assert distance(theirs.detach(), cumulative) < 1.95
    assert distance(linear["a"] * 1.1, uniform) > 1.95  # the measure would see a wrong bound
    assert linear["b"].shape == embedding["b"].shape == (8, 30)
    assert linear["b"].count_nonzero() == embedding["b"].count_nonzero() == 0


def test_the_seed_alone_decides_the_draw(folder: Path) -> None:
    torch.manual_seed(1)
    first = adapted(folder, [lora(2)], [7]).parameters_of(0)
    torch.manual_seed(2)
    second = adapted(folder, [lora(4), lora(2)], [1, 7]).parameters_of(1)
    other = adapted(folder, [lora(2)], [8]).parameters_of(0)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith(".a"))


def test_scale_is_alpha_over_dim(folder: Path) -> None:
    assert (lora(4).scale, lora(4, alpha=8.0).scale) == (1.0, 2.0)
    doubled, plain = adapted(folder, [lora(4, alpha=8.0)]), adapted(folder, [lora(4)])
    for model in (doubled, plain):
        fill_randomly(model, 0)
    with torch.no_grad():
        for name, parameter in plain.parameters_of(0).items():
            if name.endswith(".b"):
                parameter.mul_(2)
    torch.testing.assert_close(logits(doubled.model), logits(plain.model), rtol=1e-5, atol=1e-5)


# ---- trials of a group ------------------------------------------------------------------------------------

ADAPTERS = [
    lora(2),
    lora(5, alpha=10.0),
    lora(1, targets=["linear"]),
    lora(3, exclude=["*.mlp.*", "transformer.wte"]),
]
SEEDS = [3, 4, 5, 3]


def batch_of(trial: int) -> Tensor:
    return torch.randint(1, 96, (2, 9), generator=torch.Generator().manual_seed(100 + trial))


def loss_of(logits: Tensor, ids: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="sum")


def group_of_four(folder: Path) -> AdaptedModel:
    model = adapted(folder, ADAPTERS, SEEDS)
    for trial in range(4):
        fill_randomly(model, trial, seed=trial)
    return model


def test_each_trial_computes_what_it_computes_alone(folder: Path) -> None:
    group = group_of_four(folder)
    together = group.model.logits(torch.cat([batch_of(trial) for trial in range(4)]))
    sum(loss_of(together[2 * trial : 2 * trial + 2], batch_of(trial)) for trial in range(4)).backward()  # type: ignore[union-attr]
    for trial in range(4):
        alone = adapted(folder, [ADAPTERS[trial]], [SEEDS[trial]])
        fill_randomly(alone, 0, seed=trial)
        scores = alone.model.logits(batch_of(trial))
        loss_of(scores, batch_of(trial)).backward()
        torch.testing.assert_close(together[2 * trial : 2 * trial + 2], scores, rtol=1e-4, atol=1e-5)
        own, expected = group.parameters_of(trial), alone.parameters_of(0)
        assert own.keys() == expected.keys()
        for name in own:
            assert expected[name].grad is not None
            assert expected[name].grad.count_nonzero() > 0, name
            torch.testing.assert_close(own[name].grad, expected[name].grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamw", "adam8bit"])
def test_padding_and_absent_shares_stay_zero(optimizer: str, folder: Path) -> None:
    import bitsandbytes

    kinds = {
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
        "adamw": torch.optim.AdamW,
        "adam8bit": bitsandbytes.optim.Adam8bit,
    }
    model = group_of_four(folder)
    before = {name: value.clone() for name, value in model.parameters_of(1).items()}
    optimizers = [kinds[optimizer](list(model.parameters_of(trial).values()), lr=0.01) for trial in range(4)]
    for _ in range(3):
        ids = torch.cat([batch_of(trial) for trial in range(4)])
        loss_of(model.model.logits(ids), ids).backward()
        for own in optimizers:
            own.step()
        model.zero_grad()
    padded = 0
    for layer in model.layers.values():
        (stack_of_four,) = layer.stacks
        for name, stack in stack_of_four.tensors.items():
            assert stack.grad is not None
            assert stack.grad.count_nonzero() == 0
            for trial in range(4):
                dim = layer.trials[trial][name].shape[0] if layer.trials[trial] else 0
                assert stack[trial, dim:].count_nonzero() == 0
                padded += stack[trial, dim:].numel()
                if layer.trials[trial]:
                    assert torch.equal(stack[trial, :dim], layer.trials[trial][name])
    assert padded > 0
    assert all(not torch.equal(value, before[name]) for name, value in model.parameters_of(1).items())


def test_the_base_alone_is_the_base(folder: Path) -> None:
    model = group_of_four(folder)
    with model.base_alone():
        assert torch.equal(logits(model.model, token_ids(3)), logits(load(folder).model, token_ids(3)))
    assert not torch.equal(logits(model.model, token_ids(4)), logits(load(folder).model, token_ids(4)))


def test_nothing_but_the_stacks_is_trainable(folder: Path) -> None:
    model = group_of_four(folder)
    trainable = {id(parameter) for parameter in model.model.parameters() if parameter.requires_grad}
    assert trainable == {id(stack) for stack in model.stacks()}


def test_trials_of_several_kinds_know_nothing_of_each_other(folder: Path) -> None:
    class Other(LoRA):
        """Another kind, as far as the model can tell: its trials are computed apart."""

    adapters = [lora(2), Other(**lora(3).model_dump()), lora(4)]
    model, ids = adapted(folder, adapters), torch.cat([token_ids(2)] * 3)
    for trial in range(3):
        fill_randomly(model, trial, seed=trial)
    together = logits(model.model, ids).chunk(3)
    with model.only([2, 1]):
        other_order = logits(model.model, ids[: 2 * 2]).chunk(2)
    for trial, adapter in enumerate(adapters):
        alone = adapted(folder, [adapter])
        fill_randomly(alone, 0, seed=trial)
        assert torch.equal(together[trial], logits(alone.model, token_ids(2)))
    assert torch.equal(other_order[0], together[2])
    assert torch.equal(other_order[1], together[1])


# ---- dropout ----------------------------------------------------------------------------------------------


def drawn(model: AdaptedModel, tokens: int, step: int = 0, first_token: int = 0) -> None:
    """Let dropout be drawn as for whole batches of so many tokens, at a step of every trial."""
    numbers = torch.arange(first_token, first_token + tokens).repeat(model.stack.size, 1)
    shape = torch.zeros_like(numbers)
    every = torch.arange(tokens).repeat(model.stack.size, 1)
    model.set_dropout_inputs(
        Batch(shape, shape, shape, None, every, shape, numbers), [step] * model.stack.size
    )


def trained(model: AdaptedModel, ids: Tensor, step: int = 0) -> Tensor:
    drawn(model, ids.numel() // model.stack.size, step)
    with model.training():
        result: Tensor = model.model.logits(ids)
    return result


def test_dropout_is_each_trial_s_own_and_the_same_alone(folder: Path) -> None:
    adapters = [lora(2, dropout=0.3), lora(3), lora(4, dropout=0.6)]
    group = adapted(folder, adapters, [5, 6, 7])
    for trial in range(3):
        fill_randomly(group, trial, seed=trial)
    ids = torch.cat([batch_of(trial) for trial in range(3)])
    together, off = trained(group, ids), logits(group.model, ids)
    changed = [not torch.equal(together[2 * k : 2 * k + 2], off[2 * k : 2 * k + 2]) for k in range(3)]
    assert changed == [True, False, True]
    for trial in range(3):
        alone = adapted(folder, [adapters[trial]], [5 + trial])
        fill_randomly(alone, 0, seed=trial)
        torch.testing.assert_close(
            trained(alone, batch_of(trial)), together[2 * trial : 2 * trial + 2], rtol=1e-4, atol=1e-5
        )


def test_dropout_depends_on_seed_and_step_and_on_nothing_else(folder: Path) -> None:
    model = adapted(folder, [lora(2, dropout=0.5)], [5])
    fill_randomly(model, 0)
    first = trained(model, batch_of(0), step=4)
    torch.manual_seed(99)
    assert torch.equal(trained(model, batch_of(0), step=4), first)
    assert not torch.equal(trained(model, batch_of(0), step=5), first)
    other = adapted(folder, [lora(2, dropout=0.5)], [6])
    fill_randomly(other, 0)
    assert not torch.equal(trained(other, batch_of(0), step=4), first)
    with model.training(), model.evaluating():
        assert torch.equal(model.model.logits(batch_of(0)), logits(model.model, batch_of(0)))


def test_dropout_keeps_the_mean(folder: Path) -> None:
    model = adapted(folder, [lora(2, dropout=0.25, targets=["head"])], [5])
    fill_randomly(model, 0)
    with torch.no_grad():
        runs = torch.stack([trained(model, batch_of(0), step=k) for k in range(100)])
    expected = logits(model.model, batch_of(0))
    error = (runs.mean(0) - expected) / (runs.std(0) / 10 + 1e-6)
    assert error.abs().mean() < 1.1  # the mean of |N(0, 1)| is 0.8


@pytest.mark.parametrize("kind", ["gptj", "llama_tied"])
def test_recomputed_activations_drop_the_same(kind: str, tmp_path: Path) -> None:
    gradients = []
    saved(kind, tmp_path)
    for recompute in (False, True):
        base = load(tmp_path).model
        if recompute:
            recompute_blocks(base)
        model = attach(base, [lora(2, dropout=0.4), lora(3, dropout=0.1)], [1, 2])
        for trial in range(2):
            fill_randomly(model, trial)
        ids = torch.cat([batch_of(0), batch_of(1)])
        drawn(model, ids.numel() // 2)
        with model.training():
            loss_of(model.model.logits(ids), ids).backward()
        gradients.append([stack.grad for stack in model.stacks()])
    assert all(torch.equal(kept, made_anew) for kept, made_anew in zip(*gradients, strict=True))
