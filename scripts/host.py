"""Install, link and start a ComfyUI for this node pack, with nothing but Python and pip.

usage: python3 scripts/host.py VERB [arguments passed on]

  install          install ComfyUI 0.30.0 and what it needs (once, about 6 GB), link this pack
  demo             run scripts/demo.py: the whole method on the pocket model
  ui [ARGS]        start ComfyUI with its web page; ARGS go to ComfyUI; Ctrl-C stops it
  test [ARGS]      run the tests; ARGS go to pytest
  lint             check style and formatting of the code with ruff; changes nothing
  check            run scripts/check.py: what others' tools find in the pack as it is published
  bench [NAME ..]  run benchmarks/NAME.py; without a name, list them
  evaluate ARGS    run scripts/evaluate.py: measure on your own checkpoint and pictures
  dataset SPEC ..  make a data set of rare classes (docs/datasets.md)
  coverage [ARGS]  run tests/gradients/run.py: what the gradient is exact for, into docs/coverage.md
  hosts FOLDER ..  run scripts/host_matrix.py: which of these ComfyUI versions the pack runs in

Every verb but hosts installs first what is missing or broken; when nothing is, that takes under a
second.

environment
  COMFYUI_DIR        use this ComfyUI and its own Python; nothing is installed into it
                     (evaluate, dataset: by default the one that has this pack in its custom_nodes)
  SEEDSELECT_PYTHON  the Python of that ComfyUI, when it is not beside it
  SEEDSELECT_CACHE   where the installation goes (default: the user's cache folder)
  CHROMIUM           the browser for the tests (default: the first one found)

Python 3.11 or 3.12 on Linux, macOS or Windows. Standard library only: this file runs before
anything is installed, also inside the host's own Python (`import host`, for `server`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from host_install import (
    WINDOWS,
    Host,
    HostError,
    cache_folder,
    existing_host,
    find_host,
    is_comfyui,
    require_modules,
)

REPO = Path(__file__).resolve().parent.parent
PACK = "ComfyUI-SeedSelect"
BROWSERS = (
    "chromium chromium-browser google-chrome google-chrome-stable chrome microsoft-edge msedge"
).split()
BROWSER_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
    r"%ProgramFiles(x86)%\Google\Chrome\Application\chrome.exe",
    r"%LocalAppData%\Google\Chrome\Application\chrome.exe",
    r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe",
)
BROWSER_HELP = (
    "No Chromium-like browser was found, and the tests open the workflows in one. Install Chromium,"
    " Chrome or Edge (Debian, Ubuntu: apt install chromium), or set CHROMIUM to its program file."
)


# Runs main.py, and ends it within a second of the death of the process that started it, however
# that died, so that no ComfyUI is left behind. (Windows gives an orphan no new parent: no effect.)
LAUNCHER = """
import os, runpy, sys, threading, time
parent, sys.argv = int(sys.argv[1]), sys.argv[2:]
def watch():
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
if os.name != "nt":
    threading.Thread(target=watch, daemon=True).start()
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Server:
    """A running ComfyUI. `base_directory` holds its input, output, models and user folders."""

    url: str
    port: int
    base_directory: Path
    process: subprocess.Popen
    log_path: Path


# ---------------------------------------------------------------- the pack inside the host


def link_pack(custom_nodes: Path, repo: Path = REPO) -> Path:
    """Make `repo` a node pack of the host whose custom_nodes folder this is; returns its entry.

    A link to another checkout is replaced. A real folder of the pack's name is not ours to remove:
    HostError.
    """
    for entry in custom_nodes.iterdir():
        if entry.exists() and os.path.samefile(entry, repo):
            return entry
    link = custom_nodes / PACK
    if not is_link(link) and os.path.lexists(link):
        raise HostError(
            f"{link} is a folder of its own, not a link to this checkout ({repo}). Move it out of "
            "custom_nodes (or run this script from inside it), and try again."
        )
    if WINDOWS:
        import _winapi

        if is_link(link):
            os.unlink(link)
        _winapi.CreateJunction(str(repo), str(link))
    else:
        # Made beside and renamed over, so that no other process finds it missing.
        fresh = custom_nodes.parent / f"link-{os.getpid()}"
        os.symlink(repo, fresh, target_is_directory=True)
        os.replace(fresh, link)
    return link


def is_link(path: Path) -> bool:
    """Whether a path is a symbolic link or a Windows junction, also one that leads nowhere."""
    try:
        os.readlink(path)
    except OSError:
        return False
    return True


def prepare_base(base: Path, pack: Path = REPO) -> Path:
    """Make a base directory in which ComfyUI finds this pack, or a copy of it, and no other."""
    for name in ("custom_nodes", "input", "models", "output", "temp", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link_pack(base / "custom_nodes", pack)
    return base


def checkout_base() -> Path:
    """This checkout's own base directory, so that checkouts that share a cache do not mix."""
    name = hashlib.sha256(str(REPO).encode()).hexdigest()[:12]
    return cache_folder() / "bases" / name


# ---------------------------------------------------------------- starting and stopping it


def device_arguments(host: Host, arguments: Sequence[str]) -> list[str]:
    """["--cpu"] if PyTorch sees no GPU and the arguments choose no device, else []."""
    if any(argument in arguments for argument in ("--cpu", "--directml")):
        return []
    code = (
        "import sys, torch; xpu = getattr(torch, 'xpu', None); sys.exit(not (torch.cuda."
        "is_available() or torch.backends.mps.is_available() or (xpu and xpu.is_available())))"
    )
    return ["--cpu"] if subprocess.run([str(host.python), "-c", code]).returncode else []


def free_port(wanted: int = 0) -> int:
    """`wanted` if nothing listens there on the loopback address, else any free port."""
    with socket.socket() as probe:
        if not WINDOWS:
            # As servers do there: connections that are only winding down do not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return free_port()
        return probe.getsockname()[1]


def _start(host: Host, arguments: Sequence[str], **options) -> subprocess.Popen:
    command = [str(host.python), "-u", "-c", LAUNCHER, str(os.getpid())]
    command += [str(host.comfyui / "main.py"), *arguments]
    return subprocess.Popen(command, cwd=host.comfyui, **options)


def _stop(process: subprocess.Popen) -> None:
    for end in (process.terminate, process.kill):
        if process.poll() is None:
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)


@contextlib.contextmanager
def server(
    extra_args: Sequence[str] = (),
    port: int | None = None,
    quiet_log_path: Path | str | None = None,
    base_directory: Path | str | None = None,
    host: Host | None = None,
    timeout: float = 300,
    pack: Path = REPO,
) -> Iterator[Server]:
    """A headless ComfyUI with this pack on a loopback port; stopped when the block is left.

    Args:
        extra_args: more arguments for ComfyUI; without a device among them it is chosen here.
        port: TCP port, by default a free one.
        quiet_log_path: where its output goes, by default a file in the base directory.
        base_directory: its input, output, models and user folders, made where missing; by default
            this checkout's own. Servers that run at the same time should each have one.
        host: what to start, by default what `find_host` finds or installs.
        timeout: seconds in which it must answer.
        pack: the folder of the pack, by default this checkout.

    Raises:
        HostError: it ended or did not answer in time; the end of its log is in the message.
    """
    host = host or find_host()
    port = port or free_port()
    base = prepare_base(Path(base_directory or checkout_base()).absolute(), pack)
    log_path = Path(quiet_log_path or base / f"server-{port}.log").absolute()
    arguments = ["--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    # Neither a file nor a folder that another running server would lock or empty.
    arguments += ["--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
    arguments += ["--disable-api-nodes", *device_arguments(host, extra_args), *extra_args]
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(tempfile.TemporaryDirectory(prefix="seedselect-"))
        log = stack.enter_context(open(log_path, "wb"))
        process = _start(
            host,
            [*arguments, "--temp-directory", work],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(_stop, process)
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url, log_path, timeout)
        yield Server(url, port, base, process, log_path)


def _wait_until_ready(process: subprocess.Popen, url: str, log: Path, timeout: float) -> None:
    # A proxy of the environment must not see requests to this very machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < end:
        try:
            opener.open(url + "/system_stats", timeout=10).close()
            return
        except (OSError, urllib.error.URLError):
            time.sleep(0.25)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
    reason = "did not start" if process.poll() is not None else f"gave no answer in {timeout:.0f} s"
    raise HostError(f"ComfyUI {reason}. The end of its log ({log}):\n{tail}")


# ---------------------------------------------------------------- the browser of the tests


def find_browser() -> str | None:
    """Program file of a Chromium-like browser: CHROMIUM, PATH, the usual places; or None."""
    if os.environ.get("CHROMIUM"):
        return os.environ["CHROMIUM"]
    on_path = (shutil.which(name) for name in BROWSERS)
    places = (os.path.expandvars(place) for place in BROWSER_PLACES)
    return next((path for path in (*on_path, *places) if path and os.path.isfile(path)), None)


def ensure_browser(host: Host) -> str | None:
    """Like `find_browser`, but where there is none, get one by the means at hand; or None."""
    browser = find_browser()
    if browser or not host.managed:
        return browser
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        print("Installing Chromium, in which the tests open the workflows.", flush=True)
        subprocess.call(["apt-get", "update", "-q"])
        apt = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"]
        subprocess.call(apt, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        return find_browser()
    subprocess.call([str(host.python), "-m", "playwright", "install", "chromium"])
    code = (
        "from playwright.sync_api import sync_playwright as start\n"
        "with start() as p: print(p.chromium.executable_path)"
    )
    done = subprocess.run([str(host.python), "-c", code], capture_output=True, text=True)
    path = done.stdout.strip()
    return path if os.path.isfile(path) else None


# ---------------------------------------------------------------- verbs


def _run(host: Host, *command: str, cwd: Path = REPO, **extra_environment: str) -> int:
    """Run the host's Python and return its exit code; Ctrl-C goes to it too."""
    environment = {**host.environment(), **extra_environment}
    return _wait(subprocess.Popen([str(host.python), *command], cwd=cwd, env=environment))


def _wait(process: subprocess.Popen) -> int:
    """Exit code of a process that shares this terminal, as a shell would give it."""
    try:
        code = process.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        code = 130
    finally:
        _stop(process)
    return code if code >= 0 else 128 - code


def install(arguments: Sequence[str]) -> int:
    """Install what is missing, link the pack, and say where it is."""
    host = find_host()
    if host.managed:
        entry = prepare_base(checkout_base()) / "custom_nodes" / PACK
    else:
        entry = link_pack(host.comfyui / "custom_nodes")
    print(f"ComfyUI: {host.comfyui}\nPython:  {host.python}\nPack:    {entry}")
    return 0


def ui(arguments: Sequence[str]) -> int:
    """Start ComfyUI with its web page, in the foreground."""
    host = find_host()
    require_modules(
        host.python,
        ["comfyui_frontend_package"],
        f'"{host.python}" -m pip install -r "{host.comfyui / "requirements.txt"}"',
    )
    options = list(arguments)
    if "--port" not in options:
        options += ["--port", str(free_port(8188))]
    if host.managed:
        base = prepare_base(checkout_base())
        database = f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"
        options += ["--base-directory", str(base), "--database-url", database]
    else:
        link_pack(host.comfyui / "custom_nodes")
    options += device_arguments(host, options)
    port = options[options.index("--port") + 1]
    print(f"ComfyUI opens at http://127.0.0.1:{port} in a moment. Ctrl-C stops it.", flush=True)
    return _wait(_start(host, options))


def demo(arguments: Sequence[str]) -> int:
    """Run the demo, which starts and stops its own server."""
    script = str(REPO / "scripts" / "demo.py")
    return _run(find_host(), script, *arguments, cwd=Path.cwd())  # --output is the caller's


def test(arguments: Sequence[str]) -> int:
    """Run the tests under the host's Python, a file on each core; `-n 0`: one after the other."""
    host = find_host()
    needed = {"pytest": "pytest", "xdist": "pytest-xdist"}
    needed |= {"playwright": "playwright", "hypothesis": "hypothesis"}
    names = " ".join(needed.values())
    require_modules(host.python, list(needed), f'"{host.python}" -m pip install {names}')
    browser = ensure_browser(host)
    if browser is None:
        print(BROWSER_HELP, file=sys.stderr, flush=True)
    found = {"CHROMIUM": browser} if browser else {}
    # Processes whose threads wait for one another on the same cores are slow beyond reason.
    found["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    side_by_side = ["-n", "logical", "--maxprocesses", "4", "--dist", "loadfile"]
    return _run(host, "-m", "pytest", *side_by_side, *arguments, **found)


def lint(arguments: Sequence[str]) -> int:
    """Check style and formatting."""
    host = find_host()
    require_modules(host.python, ["ruff"], f'"{host.python}" -m pip install ruff')
    style = _run(host, "-m", "ruff", "check", ".")
    return _run(host, "-m", "ruff", "format", "--check", ".") or style


def check(arguments: Sequence[str]) -> int:
    """Run others' tools on the pack as it is published."""
    return _run(find_host(), str(REPO / "scripts" / "check.py"))


def bench(arguments: Sequence[str]) -> int:
    """Run one benchmark by name, or list them."""
    scripts = {path.stem: path for path in sorted((REPO / "benchmarks").glob("[!_]*.py"))}
    if not arguments:
        print("Benchmarks:", *scripts, sep="\n  ")
        return 0
    name = Path(arguments[0]).stem
    if name not in scripts:
        raise HostError(f"There is no benchmark {name!r}; there are: {', '.join(scripts)}.")
    return _run(find_host(), str(scripts[name]), *arguments[1:])


def _host_with_models() -> Host:
    """The ComfyUI that this pack lies in, if it does: it has models, ours has none."""
    around = REPO.parent.parent
    inside = REPO.parent.name == "custom_nodes" and is_comfyui(around)
    own = inside and not os.environ.get("COMFYUI_DIR")
    return existing_host(around) if own else find_host()


def evaluate(arguments: Sequence[str]) -> int:
    """Measure SeedSelect on one's own checkpoint and folders of pictures."""
    script = str(REPO / "scripts" / "evaluate.py")
    # Relative paths are the caller's.
    return _run(_host_with_models(), script, *arguments, cwd=Path.cwd())


def dataset(arguments: Sequence[str]) -> int:
    """Make a data set of rare classes."""
    program = ("-m", "seedselect_core.datasets", "dataset")
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    return _run(_host_with_models(), *program, *arguments, cwd=Path.cwd(), PYTHONPATH=path)


def coverage(arguments: Sequence[str]) -> int:
    """Measure what the gradient is exact for, and write docs/coverage.md."""
    return _run(find_host(), str(REPO / "tests" / "gradients" / "run.py"), *arguments)


def hosts(arguments: Sequence[str]) -> int:
    """Try the pack in other versions of ComfyUI, and write docs/hosts.md."""
    script = str(REPO / "scripts" / "host_matrix.py")
    # Each of them brings its own Python; this one only looks on.
    return _wait(subprocess.Popen([sys.executable, script, *arguments]))


_ALL = (install, demo, ui, test, lint, check, bench, evaluate, dataset, coverage, hosts)
VERBS = {verb.__name__: verb for verb in _ALL}


def main(arguments: Sequence[str]) -> int:
    """Run one verb and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if arguments else 2
    if arguments[0] not in VERBS:
        print(f"host.py: no verb {arguments[0]!r}; there are: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    try:
        return VERBS[arguments[0]](arguments[1:])
    except HostError as error:
        print(f"host.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
