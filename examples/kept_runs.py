"""The runs of an experiment. Each is saved in its own file as soon as it ends: the same command then continues."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path


class KeptRuns:
    """The runs in the folder `runs` of an output folder, all made with the same settings.

    The settings named in `choice` only choose which runs to make. They may change from one command to the next.
    """

    def __init__(self, output: Path, config, choice: set[str]):
        self.folder = output / "runs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = json.loads(json.dumps(asdict(config), default=str))
        self.choice = choice

    def record(self, name: str, title: str, measure: Callable[[], dict]) -> dict:
        """The results of a run: read from its file or, if there is none, measured now and written to the file."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            print(title, flush=True)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps({**measure(), "config": self.config}, indent=1))
            partial.replace(path)
        record = json.loads(path.read_text())
        made_with = record["config"]
        if changed := [key for key in self.config.keys() - self.choice if self.config[key] != made_with.get(key)]:
            raise SystemExit(f"{path} was made with other settings ({', '.join(changed)}): choose another --output")
        return record
