"""The scheduler of a text-to-image model: diffusers' own, made from the scheduler_config.json beside its weights."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data import read_json
from .errors import EnvironmentLack, InputError
from .packages import needing

if TYPE_CHECKING:
    from torch import Generator, Tensor

_LARGEST = 1 << 20


def read_scheduler(path: Path) -> dict[str, Any]:
    """The config of a scheduler. InputError where the file is missing, no JSON object, or names no scheduler."""
    if path.is_file() and path.stat().st_size > _LARGEST:
        raise InputError(f"{path} is larger than {_LARGEST >> 20} MiB: that is no scheduler's config.")
    config = read_json(path)
    name = config.get("_class_name") if isinstance(config, dict) else None
    if not isinstance(name, str) or not name.endswith("Scheduler") or not name.isidentifier():
        raise InputError(f"{path} is no config of a scheduler of diffusers: its _class_name is {name!r}.")
    return dict(config)


def require_schedulers() -> None:
    """Raise MissingPackage where diffusers, or what its schedulers need, is not installed."""
    _schedulers()


def make_scheduler(config: Mapping[str, Any], steps: int) -> Any:
    """A new scheduler, set to `steps` steps. Its state belongs to one run. InputError for a class that diffusers does
    not have or that is not for images of texts, steps that it cannot make, and time steps that are no whole numbers,
    which the U-Net's graph takes; EnvironmentLack for a package that it needs."""
    name, schedulers = config["_class_name"], _schedulers()
    kind = getattr(schedulers, name, None)
    if not isinstance(kind, type) or not hasattr(kind, "from_config"):
        raise InputError(f"diffusers has no {name} among its schedulers: install the version that the model asks for.")
    try:
        scheduler = _set(kind, config, steps)
    except ImportError as error:
        raise EnvironmentLack(" ".join(str(error).split())) from error
    except Exception as error:
        raise _cannot(name, steps, error) from error
    if broken := [float(step) for step in scheduler.timesteps if float(step) != int(step)]:
        raise InputError(
            f"{name} runs the model at the time {broken[0]:g}; the graph takes whole ones. Export with another "
            '"timestep_spacing" in scheduler_config.json, such as "leading" or "trailing", or another scheduler.'
        )
    _rehearse(scheduler, name, steps)
    return _set(kind, config, steps)


def denoised(
    scheduler: Any, noise: "Tensor", generators: "Sequence[Generator]", predict: "Callable[[Tensor, int], Tensor]"
) -> "Tensor":
    """What all steps of a new scheduler leave of noise [B,C,H,W]; predict gives the model's output for what a step
    asks it, and the time. generators, one for each row, are for schedulers that draw."""
    extra = {"generator": [*generators]} if "generator" in inspect.signature(scheduler.step).parameters else {}
    latents = noise * scheduler.init_noise_sigma
    for step in scheduler.timesteps:
        found = predict(scheduler.scale_model_input(latents, step), int(step))
        latents = scheduler.step(found, step, latents, **extra, return_dict=False)[0]
    return latents


def _set(kind: Any, config: Mapping[str, Any], steps: int) -> Any:
    scheduler = kind.from_config(dict(config))
    scheduler.set_timesteps(steps)
    return scheduler


def _rehearse(scheduler: Any, name: str, steps: int) -> None:
    """All steps on a single number: what fails in one of them does before the model has worked for minutes."""
    import torch

    try:
        left = denoised(scheduler, torch.ones(1, 1, 1, 1), [torch.Generator("cpu")], lambda sample, time: sample)
    # Whatever diffusers raises: the config decides what its code does.
    except Exception as error:
        raise _cannot(name, steps, error) from error
    if not left.isfinite().all():
        raise _cannot(name, steps, "what they give is not finite")


def _cannot(name: str, steps: int, reason: object) -> InputError:
    return InputError(
        f"{name} cannot make {steps} steps: {reason}. Ask for another number, or export with another "
        "scheduler_config.json."
    )


def _schedulers() -> Any:
    with needing("diffusion"):
        import torch  # noqa: F401
        from diffusers import schedulers
    return schedulers
