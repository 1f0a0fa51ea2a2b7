"""Schedulers are diffusers' own; what the graph cannot run is refused before any step."""

import json
from pathlib import Path

import pytest
import torch
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.scheduler import denoised, make_scheduler, read_scheduler

pytest.importorskip("diffusers")
EULER = {"_class_name": "EulerDiscreteScheduler", "num_train_timesteps": 1000}


def test_a_config_names_a_scheduler(tmp_path: Path) -> None:
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({**EULER, "timestep_spacing": "leading"}))
    made = make_scheduler(read_scheduler(path), 4)
    assert [int(step) for step in made.timesteps] == [750, 500, 250, 0]
    path.write_text("[]")
    with pytest.raises(InputError, match="no config of a scheduler"):
        read_scheduler(path)


@pytest.mark.parametrize(
    ("config", "steps", "message"),
    [
        ({**EULER, "timestep_spacing": "linspace"}, 7, "runs the model at the time 832.5; the graph takes whole ones"),
        ({"_class_name": "NoSuchScheduler"}, 4, "diffusers has no NoSuchScheduler"),
        ({"_class_name": "DDIMScheduler", "num_train_timesteps": 10}, 20, "DDIMScheduler cannot make 20 steps"),
        # Taken by set_timesteps, and wrong in a step.
        ({"_class_name": "PNDMScheduler", "steps_offset": 1}, 1000, "PNDMScheduler cannot make 1000 steps: index 1000"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "x"}, 3, "prediction_type given as x"),
        ({"_class_name": "DDIMScheduler", "num_train_timesteps": -5}, 3, "cannot make 3 steps"),
        ({"_class_name": "DDIMScheduler", "beta_start": float("nan")}, 3, "what they give is not finite"),
        ({"_class_name": "KarrasVeScheduler"}, 3, "KarrasVeScheduler cannot make 3 steps"),
    ],
)
def test_what_cannot_run_is_refused(config: dict[str, object], steps: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_scheduler(config, steps)


def test_a_package_that_a_scheduler_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import schedulers

    class NeedyScheduler:
        @classmethod
        def from_config(cls, config: object) -> None:
            raise ImportError("NeedyScheduler requires\nthe scipy library")

    monkeypatch.setattr(schedulers, "NeedyScheduler", NeedyScheduler, raising=False)
    with pytest.raises(EnvironmentLack, match="requires the scipy library"):
        make_scheduler({"_class_name": "NeedyScheduler"}, 3)


def test_what_was_rehearsed_starts_anew() -> None:
    """Each step is one call of the model, and what is left of the noise follows from what it gives."""
    config, times = {"_class_name": "DDIMScheduler", "steps_offset": 1}, []

    def predict(sample: torch.Tensor, time: int) -> torch.Tensor:
        times.append(time)
        return 0.5 * sample

    noise = torch.arange(8.0).reshape(1, 2, 2, 2)
    first, other = (denoised(make_scheduler(config, 4), noise, [], predict) for _ in range(2))
    assert times == [751, 501, 251, 1] * 2 and torch.equal(first, other)
    assert not torch.equal(first, denoised(make_scheduler(config, 4), noise, [], lambda sample, time: -sample))
