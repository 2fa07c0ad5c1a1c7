"""Puts the host's real classes in reach of every test: on the CPU, with folders of their own."""

import importlib
import os
import sys
import tempfile
import types
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
HOST = Path(os.environ.get("COMFYUI_DIR", ""))
if not (HOST / "comfy" / "options.py").is_file():
    raise pytest.UsageError(
        "The tests run against a real ComfyUI. Start them with `make test` (or `python3 "
        "scripts/host.py test`), or set COMFYUI_DIR to the folder with ComfyUI's main.py."
    )

# The host first: its nodes.py must win over the nodes/ folder of this repository.
sys.path.insert(0, str(HOST))
sys.path += [str(REPO), str(REPO / "scripts"), str(REPO / "tests")]

# Without enable_args_parsing() the host takes its defaults and leaves pytest's arguments alone.
from comfy.cli_args import args  # noqa: E402

_base = tempfile.TemporaryDirectory(prefix="seedselect-tests-", ignore_cleanup_errors=True)
for name in ("custom_nodes", "input", "models", "output", "temp", "user"):
    Path(_base.name, name).mkdir()
args.base_directory = _base.name
args.cpu = True
args.deterministic = True
args.disable_api_nodes = True

import torch  # noqa: E402

torch.set_num_threads(2)


class _RootIsNoPackage:
    """Keeps pytest from importing the repository's __init__.py, which is for ComfyUI to load."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path, parent):
        return pytest.Dir.from_parent(parent, path=path) if path == REPO else None


def pytest_addoption(parser):
    parser.addoption(
        "--write-schemas",
        action="store_true",
        help="write tests/data/schemas.json anew, for what saved graphs depend on",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "doubts: what nobody has proven is checked, as for users")
    config.pluginmanager.register(_RootIsNoPackage())


@pytest.fixture(autouse=True)
def nothing_is_doubted(request, monkeypatch):
    """No gradient check before a search, but in tests that are marked ``doubts``.

    The small models of the tests are of no family that is proven, and the host may be any version.
    """
    search = sys.modules.get("seedselect_core.search.optimize")
    if search is not None and "doubts" not in request.keywords:
        monkeypatch.setattr(search, "doubts", lambda denoising: [])


@pytest.fixture(scope="session")
def tracked() -> set[str]:
    """The files that git tracks. What asks for them is skipped where there is no checkout."""
    import archive

    try:
        return archive.tracked()
    except archive.NoCheckout as reason:
        pytest.skip(f"not a checkout of git: {reason}")


@pytest.fixture(scope="session")
def random_hands(tmp_path_factory):
    """Where a hands' toy model lies that has learned nothing."""
    from random_hands import write_random_hands

    return write_random_hands(tmp_path_factory.mktemp("hands"))


@pytest.fixture
def nodes(monkeypatch):
    """Imports a module of nodes/ by name, out of the pack as a package, as the host does."""
    pack = types.ModuleType("seedselect_pack_under_test")
    pack.__path__ = [str(REPO)]
    monkeypatch.setitem(sys.modules, pack.__name__, pack)
    yield lambda name: importlib.import_module(f"{pack.__name__}.nodes.{name}")
    for name in [n for n in sys.modules if n.startswith(f"{pack.__name__}.")]:
        del sys.modules[name]


@pytest.fixture
def connected(nodes):
    """Makes a node's required inputs: at their defaults, or with something of the socket's type.

    An image encoder too, since no file of one is there.
    """
    import comfy.samplers
    from comfy_api.latest import io

    import tiny

    def make(node, **given) -> dict:
        of_type = {
            "MODEL": tiny.model,
            "CONDITIONING": lambda: tiny.conditioning(1),
            "LATENT": tiny.latent,
            "VAE": tiny.vae,
            "CLIP_VISION,IMAGE_ENCODER": tiny.clip_vision,
            "REFERENCE_SET": tiny.references,
            "SIGMAS": lambda: torch.tensor([1.0, 0.0]),
            "NOISE": lambda: types.SimpleNamespace(seed=5, generate_noise=None),
            "GUIDER": lambda: comfy.samplers.CFGGuider(tiny.model()),
            "SAMPLER": lambda: comfy.samplers.sampler_object("euler"),
            "IMAGE": lambda: torch.rand(4, 16, 16, 3),
        }
        inputs = dict(given)
        for socket in node.GET_SCHEMA().inputs:
            asked = socket.id == "clip_vision" or not socket.optional
            if asked and socket.id not in inputs:
                if isinstance(socket, io.DynamicCombo.Input):
                    inputs[socket.id] = {socket.id: socket.options[0].key}
                elif socket.get_io_type() in of_type:
                    inputs[socket.id] = of_type[socket.get_io_type()]()
                else:
                    inputs[socket.id] = socket.default
        return inputs

    return make
