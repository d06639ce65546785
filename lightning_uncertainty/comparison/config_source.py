"""A source that makes the parts of each run from a configuration of LightningCLI."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from lightning_uncertainty._arguments import require
from lightning_uncertainty.comparison.arms import ComparisonError
from lightning_uncertainty.comparison.fingerprint import describe
from lightning_uncertainty.comparison.parts import Parts, lightning_of
from lightning_uncertainty.trainer.packages import callbacks_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

# Of `fit`, without a meaning for a run that starts anew; they stand in the configurations that LightningCLI saves.
_OF_FIT = ("ckpt_path", "weights_only")


class ConfigSource:
    """A source that makes what ``python train.py fit --config config.yaml`` would train.

    The loggers of the configuration are replaced by one that writes CSV files to the folder of each run; progress bars
    and model summaries are left out. For a LightningCLI that was made with classes, ``model`` and ``data`` are their
    import paths. ``overrides`` are more arguments, ``["--trainer.max_epochs=3"]``.
    """

    def __init__(
        self, config: Path, *, model: str | None = None, data: str | None = None, overrides: Sequence[str] = ()
    ) -> None:
        require("compare", "jsonargparse", "yaml")
        self.config, self.overrides = config, list(overrides)
        self._content = _read(config)
        self._model_class = None if model is None else _import("model", model)
        self._data_class = None if data is None else _import("data", data)
        path = _path(self._content.get("model"))
        if self._model_class is None and not (isinstance(path, str) and "." in path):
            raise ComparisonError(
                f"{config} does not say which module to train: it has no `model: {{class_path: my_package.Net}}`. "
                "If your LightningCLI was made with classes, name them: --model my_package.Net --data my_package.Data."
            )
        # A name, since a module could not go to another process.
        self._package: str = lightning_of(self._model_class or _import("model", str(path))).__name__

    def build(self, seed: int, folder: Path, *, rehearsal: bool) -> Parts:
        parts = self._instantiate(seed, folder, rehearsal)
        lightning, callbacks = import_module(self._package), callbacks_of(parts.trainer)
        unwanted = lightning.callbacks.ProgressBar, lightning.callbacks.ModelSummary
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, unwanted)]
        if not rehearsal:
            parts.trainer.loggers = [lightning.loggers.CSVLogger(folder, name="", version="logs")]
        return parts

    def module(self, seed: int) -> LightningModule:
        return self._instantiate(seed, Path("run"), rehearsal=False).module

    def settings(self, *, learned: bool) -> Any:
        content = {key: value for key, value in self._content.items() if key not in ("seed_everything", *_OF_FIT)}
        trainer = dict(content.get("trainer") or {})
        trainer.pop("logger", None)
        if not learned and isinstance(trainer.get("callbacks"), list):
            trainer["callbacks"] = [c for c in trainer["callbacks"] if "UncertaintyCallback" not in str(_path(c))]
        settings = {**content, "trainer": trainer, "overrides": self.overrides}
        return {**describe(settings), "data class": describe(self._data_class)}

    def _instantiate(self, seed: int, folder: Path, rehearsal: bool) -> Parts:
        import jsonargparse

        cli_module = import_module(f"{self._package}.cli")

        class CLI(cli_module.LightningCLI):  # type: ignore[misc, name-defined]  # one of two packages
            def add_arguments_to_parser(self, parser: Any) -> None:
                for name in _OF_FIT:
                    parser.add_argument(f"--{name}", default=None)

        arguments = ["--config", str(self.config), *self.overrides]
        arguments += [f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}"]
        arguments += ["--trainer.fast_dev_run=1"] if rehearsal else []
        options = {"save_config_callback": None, "run": False, "parser_kwargs": {"exit_on_error": False}}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # it sees those of our command
            try:
                cli = CLI(self._model_class, self._data_class, args=arguments, **options)
            except (argparse.ArgumentError, jsonargparse.ArgumentError) as error:
                raise ComparisonError(f"{self.config} cannot be used: {error}") from error
        return Parts(cli.model, cli.trainer, cli.datamodule)


def _read(config: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ComparisonError(f"{config} is no YAML file: {error}") from error
    if not isinstance(content, dict):
        wrong = "has no settings: expected `trainer:`, `model:` and `data:`"
    elif isinstance(content.get("fit"), Mapping):
        wrong = "has its settings under `fit:`, for `--config` before the subcommand. Move them to the top level"
    elif content.get("ckpt_path"):
        wrong = "has a `ckpt_path`, and each run is to start anew. Remove it"
    else:
        return content
    raise ComparisonError(f"{config} {wrong}.")


def _path(section: Any) -> Any:
    return section.get("class_path") if isinstance(section, Mapping) else section


def _import(what: str, path: str) -> type:
    try:
        found: type = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ComparisonError(f"The class of the {what}, {path!r}, cannot be imported: {error}") from error
    return found
