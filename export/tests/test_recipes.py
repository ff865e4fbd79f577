"""The recipes call the package with options that it has, and do not redo what is there."""

import argparse
import importlib
import os
import subprocess
from pathlib import Path

import pytest

from maskgit_export.cli import COMMANDS

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
PROGRAMS = sorted(file.name for file in RECIPES.glob("*.sh") if file.read_text().startswith("#!"))
#: Notes its arguments, a call a line.
STAND_IN = """#!/bin/sh
for word in "$@"; do printf '%s\\t' "$word"; done >> "$STAND_IN_LOG"
echo >> "$STAND_IN_LOG"
"""


def calls(recipe, folder, **variables):
    """What the recipe would run: a list of words for each call of Python or torchrun."""
    for name in ("python", "torchrun", "maskgit"):
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(STAND_IN)
        (folder / "bin" / name).chmod(0o755)
    log = folder / "log"
    log.write_text("")
    known = {"MASKGIT_CACHE": f"{folder}/cache", "VENV_PYTHON": f"{folder}/bin/python", "STAND_IN_LOG": str(log)}
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = kept | known | {"MASKGIT": f"{folder}/bin/maskgit"} | variables
    subprocess.run([RECIPES / recipe], check=True, env=environment)
    return [line.rstrip("\t").split("\t") for line in log.read_text().splitlines()]


def test_there_are_recipes():
    assert {"avatars-64.sh", "avatars-128.sh", "evaluate-edit.sh", "ablate.sh", "published.sh"} <= set(PROGRAMS)


@pytest.mark.parametrize("recipe", PROGRAMS)
def test_every_option_is_one_of_the_package(recipe, tmp_path):
    found = calls(recipe, tmp_path)
    ours = [call[call.index("maskgit_export") + 1 :] for call in found if "maskgit_export" in call]
    assert found and all(call[0] in COMMANDS for call in ours)
    for name, *options in ours:
        module = importlib.import_module(f"maskgit_export.{COMMANDS[name]}")
        parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
        module.add_arguments(parser)
        _, unknown = parser.parse_known_args(options)
        assert not unknown, (name, options)


def test_a_recipe_goes_on_where_it_was(tmp_path):
    (tmp_path / "cache" / "avatars-128").mkdir(parents=True)
    every = [call for call in calls("avatars-128-train.sh", tmp_path) if "maskgit_export" in call]
    outputs = [Path(call[-1]).name for call in every]
    assert outputs[0] == "data" and outputs[-1] == "mvtm.pt" and len(set(outputs)) == len(outputs) == 16
    # A stage counts as finished where the file of the next is there; the last always goes on.
    for name in ("data/classes.json", "perceptual.pt", "tokenizer-2.pt", "tokenizer-3.pt", "tokenizer.pt", "mvtm-1.pt"):
        (tmp_path / "cache" / "avatars-128" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "cache" / "avatars-128" / name).write_text("")
    left = [Path(call[-1]).name for call in calls("avatars-128-train.sh", tmp_path) if "maskgit_export" in call]
    assert left == outputs[outputs.index("mvtm-1.pt") :]


def test_variables_change_what_a_recipe_does(tmp_path):
    changes = {
        "START_128": "",
        "WITHOUT_128": "",
        "IMAGES_128": "7",
        "TRAIN_128": f"{tmp_path}/bin/python -m maskgit_export",
    }
    found = calls("avatars-128-train.sh", tmp_path, WORK_128=f"{tmp_path}/here", **changes)
    training = [call for call in found if "train-mvtm" in call]
    assert Path(training[0][-1]).name == "mvtm-3.pt", "nothing grows"
    assert "7" in training[0] and "--start" not in training[0] and f"{tmp_path}/here/data" in training[0]
    assert not any("croodles" in call or any("torchrun" in word for word in call) for call in found)


def test_a_program_that_is_not_built_is_asked_for(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        calls("ablate.sh", tmp_path, MASKGIT=f"{tmp_path}/none")
