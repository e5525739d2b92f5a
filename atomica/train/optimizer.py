"""What is trained and how fast: frozen modules, rates of modules, the optimiser of both."""

from __future__ import annotations

import torch

from atomica.model.model import Model
from atomica.spec import not_among
from atomica.train.config import TrainConfig

__all__ = ["freeze", "make_optimizer", "module_problems"]


def make_optimizer(model: Model, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that `[train]` asks for, over all parameters that are trained.

    One group of parameters for each learning rate and decay; its `peak` is the rate before the schedule, `module` the
    name it is logged under. The longest name in `train.rates` that a parameter lies within decides.
    """
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    rates = {"": config.learning_rate, **config.rates}
    members: dict[tuple[str, float], list[torch.nn.Parameter]] = {}
    for name, parameter in _trained(model, config).items():
        module = max((module for module in config.rates if _within(name, module)), key=len, default="")
        decay = config.weight_decay if config.decay_all or parameter.ndim > 1 else 0.0
        members.setdefault((module, decay), []).append(parameter)
    groups = [
        {"params": found, "module": module, "peak": rates[module], "lr": rates[module], "weight_decay": decay}
        for (module, decay), found in sorted(members.items(), key=lambda item: item[0])
    ]
    first, second = config.betas
    # One pass over the weights instead of ten: 4 times as fast, also on a CPU.
    return kind(groups, betas=(first, second), eps=config.epsilon, amsgrad=config.amsgrad, fused=True)


def freeze(model: Model, config: TrainConfig) -> None:
    """Training mode for all but the frozen modules, which get no gradients and no dropout."""
    model.train()
    for module in config.freeze:
        model.get_submodule(module).eval().requires_grad_(False)


def module_problems(model: Model, config: TrainConfig) -> list[tuple[str, str]]:
    """What is wrong with `train.freeze` and `train.rates` for this model: pairs of key and message."""
    names = model.module_names()
    problems: list[tuple[str, str]] = []
    for key, modules in (("freeze", config.freeze), ("rates", config.rates)):
        for module in modules:
            if module not in names:
                problems.append((key, f"{module!r} is no module of the model: it {not_among(module, names)}"))
    frozen = {module for module in config.freeze if module in names}
    trained = _trained(model, config)
    if not trained:
        problems.append(("freeze", "leaves nothing to train"))
    for module in config.rates:
        if module in names and trained and not any(_within(name, module) for name in trained):
            cause = "it is frozen" if any(_within(module, one) for one in frozen) else "it is not trained"
            problems.append(("rates", f"{module!r} has no effect: {cause}"))
    return problems


def _trained(model: Model, config: TrainConfig) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not any(_within(name, module) for module in config.freeze)
    }


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")
