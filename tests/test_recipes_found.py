"""Where a recipe is found: in the working directory first, then in the installation, whatever the directory is."""

import subprocess
import sys
from pathlib import Path

import pytest

from i3d_jax.run import recipe as configuration
from i3d_jax.system.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
RECIPE = """\
from experiments import base


def get_config():
    config = base.get_config()
    config.batch_size = {}
    return config
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "recipe", ["quickstart", "quickstart.py", "experiments/quickstart", "experiments/quickstart.py"]
)
def test_an_installed_recipe_is_found_from_everywhere(elsewhere, recipe):
    path, found = configuration.find(f"{recipe}:i3d")
    assert path == ROOT / "experiments/quickstart.py"
    assert found == f"{path}:i3d"
    assert configuration.load(f"{recipe}:i3d", []).model.name == "i3d"


@pytest.mark.parametrize("recipe", ["quickstart", "quickstart.py", "experiments/quickstart.py"])
def test_the_working_directory_comes_first(elsewhere, recipe):
    (elsewhere / "experiments/quickstart.py").write_text(RECIPE.format(77))
    assert configuration.load(recipe, []).batch_size == 77
    assert configuration.load("kinetics", []).batch_size == 384


def test_a_recipe_of_ones_own_outside_of_any_folder_of_recipes(elsewhere):
    (elsewhere / "mine.py").write_text(RECIPE.format(78))
    assert configuration.load("mine", []).batch_size == configuration.load("mine.py", []).batch_size == 78


def test_what_is_not_there_lists_the_installed_ones(elsewhere):
    with pytest.raises(
        UserError, match=r"no recipe kinetic \(did you mean 'kinetics'\?\); there are: custom, hmdb51, kinetics, "
    ):
        configuration.find("kinetic")
    with pytest.raises(UserError, match=r"no recipe elsewhere/kinetics\.py"):
        configuration.find("elsewhere/kinetics.py")


def test_recipes_in_a_process_of_its_own_beside_a_package_of_the_same_name(elsewhere):
    """A folder `experiments` of the user's, with other things in it, stands in nobody's way."""
    (elsewhere / "experiments/__init__.py").write_text("")
    program = "from i3d_jax.run import recipe; print(recipe.load('quickstart', []).model.name)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=elsewhere, timeout=120)
    assert done.stdout.split() == ["i3d"], done.stderr


def test_a_number_of_any_length_is_told():
    with pytest.raises(UserError, match=r"^batch_size was expected to be below 2,147,483,648, found 1+\.\.\.1+$"):
        configuration.load("quickstart", [f"--config.batch_size={400 * '1'}"])
